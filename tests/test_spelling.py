"""Spelling: a word is corrected where one correction is clearly best, and everything that may be right stays."""

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.clean.spelling import Corrector
from snaketune.job import StageError

LEXICON = "receive 9000\nthe 100000\ngovernment 500\nknown 700\nwell 800\nform 1000\nfrom 5000\nfarm 900\nnaïve 40\n"


@lru_cache
def english() -> Corrector:
    """The shipped dictionary, loaded once."""
    return Corrector(None, 1, 4)


@pytest.fixture
def corrector(tmp_path: Path) -> Corrector:
    path = tmp_path / "words.txt"
    path.write_text(LEXICON, encoding="utf-8")
    return Corrector(str(path), 1, 4)


def corrected(corrector: Corrector, text: str) -> str:
    return corrector.correct(pa.array([text]))[0].as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to recieve it", "to receive it"),
        ('He said: "(recieve)", ... recieve!?', 'He said: "(receive)", ... receive!?'),
        ("  recieve\t\u00a0goverment \r\n recieve", "  receive\t\u00a0government \r\n receive"),
        ("well-knwon", "well-known"),
        ("naïvve", "naïve"),
    ],
)
def test_a_misspelt_word_is_corrected_and_all_around_it_stays(corrector: Corrector, text: str, expected: str) -> None:
    assert corrected(corrector, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Recieve RECIEVE reCieve naÏve",
        "recieve_it recieve2 2recieve",
        "https://recieve.org/recieve recieve@goverment.org www.recieve.org",
        "/recieve/goverment a.recieve recieve() x=recieve recieve[0] #recieve <recieve> \\recieve",
        "`recieve` and `to recieve it`",
        "```\nto recieve\n\ngoverment\n```",
        "text:\n    recieve = 1\n\trecieve\n",
        "recieve's don't",
        "teh thw",
        "xylophone",
        "the form from the farm",
    ],
)
def test_what_may_be_right_stays(corrector: Corrector, text: str) -> None:
    assert corrected(corrector, text) == text


def test_of_two_corrections_as_near_neither_is_taken_unless_it_is_far_more_frequent(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    for count, expected in ((9, "recieve"), (10, "receive"), (1000, "receive")):
        path.write_text(f"receive {count}\nrelieve 1\n", encoding="utf-8")
        assert corrected(Corrector(str(path), 1, 4), "recieve") == expected


def test_the_limits_are_those_given(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("government 500\nthe 9000\n", encoding="utf-8")
    assert corrected(Corrector(str(path), 1, 4), "govermnet teh") == "govermnet teh"
    assert corrected(Corrector(str(path), 2, 4), "govermnet teh") == "government teh"
    assert corrected(Corrector(str(path), 1, 3), "teh") == "the"


def test_nulls_slices_and_types_stay(corrector: Corrector) -> None:
    texts = pa.array(["no", None, "recieve", ""], pa.large_string()).slice(1)
    made = corrector.correct(texts)
    assert made.type == texts.type
    assert made.to_pylist() == [None, "receive", ""]


def test_the_shipped_dictionary_mends_common_errors_of_english() -> None:
    made = corrected(english(), "we occured until untill definately seperate")
    assert made == "we occurred until until definitely separate"


@bounds(max_examples=100, deadline=None)
@given(text=st.text(alphabet="recivgo AR_1.,'`\n\t-(", max_size=40))
def test_white_space_punctuation_and_capitals_stay_byte_for_byte(text: str) -> None:
    lower = set("abcdefghijklmnopqrstuvwxyz")
    made = corrected(english(), text)
    assert [sign for sign in made if sign not in lower] == [sign for sign in text if sign not in lower]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "is not there"),
        (b"caf\xe9 3\n", "cannot be read"),
        (b"word 3\nword\n", "has no `word count` in line 2"),
        (b"\n", "has no words"),
    ],
)
def test_a_dictionary_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, data: bytes | None, message: str
) -> None:
    path = tmp_path / "words.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StageError, match=rf"words\.txt {message}"):
        Corrector(str(path), 1, 4)
