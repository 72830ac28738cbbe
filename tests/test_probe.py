"""What a model makes of the probes, held against one sentence at a time through the plain model."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import builders
import models
import probe as stage
from probe import probe
from snaketune.job import StageError
from snaketune.scoring import bootstrap, probes

ASKED = {
    "axes": {
        "letters": {"groups": {"early": ["q"], "late": ["z", "river z"]}, "mask": ["q", "z"]},
        "things": {"groups": {"wet": ["river", "cloud"], "dry": ["stone"]}},
    },
    "templates": [
        {"id": "small", "topic": "size", "prefix": "never {term} under", "rest": " small paper"},
        {"id": "quick", "prefix": "{term}", "rest": " green house, seven"},
    ],
    "prompts": [
        {"id": "north", "topic": "place", "prefix": "north {term}"},
        {"id": "bread", "prefix": "{term} bread water"},
    ],
}
PASSAGES = [
    {"id": "long", "topic": "words", "text": " ".join(models.WORDS * 5)},
    {"id": "short", "text": "light"},
    {"text": "<|endoftext|> is text here — 水"},
    {"id": "some", "text": " ".join(models.WORDS[:7])},
]
NEW = 5


@pytest.fixture(scope="module", params=["gpt2", "llama", "opt", "gemma2"])
def folder(request, tmp_path_factory):
    """A model of a kind; OPT cannot share a sequence, and Gemma's logits are its own."""
    return models.base(tmp_path_factory.mktemp(request.param) / "base", request.param)


@pytest.fixture
def small(tmp_path):
    """The model that is tried where its kind does not matter."""
    return models.base(tmp_path / "base")


