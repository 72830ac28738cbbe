"""The kernels give what the definitions say, on any text; how a column is stored, cut or split makes no difference."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

import quality_reference as reference
from builders import settings
from snaketune.clean import quality
from snaketune.text.text_kernels import marks

WORDS = [
    "the",
    "The,",
    "to",
    "a",
    "b",
    "c d",
    "end.",
    "(end.)",
    "x...",
    "…",
    "#",
    "##",
    "-",
    "• x",
    "{",
    "}",
    "»",
    "1.5",
]
WORDS += [
    "lorem",
    "Ipsum",
    "JavaScript",
    "Terms of  use",
    "terms of use",
    "use cookies.",
    "日本語。",
    "naïve",
    "𝒳",
    "é",
]
GAPS = [
    " ",
    " ",
    " ",
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    " \t",
    "\n \n",
    "\r",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x85",
    "\x1c",
    "\v",
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=60).map(
        lambda pairs: "".join(word + gap for word, gap in pairs)
    ),
    st.lists(st.sampled_from("abc"), max_size=80).map(" ".join),
    st.lists(st.sampled_from(["one two three.", "four five\nsix.", "a b c d e f g.", ""]), max_size=12).map("\n".join),
)


def enabled(*sets: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of `clean.quality` with some sets enabled (none named: all), and settings of sets changed."""
    made = json.loads(json.dumps(settings("clean")["quality"]))
    for name in made:
        made[name] |= {"enabled": name in (sets or made)} | changes.get(name, {})
    return made


def judged(
    texts: list[str | None] | pa.Array, given: dict[str, Any] | None = None
) -> dict[str, tuple[Any, Any, float]]:
    """(fails, values, threshold) by rule."""
    column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())
    return {rule: rest for rule, *rest in quality.failures(column, given or enabled())}


@given(st.lists(TEXTS, max_size=5))
@example(["a b " * 40, "x y z w v u t s r q " * 3])
@example(["\n\n a\n\n\nb \n"])
@example(["", "lorem", "ipsum lorem ipsum"])
@bounds(deadline=None, max_examples=300)
def test_every_value_is_that_of_the_definition(texts: list[str]) -> None:
    found = judged(texts)
    for number, text in enumerate(texts):
        for rule, value in reference.values(text).items():
            assert found[rule][1][number] == pytest.approx(value, rel=1e-12, abs=0), (rule, text)


@given(
    st.lists(TEXTS, max_size=5),
    st.booleans(),
    st.integers(0, 4),
    st.integers(1, 8),
    st.booleans(),
)
@example(["a\n\n\nb", "\n\na b c.\n"], False, 0, 9, False)
@bounds(deadline=None, max_examples=300)
def test_lines_are_removed_as_c4_says(texts: list[str], terminal: bool, words: int, longest: int, policy: bool) -> None:
    c4 = {
        "terminal_punctuation": terminal,
        "min_words_per_line": words,
        "max_word_length": longest,
        "policy_lines": policy,
    }
    mended = quality.mend(pa.array(texts, pa.string()), enabled("c4", c4=c4))
    mended.validate(full=True)
    assert mended.to_pylist() == [reference.mended(text, c4) for text in texts]


@given(TEXTS)
@bounds(deadline=None)
def test_line_ends_of_windows_change_no_value(text: str) -> None:
    text = text.replace("\r", "")
    values = judged([text, text.replace("\n", "\r\n")])
    for rule, (_, (unix, windows), _) in values.items():
        assert unix == windows, rule


