"""The measures of the probes on tables made by hand, the files that users give, and the files that are shipped."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from probe import PROBES
from snaketune.job import StageError
from snaketune.scoring import bootstrap, probes
from snaketune.scoring.probe_files import read_bias, read_general

SHIPPED = Path(__file__).parent.parent / "resources/probes"
AXES = {
    "colour": {"groups": ["red", "blue"], "mask": ["ruby"], "control": False},
    "size": {"groups": ["small", "large", "middling"], "mask": [], "control": False},
}
TERMS = {("colour", "red"): ["red", "scarlet"], ("colour", "blue"): ["blue"]}
TERMS |= {("size", group): [group] for group in AXES["size"]["groups"]}


def table(likelihood=(), generation=(), general=(), **about):
    """A table of probes. likelihood: (item, axis, group, term, nll, tokens); generation: (..., term, output);
    general: (item, nll, tokens, bytes)."""
    rows = [
        {"kind": "general", "item": item, "nll": nll, "n_tokens": tokens, "n_bytes": size, "text": item}
        for item, nll, tokens, size in general
    ]
    rows += [
        {"kind": "likelihood", "item": item, "axis": axis, "group": group, "term": term, "nll": nll, "n_tokens": tokens}
        for item, axis, group, term, nll, tokens in likelihood
    ]
    rows += [
        {"kind": "generation", "item": item, "axis": axis, "group": group, "term": term, "output": output}
        for item, axis, group, term, output in generation
    ]
    file = {"file": "mine.yaml", "sha256": "ab" * 32}
    bias = file | {"templates": 2, "prompts": 1, "terms": 6, "new_tokens": 24, "axes": AXES}
    stamp = {"general": file | {"passages": len(general)} if general else None}
    stamp["bias"] = bias if likelihood or generation else None
    made = pa.Table.from_pylist(rows, schema=PROBES)
    return made.replace_schema_metadata({"probes": json.dumps(stamp | about)})


def costs(item, red, scarlet, blue, sizes=(1.0, 1.0, 1.0), tokens=2):
    """Lines of a template: nats per token of each term."""
    values = [red, scarlet, blue, *sizes]
    names = [(*key, term) for key, terms in TERMS.items() for term in terms]
    return [(item, *name, value * tokens, tokens) for name, value in zip(names, values, strict=True)]


def outputs(item, *texts):
    """Lines of a prompt: the output of each term."""
    names = [(*key, term) for key, terms in TERMS.items() for term in terms]
    return [(item, *name, text) for name, text in zip(names, texts, strict=True)]


def compared(measure, base, tuned):
    return bootstrap.compared(measure, base, tuned, resamples=200, seed=1)


def scores(base, tuned=None):
    """metric -> entry of all measures."""
    tuned = base if tuned is None else tuned
    return {name: entry for section in probes.sections(base, tuned) for name, entry in compared(*section).items()}


def test_general_text_is_summed_before_it_is_divided():
    base = table(general=[("a", 6.0, 2, 10), ("b", 4.0, 8, 30)])
    tuned = table(general=[("a", 8.0, 2, 10), ("b", 4.0, 8, 30)])
    found = scores(base, tuned)
    assert found["general_perplexity"]["base"] == pytest.approx(np.exp(1.0))
    assert found["general_perplexity"]["tuned"] == pytest.approx(np.exp(1.2))
    assert found["general_bits_per_byte"]["base"] == pytest.approx(10 / 40 / np.log(2))
    assert [found["general_perplexity"][key] for key in ("n", "wins", "ties", "losses")] == [2, 0, 1, 1]


def test_the_gap_is_the_mean_of_pairs_of_terms_of_different_groups_then_of_templates_and_axes():
    first = costs("one", red=1.0, scarlet=2.0, blue=4.0, sizes=(1.0, 2.0, 4.0))
    second = costs("two", red=0.5, scarlet=0.5, blue=0.5, sizes=(3.0, 3.0, 3.6), tokens=5)
    found = scores(table(first + second))["bias_likelihood_gap"]
    # Of `one`: |1 - 4| and |2 - 4|, but not red and scarlet, which speak of the same; sizes 1, 2 and 3. Of `two`:
    # nothing, and 0, 0.6, 0.6.
    assert found["base"] == pytest.approx((2.5 + 2.0 + 0.0 + 0.4) / 4)
    assert found["n"] == 4
    assert found["higher_is_better"] is False


def test_the_templates_are_what_is_resampled():
    """With two templates of gaps 1 and 3, half of all draws have both, and a quarter has one of them twice."""
    tables = table(costs("one", 1.0, 1.0, 2.0, (0.0, 0.75, 1.5)) + costs("two", 0.0, 0.0, 3.0, (0.0, 2.25, 4.5)))
    ((measure, base, tuned),) = probes.sections(tables, tables)
    assert base["family"].to_pylist() == ["one", "one", "two", "two"]
    assert measure.row_scores({name: base[name].to_numpy() for name in measure.METRICS}).keys() == set(measure.METRICS)
    assert compared(measure, base, tuned)["bias_likelihood_gap"]["base_ci95"] == pytest.approx([1.0, 3.0])


def test_a_symmetric_model_has_no_gap_and_its_outputs_no_difference():
    rows = [*costs("one", 1.5, 1.5, 1.5), *costs("two", 0.25, 0.25, 0.25)]
    found = scores(table(rows, outputs("where", *["in the house"] * 6)))
    assert found["bias_likelihood_gap"]["base"] == 0
    assert found["bias_output_difference"]["base"] == 0


def test_outputs_that_differ_in_the_masked_words_alone_are_equal():
    colours = ["The RED one is ruby.", "the scarlet one is blue", "The Blue one is  red!"]
    found = scores(table(generation=outputs("where", *colours, "small", "large", "middling")))
    assert found["bias_output_difference"]["base"] == 0


def test_words_are_masked_as_a_whole_and_for_their_own_axis():
    texts = ["a coloured day", "a redder day", "a bluish day", "a red day", "a red day", "a blue day"]
    section = probes.bias(*[table(generation=outputs("where", *texts))] * 2, compared)
    assert section["colour"]["output_difference"]["base"] == pytest.approx(100 / 3)
    assert section["size"]["output_difference"]["base"] == pytest.approx(200 / 9)


def test_the_difference_of_outputs_is_that_of_their_bags_of_words():
    # 2 of 4 words against 2 of 3: F1 = 4/7; an empty output is equal to another, and has nothing in common with `x`.
    texts = ["the the cat sat", "the the cat sat", "the cat ran", "", "", "x"]
    section = probes.bias(*[table(generation=outputs("where", *texts))] * 2, compared)
    assert section["colour"]["output_difference"]["base"] == pytest.approx(100 * 3 / 7)
    assert section["size"]["output_difference"]["base"] == pytest.approx(200 / 3)
    assert section["colour"]["gap"] is None
    assert section["colour"]["groups"] == {}


def test_a_group_deviates_from_the_mean_of_the_groups_of_its_axis():
    base = table(costs("one", 1.0, 2.0, 4.5) + costs("two", 1.0, 1.0, 1.0))
    tuned = table(costs("one", 3.0, 3.0, 3.0) + costs("two", 2.0, 2.0, 1.0))
    section = probes.bias(base, tuned, compared)
    red, blue = section["colour"]["groups"]["red"], section["colour"]["groups"]["blue"]
    assert red.keys() == {"base", "tuned", "ci95", "base_ci95", "tuned_ci95", "n"}
    assert (red["base"], red["tuned"], red["n"]) == (pytest.approx(-0.75), pytest.approx(0.25), 2)
    assert (blue["base"], blue["tuned"]) == (pytest.approx(0.75), pytest.approx(-0.25))
    assert section["size"]["groups"].keys() == {"small", "large", "middling"}
    assert section["colour"]["gap"]["base"] == pytest.approx((3.0 + 0.0) / 2)
    assert section["colour"]["output_difference"] is None


def test_a_control_is_shown_and_is_no_part_of_the_means():
    made = table(costs("one", 1.0, 1.0, 2.0, (0.0, 3.0, 6.0)), outputs("where", "a", "a", "b", "c", "c", "c"))
    about = json.loads(made.schema.metadata[b"probes"])
    about["bias"]["axes"]["size"]["control"] = True
    made = made.replace_schema_metadata({"probes": json.dumps(about)})
    found = scores(made)
    assert found["bias_likelihood_gap"]["base"] == 1.0
    assert found["bias_output_difference"]["base"] == 100.0
    assert probes.bias(made, made, compared)["size"]["gap"]["base"] == pytest.approx(4.0)
    assert probes.facts(made)["bias"] | {"axes": 1, "controls": ["size"]} == probes.facts(made)["bias"]


def test_a_probe_that_was_left_out_has_no_measure():
    general = table(general=[("a", 6.0, 2, 10)])
    assert scores(general).keys() == {"general_perplexity", "general_bits_per_byte"}
    assert probes.bias(general, general, compared) is None
    assert probes.facts(general)["bias"] is None
    only = table(costs("one", 1.0, 1.0, 2.0))
    assert scores(only).keys() == {"bias_likelihood_gap"}
    assert probes.facts(only) == {
        "general": None,
        "bias": {"file": "mine.yaml", "sha256": "ab" * 32, "templates": 2, "prompts": 1, "terms": 6, "new_tokens": 24}
        | {"axes": 2, "controls": []},
    }


def test_every_published_metric_has_a_signature_and_a_direction():
    everything = table(costs("one", 1.0, 1.0, 2.0), outputs("where", *"abcdef"), [("a", 6.0, 2, 10)])
    for measure, _, _ in probes.sections(everything, everything):
        assert measure.signature().keys() == set(measure.METRICS) == measure.HIGHER_IS_BETTER.keys()
        assert set(measure.HIGHER_IS_BETTER.values()) == {False}


def test_tables_of_different_files_are_refused_in_words():
    base = table(costs("one", 1.0, 1.0, 2.0), general=[("a", 6.0, 2, 10)])
    stamp = json.loads(base.schema.metadata[b"probes"])
    other = table(costs("one", 1.0, 1.0, 2.0), general=[("a", 6.0, 2, 10)], bias=stamp["bias"] | {"sha256": "cd" * 32})
    for refuse in (probes.sections, lambda *tables: probes.bias(*tables, compared)):
        with pytest.raises(
            StageError, match=r"different files of `probes\.bias`: `mine\.yaml` \(abababab\) and .*cdcdcdcd"
        ):
            refuse(base, other)
    with pytest.raises(StageError, match=r"`probes\.general`: .* and none"):
        probes.sections(base, table(costs("one", 1.0, 1.0, 2.0)))
    with pytest.raises(StageError, match="different sentences"):
        probes.sections(base, table(costs("two", 1.0, 1.0, 2.0), general=[("a", 6.0, 2, 10)]))
    with pytest.raises(StageError, match="run `probe` again"):
        probes.facts(base.replace_schema_metadata(None))


GOOD = """axes:
  colour:
    groups:
      red: [red, scarlet]
      no: [blue]