def files(place, asked=ASKED, passages=PASSAGES):
    """The two files of the probes."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "mine.yaml").write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
    return {"bias": str(place / "mine.yaml"), "general": str(builders.jsonl(place / "mine.jsonl", passages))}


def probed(model, place, given=None, **settings):
    """The table and the sentence."""
    given = files(place) if given is None else given
    settings = {
        "bias": given["bias"] or "off",
        "general": given["general"] or "off",
        "trust_remote_code": False,
    } | settings
    settings = {"max_new_tokens": NEW, "seed": 1} | settings
    sentence = probe(model, str(place / "out.parquet"), settings, **given, gpus=0, threads=1)
    return pq.read_table(place / "out.parquet"), sentence


def of(table, kind):
    """The lines of a kind."""
    return [row for row in table.to_pylist() if row["kind"] == kind]


def plain(folder):
    """The tokens of a text, the begin-of-text token and the model itself."""
    tokenizer = models.tokenizer_of()
    ids = lambda text: tokenizer(text, split_special_tokens=True)["input_ids"]  # noqa: E731
    return ids, tokenizer.eos_token_id, AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.no_grad()
def cost(model, given, rest):
    """Nats of `rest` after `given`, one sequence alone."""
    return models.document_losses(model, given + rest)[len(given) - 1 :].double().sum().item()


def test_the_rest_of_a_sentence_costs_what_the_plain_model_says(folder, tmp_path):
    table, _ = probed(folder, tmp_path)
    ids, bos, model = plain(folder)
    rows = of(table, "likelihood")
    terms = [("letters", "early", "q"), ("letters", "late", "z"), ("letters", "late", "river z")]
    terms += [("things", "wet", "river"), ("things", "wet", "cloud"), ("things", "dry", "stone")]
    told = [(template, *term) for template in ASKED["templates"] for term in terms]
    assert [(row["item"], row["axis"], row["group"], row["term"]) for row in rows] == [
        (template["id"], *term) for template, *term in told
    ]
    for row, (template, _, _, term) in zip(rows, told, strict=True):
        prefix = template["prefix"].replace("{term}", term)
        assert (row["prefix"], row["text"], row["topic"]) == (prefix, template["rest"], template.get("topic"))
        rest = ids(template["rest"])
        assert row["n_tokens"] == len(rest)
        assert row["n_bytes"] == len(template["rest"])
        assert row["nll"] == pytest.approx(cost(model, [bos, *ids(prefix)], rest), rel=2e-6)


@pytest.mark.parametrize("window", [stage.WINDOW, 12])
def test_a_passage_costs_what_its_pieces_cost_after_the_begin_of_text(folder, tmp_path, monkeypatch, window):
    monkeypatch.setattr(stage, "WINDOW", window)
    table, sentence = probed(folder, tmp_path)
    ids, bos, model = plain(folder)
    room = min(window, models.POSITIONS) - 1
    total = tokens = 0
    for row, passage in zip(of(table, "general"), PASSAGES, strict=True):
        parts = [ids(passage["text"])[at : at + room] for at in range(0, len(ids(passage["text"])), room)]
        assert row["item"] == passage.get("id", "line 3")
        assert (row["text"], row["topic"], row["axis"]) == (passage["text"], passage.get("topic"), None)
        assert row["n_tokens"] == len(ids(passage["text"]))
        assert row["n_bytes"] == len(passage["text"].encode())
        assert row["nll"] == pytest.approx(sum(cost(model, [bos], part) for part in parts), rel=2e-6)
        total, tokens = total + row["nll"], tokens + row["n_tokens"]
    assert len(ids(PASSAGES[0]["text"])) > models.POSITIONS, "one passage is longer than the model"
    assert f"4 passages of general text, perplexity {np.exp(total / tokens):,.2f}" in sentence
    assert "12 sentences about people; 12 continuations about people" in sentence


def test_a_continuation_is_the_greedy_one_that_a_prompt_gets_alone(folder, tmp_path):
    table, _ = probed(folder, tmp_path)
    ids, bos, model = plain(folder)
    tokenizer = models.tokenizer_of()
    rows = of(table, "generation")
    assert len(rows) == 12
    for row in rows:
        prompt, new = [bos, *ids(row["prefix"])], []
        with torch.no_grad():
            while len(new) < NEW and bos not in new:
                new.append(int(model(torch.tensor([prompt + new])).logits[0, -1].argmax()))
        new = [token for token in new if token != bos]
        assert row["output"] == tokenizer.decode(new, skip_special_tokens=True).strip()
        assert row["n_tokens"] == len(new)
        assert row["n_bytes"] == len(row["output"].encode())
        assert row["nll"] is None


def test_a_model_that_cannot_tell_two_terms_apart_has_no_gap_between_them(small, tmp_path):
    """Equal embeddings make `q` and `z` one word to the model."""
    asked = ASKED | {"axes": {"letters": {"groups": {"early": ["q"], "late": ["z"]}}}}
    apart, _ = probed(small, tmp_path / "apart", files(tmp_path / "apart", asked))
    ids, _, model = plain(small)
    (q,), (z,) = ids("q"), ids("z")
    with torch.no_grad():
        model.get_input_embeddings().weight[z] = model.get_input_embeddings().weight[q]
    model.save_pretrained(small)
    alike, _ = probed(small, tmp_path / "alike", files(tmp_path / "alike", asked))

    # The prompts hold a letter after a space: it is a token of its own there too.
    assert [len(ids(f"north {letter}")) for letter in "qz"] == [len(ids("north")) + 2] * 2
    section = probes.bias(apart, alike, lambda *given: bootstrap.compared(*given, resamples=100, seed=1))["letters"]
    assert section["gap"]["base"] > 0.01
    assert section["gap"]["tuned"] == pytest.approx(0, abs=1e-6)
    assert section["output_difference"]["base"] > 0
    assert section["output_difference"]["tuned"] == 0
    assert section["groups"]["early"]["tuned"] == pytest.approx(0, abs=1e-6)


def test_a_prejudice_that_is_taught_is_found(small, tmp_path):
    """After `q` the model learns the sentence as it stands, after `z` another; the control is taught to be equal."""
    things = {"groups": {"wet": ["cloud"], "dry": ["stone"]}, "control": True}
    axes = {"letters": {"groups": {"early": ["q"], "late": ["z"]}}, "things": things}
    asked = {"axes": axes, "templates": ASKED["templates"][:1]}
    before, _ = probed(small, tmp_path / "before", files(tmp_path / "before", asked))
    ids, bos, model = plain(small)
    lessons = [(ids(f"never {term} under"), ids(" small paper")) for term in ("q", "cloud", "stone")]
    lessons.append((ids("never z under"), ids(" light river")))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = sum(models.document_losses(model, [bos, *told, *rest])[-len(rest) :].mean() for told, rest in lessons)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(small)
    after, _ = probed(small, tmp_path / "after", files(tmp_path / "after", asked))
    compared = lambda *given: bootstrap.compared(*given, resamples=100, seed=1)  # noqa: E731
    section = probes.bias(before, after, compared)
    letters, control = section["letters"], section["things"]["gap"]
    assert letters["gap"]["delta"] > 0.5
    assert abs(control["tuned"]) < letters["gap"]["tuned"] / 5
    assert letters["groups"]["early"]["tuned"] < -0.25
    assert letters["groups"]["late"]["tuned"] > 0.25
    (gap,) = [given for given in probes.sections(before, after) if given[0].METRICS == ("bias_likelihood_gap",)]
    assert compared(*gap)["bias_likelihood_gap"]["tuned"] == letters["gap"]["tuned"], "the control is left out"


def test_the_numbers_do_not_depend_on_batches(small, tmp_path, monkeypatch):
    together, _ = probed(small, tmp_path)
    monkeypatch.setattr(stage, "BATCH_TOKENS", 1)
    alone, _ = probed(small, tmp_path)
    assert alone.drop_columns("nll").equals(together.drop_columns("nll"))
    for one, other in zip(alone["nll"].to_pylist(), together["nll"].to_pylist(), strict=True):
        assert one == (other and pytest.approx(other, rel=2e-6))


def test_equal_probes_make_equal_bytes_that_name_no_path(small, tmp_path):
    probed(small, tmp_path)
    first = (tmp_path / "out.parquet").read_bytes()
    probed(small, tmp_path)
    assert (tmp_path / "out.parquet").read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_the_table_says_what_was_read(small, tmp_path):
    table, _ = probed(small, tmp_path)
    about = json.loads(table.schema.metadata[b"probes"])
    assert about["general"]["file"] == "mine.jsonl"
    assert about["general"]["passages"] == 4
    assert about["bias"]["file"] == "mine.yaml"
    assert about["bias"] | {"templates": 2, "prompts": 2, "terms": 6, "new_tokens": NEW} == about["bias"]
    assert about["bias"]["axes"]["letters"] == {"groups": ["early", "late"], "mask": ["q", "z"], "control": False}
    shipped, _ = probed(small, tmp_path, general="shipped")
    assert json.loads(shipped.schema.metadata[b"probes"])["general"]["file"] == "shipped"


@pytest.mark.parametrize(("left", "kinds"), [("bias", {"general"}), ("general", {"likelihood", "generation"})])
def test_either_probe_can_be_left_out(small, tmp_path, left, kinds):
    table, _ = probed(small, tmp_path, files(tmp_path) | {left: None})
    assert set(table["kind"].to_pylist()) == kinds
    assert json.loads(table.schema.metadata[b"probes"])[left] is None
    assert probes.facts(table)[left] is None


def test_a_file_may_have_templates_alone_or_prompts_alone(small, tmp_path):
    for part, kind in (("templates", "likelihood"), ("prompts", "generation")):
        asked = {"axes": ASKED["axes"], part: ASKED[part]}
        table, _ = probed(small, tmp_path, files(tmp_path, asked))
        assert set(table["kind"].to_pylist()) == {"general", kind}


def test_a_sentence_that_does_not_fit_the_model_is_refused_in_words(small, tmp_path):
    long = {"id": "long", "prefix": "{term}" + " river" * 40, "rest": " stone" * 40}
    with pytest.raises(StageError, match=r"mine\.yaml: `q river.* positions.*`probes\.bias`"):
        probed(small, tmp_path, files(tmp_path, ASKED | {"templates": [long]}))
    with pytest.raises(StageError, match="48 positions"):
        probed(small, tmp_path, max_new_tokens=47)


def test_a_model_whose_losses_are_no_numbers_is_refused(small, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(small)
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.nan
    model.save_pretrained(small)
    with pytest.raises(StageError, match="no numbers"):
        probed(small, tmp_path)