def test_a_text_is_judged_alike_wherever_it_stands_in_a_column() -> None:
    texts = ["", None, "a b c. " * 30, "é…\n" * 9, "x", None, "to be - or not to be... " * 20]
    alone = [judged([text]) for text in texts]
    columns = {
        "whole": pa.array(texts),
        "sliced": pa.array(["before", *texts, "after"]).slice(1, len(texts)),
        "large": pa.array(texts, pa.large_string()),
        "chunked": pa.chunked_array([texts[:3], texts[3:]], pa.string()),
    }
    for name, column in columns.items():
        together = judged(column)
        mended = quality.mend(column, enabled("c4"))
        assert mended.to_pylist() == [
            None if text is None else quality.mend(pa.array([text]), enabled("c4"))[0].as_py() for text in texts
        ], name
        assert mended.type == column.type
        for rule in together:
            assert [together[rule][1][n] for n in range(len(texts))] == [one[rule][1][0] for one in alone], (name, rule)


def test_neighbours_of_a_slice_and_of_a_text_are_not_looked_at() -> None:
    texts = ["before lorem", "ipsum. We use cook", "ies here.", "after"]
    sliced = pa.array(texts).slice(1, 2)
    values = judged(sliced)
    assert values["gopher_min_words"][1].tolist() == [4, 2]
    assert values["c4_lorem_ipsum"][1].tolist() == [0, 0]
    given = enabled("c4", c4={"terminal_punctuation": False, "min_words_per_line": 1})
    assert quality.mend(sliced, given).to_pylist() == texts[1:3]


def test_a_null_is_judged_as_an_empty_text_and_stays_null() -> None:
    for fails, values, _ in judged([None, ""]).values():
        assert fails[0] == fails[1]
        assert values[0] == values[1] == 0
    assert quality.mend(pa.array([None, "", "no end"], pa.string()), enabled("c4")).to_pylist() == [None, "", ""]


def test_an_empty_text_fails_the_rules_that_ask_for_a_minimum_and_no_other() -> None:
    failed = {rule for rule, (fails, _, _) in judged([""]).items() if fails[0]}
    assert failed == {
        "gopher_min_words",
        "gopher_min_mean_word_length",
        "gopher_min_alphabetic_words",
        "gopher_min_stop_words",
        "c4_min_sentences",
        "fineweb_min_punctuated_lines",
    }


def test_an_empty_column_and_a_column_of_nulls_are_judged() -> None:
    for column in (pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(3, pa.string())):
        assert all(len(fails) == len(column) for fails, _, _ in judged(column).values())
        assert len(quality.mend(column, enabled("c4"))) == len(column)


def test_more_text_than_one_slice_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{number % 7} and the end. " * (number % 40) for number in range(200)] + [""]
    whole, mended = judged(texts), quality.mend(pa.array(texts), enabled("c4"))
    monkeypatch.setattr(quality, "SLICE_BYTES", 100)  # less than most of the texts
    for rule, (_, values, _) in judged(texts).items():
        assert np.array_equal(values, whole[rule][1]), rule
    assert quality.mend(pa.array(texts), enabled("c4")).equals(mended)


def test_only_enabled_sets_judge_and_their_rules_come_in_the_order_of_the_settings() -> None:
    assert judged(["text"], enabled("none")) == {}
    for name, section in settings("clean")["quality"].items():
        rules = list(judged(["text"], enabled(name)))
        mending = ("enabled", "terminal_punctuation", "min_words_per_line", "max_word_length", "policy_lines")
        assert rules == [f"{name}_{key}" for key in section if name != "c4" or key not in mending if key != "enabled"]
    assert [rule.split("_")[0] for rule in judged(["text"])] == ["gopher"] * 9 + ["repetition"] * 13 + ["c4"] * 3 + [
        "fineweb"
    ] * 4


def test_without_c4_no_text_is_changed() -> None:
    texts = pa.array([" no end\n", None])
    assert quality.mend(texts, enabled("gopher", "repetition", "fineweb")).equals(texts)


def test_a_switched_off_rule_of_c4_does_not_judge() -> None:
    rules = judged(["{ lorem ipsum"], enabled("c4", c4={"lorem_ipsum": False, "curly_bracket": False}))
    assert list(rules) == ["c4_min_sentences"]


def test_no_letter_lies_beyond_the_table_of_letters() -> None:
    assert not any(chr(point).isalpha() or chr(point).isspace() for point in range(len(marks()), 0x110000))