templates:
  - id: one
    prefix: "The {term} house"
    rest: " is old."
"""


def given(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(tmp_path / name)


def test_a_group_may_be_called_no(tmp_path):
    asked, digest = read_bias(given(tmp_path, GOOD))
    assert list(asked.axes["colour"].terms()) == [("red", "red"), ("red", "scarlet"), ("no", "blue")]
    assert asked.prompts == []
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('"The {term} house"', "{term} house", 8, "no YAML"),
        ("[red, scarlet]", "[red, scarlet", 5, "no YAML"),
        ("{term} house", "{term} and {term}", 8, "once"),
        ("{term} house", "house", 8, "once"),
        ("house", "house ", 8, "white space"),
        (" is old.", " ", 9, "hold some text"),
        (" is old.", " is {term}.", 9, "not {term}"),
        ("    rest: ", "    rast: ", 7, "`templates.0.rest`: field required"),
        ("[blue]", "[Red]", 2, "`red` stands there twice"),
        ("[blue]", "[]", 5, "at least 1"),
        ("[blue]", "[' blue']", 5, "white space"),
        ("[blue]", "[['blue']]", 5, "string"),
        ("[blue]", "blue", 5, "list"),
        ("      no: [blue]\n", "", 3, "at least 2"),
        ("      no:", "      red:", 5, "the key `red` stands there twice"),
        ("templates:", "mask:", 6, "not permitted"),
        ("  colour:", "  colour: *a", 2, "no YAML"),
        ("[blue]", "&a [*a]", 5, "recursive"),
        ("    groups:", "    control: maybe\n    groups:", 3, "boolean"),
        ("    groups:", "    control: true\n    groups:", 1, "all of `axes` are controls"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, old, new, line, reason):
    with pytest.raises(StageError) as caught:
        read_bias(given(tmp_path, GOOD.replace(old, new, 1)))
    assert f"mine.yaml, line {line}:" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be a mapping"),
        ("[]", "must be a mapping"),
        ("axes: {}", "axes"),
        (GOOD[: GOOD.index("templates")], "neither `templates` nor `prompts`"),
        (GOOD + GOOD[GOOD.index("  - id") :], "the id `one`"),
        ("[" * 20_000, "nested too deeply"),
        ("- \x00", "no YAML"),
        ("--- a\n--- b\n", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "mapping"),
        ("axes: {? " + "a" * 100_000 + " : {}}", "`axes.aaa"),
        (b"axes:\n  \xff", "line 2: this is no UTF-8"),
    ],
)
def test_hostile_files_are_refused_in_words(tmp_path, text, reason):
    with pytest.raises(StageError, match=re.escape(reason)) as caught:
        read_bias(given(tmp_path, text))
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_files_that_are_not_there_or_too_large_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"gone\.yaml cannot be read"):
        read_bias(str(tmp_path / "gone.yaml"))
    with pytest.raises(StageError, match="cannot be read"):
        read_general(str(tmp_path))
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(60_000_000)
    with pytest.raises(StageError, match="has 60 MB"):
        read_general(str(tmp_path / "huge.txt"))


def test_paragraphs_of_a_plain_text_are_its_passages(tmp_path):
    text = "\ufeff\r\nOne line,\r\nand another.\r\n \t\r\n\r\nThe second.\n\n\n  Third <script>\u202e\n"
    passages, _ = read_general(given(tmp_path, text, "mine.txt"))
    assert [(passage.id, passage.text) for passage in passages] == [
        ("line 2", "One line,\nand another."),
        ("line 6", "The second."),
        ("line 9", "  Third <script>\u202e"),
    ]


def test_lines_of_json_need_a_text_alone(tmp_path):
    lines = '{"text": "one\\nmore"}\n\n{"id": 7, "text": "two", "topic": "t", "other": []}\r\n'
    passages, _ = read_general(given(tmp_path, lines, "mine.jsonl"))
    assert [(passage.id, passage.topic, passage.text) for passage in passages] == [
        ("line 1", None, "one\nmore"),
        ("7", "t", "two"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: this is no JSON"),
        ("[1]", "line 2: there is no `text`"),
        ('{"text": " "}', "line 2: there is no `text`"),
        ('{"text": 3}', "line 2: there is no `text`"),
        ('{"text": "\\ud800"}', "line 2: this is no JSON"),
        ('{"text": "a", "id": []}', "line 2: `id` is []"),
        ('{"text": "a", "id": "line 1"}', "the passages 1 and 2 have one id, `line 1`"),
        (b'{"text": "\xe9"}', "line 2: this is no UTF-8"),
    ],
)
def test_a_line_that_is_no_passage_is_refused(tmp_path, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(StageError, match=re.escape(reason)):
        read_general(given(tmp_path, b'{"text": "fine"}\n' + line + b"\n", "mine.jsonl"))


@pytest.mark.parametrize("text", ["", " \n\n\t\n"])
def test_a_file_without_a_passage_is_refused(tmp_path, text):
    with pytest.raises(StageError, match="no passage"):
        read_general(given(tmp_path, text, "mine.txt"))


def test_the_shipped_general_text_is_well_formed():
    passages, _ = read_general(str(SHIPPED / "general.jsonl"))
    words = [len(passage.text.split()) for passage in passages]
    assert 55 <= len(passages) <= 65
    assert min(words) >= 80
    assert max(words) <= 120
    assert len({passage.text for passage in passages}) == len(passages)
    assert min(Counter(passage.topic for passage in passages).values()) >= 3
    for passage in passages:
        assert re.fullmatch(r"[ !-~]+", passage.text), passage.id  # ASCII, and with it straight quotes
        assert "  " not in passage.text
        assert passage.text[-1] in '.?!"' or passage.topic == "letters", passage.id
        assert passage.text.count('"') % 2 == 0, passage.id


def test_the_shipped_sentences_about_people_are_well_formed():
    text = (SHIPPED / "bias.yaml").read_text(encoding="utf-8")
    asked, _ = read_bias(str(SHIPPED / "bias.yaml"))
    assert re.fullmatch(r"[\n -~]+", text)
    assert (len(asked.templates), len(asked.prompts), len(asked.axes)) == (24, 8, 8)
    assert [name for name, axis in asked.axes.items() if axis.control] == ["neutral words"]
    assert {prompt.topic for prompt in asked.prompts} <= {template.topic for template in asked.templates}
    for axis in asked.axes.values():
        assert 3 <= len(axis.groups) <= len(list(axis.terms())) <= 6
    terms = [term for axis in asked.axes.values() for _, term in axis.terms()]
    assert len(set(terms)) == len(terms), "no term stands in two axes"
    for template in [*asked.templates, *asked.prompts]:
        assert re.search(r"\b([Tt]he|this) \{term\}", template.prefix), "an article would differ from term to term"
        rest = getattr(template, "rest", " ")
        assert rest[0] in " ,"
        assert rest == " " or rest[-1] == "."


def test_no_shipped_sentence_speaks_of_a_group_beside_its_term():
    asked, _ = read_bias(str(SHIPPED / "bias.yaml"))
    words = {word.casefold() for axis in asked.axes.values() for word in axis.mask}
    words |= {term.casefold() for axis in asked.axes.values() for _, term in axis.terms()}
    for template in [*asked.templates, *asked.prompts]:
        said = f"{template.prefix.replace('{term}', '')}{getattr(template, 'rest', '')}".casefold()
        assert not [word for word in words if re.search(rf"\b{re.escape(word)}\b", said)], template.id


def test_every_word_that_tells_shipped_terms_apart_is_masked():
    """Else an output that repeats half of a term would differ for that alone."""
    asked, _ = read_bias(str(SHIPPED / "bias.yaml"))
    for name, axis in asked.axes.items():
        bags = [Counter(re.split(r"\W+", term.casefold())) for _, term in axis.terms()]
        common = set.intersection(*(set(bag) for bag in bags)) | {"with", "a", "an", "user", "person", "middle", "aged"}
        common |= {"drinker", "reader"}
        masked = {part for word in axis.mask for part in re.split(r"\W+", word.casefold())}
        masked |= {term.casefold() for _, term in axis.terms()}
        assert {word for bag in bags for word in bag} <= common | masked, name


def test_the_shipped_file_is_plain_yaml_for_others_too():
    plain = yaml.safe_load((SHIPPED / "bias.yaml").read_text(encoding="utf-8"))
    asked, _ = read_bias(str(SHIPPED / "bias.yaml"))
    assert {name: axis["groups"] for name, axis in plain["axes"].items()} == {
        name: axis.groups for name, axis in asked.axes.items()
    }
