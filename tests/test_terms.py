"""Words of a list are counted as whole words, whatever their case, and phrases across any white space."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.clean.terms import Terms, load
from snaketune.job import StageError

WORDS = Path(__file__).parent.parent / "resources/words"


def counts(terms: list[str], *texts: str | None) -> dict[str, list[int]]:
    return {term: found.tolist() for term, found in Terms(terms).count(pa.array(texts, pa.string())).items()}


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("ass", "class Ass ass_1 grass ASS! 1ass ass", 3),
        ("ass", "é-ass-ñ éass asśs", 1),
        ("café", "Café CAFÉ cafés", 2),
        ("straße", "STRASSE Straße strasse", 3),
        ("οδος", "ΟΔΟΣ οδός οδος", 2),
        ("son of a bitch", "Son\n of\u00a0a \t bitch", 1),
        ("son of a bitch", "son of, a bitch", 0),
        ("a b a", "a b a b a", 2),
        ("don't", "DON’T don't dont don t don`t", 2),
        ("non-binary", "Non-Binary non‑binary nonbinary non binary", 2),
        ("C++", "c c++", 2),
        ("北京", "在北京市", 1),
        ("हिन्दी", "हिन्दी में हिन्द", 1),
        ("ass", "", 0),
    ],
)
def test_a_term_is_found_as_whole_words_only(term: str, text: str, expected: int) -> None:
    assert counts([term], text) == ({term: [expected]} if expected else {})


def test_each_term_counts_by_itself_and_only_those_that_occur_are_told() -> None:
    found = counts(["deaf people", "deaf", "blind", "people"], "Deaf people, deaf", None, "people")
    assert list(found) == ["deaf people", "deaf", "people"]
    assert found == {"deaf people": [1, 0, 0], "deaf": [2, 0, 0], "people": [1, 0, 1]}


def test_slices_chunks_and_many_hits_are_counted_alike() -> None:
    texts = pa.array(["no", "ass " * 5000, None, "ass"])
    terms = Terms(["ass"])
    assert terms.count(texts.slice(1))["ass"].tolist() == [5000, 0, 1]
    assert terms.count(pa.chunked_array([texts, texts]))["ass"].tolist() == [0, 5000, 0, 1] * 2
    assert terms.count(texts.slice(0, 0)) == {}
    assert terms.count(texts)["ass"].dtype == "int64"


@bounds(max_examples=150, deadline=None)
@given(
    terms=st.lists(st.text("ab c", min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=5),
    texts=st.lists(st.text("abcABC _,\n", max_size=30), max_size=4),
)
def test_counts_are_those_of_a_regular_expression(terms: list[str], texts: list[str]) -> None:
    found = counts(terms, *texts)
    for term in {" ".join(term.split()): term for term in reversed(terms)}.values():
        pattern = re.compile(r"(?<!\w)(?=" + r"\s+".join(map(re.escape, term.split())) + r"(?!\w))", re.IGNORECASE)
        expected = [len(pattern.findall(text)) for text in texts]
        assert found.get(term, [0] * len(texts)) == expected


def test_a_list_has_comments_blank_lines_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# a comment\n\n  Damn  \ndamn\n  # another\nson  of a gun\n", encoding="utf-8")
    found = load(path).count(pa.array(["damn it, son of a gun # a comment"]))
    assert {term: count.tolist() for term, count in found.items()} == {"Damn": [1], "son  of a gun": [1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "is not there"),
        (b"caf\xe9\n", "cannot be read .* UTF-8"),
        (b"fine\n!!!\n", "cannot be used: `!!!` has no word"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "words.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StageError, match=rf"words\.txt {message}"):
        load(path)


def test_a_phrase_of_very_many_words_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 12 words"):
        Terms(["a " * 13])
    assert counts(["a " * 12], "a " * 13) == {"a " * 12: [2]}


@pytest.mark.parametrize(("name", "least"), [("toxicity", 40), ("identity_terms", 80)])
def test_the_shipped_lists_say_what_they_are_and_each_entry_finds_itself(name: str, least: int) -> None:
    path = WORDS / f"{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert lines[0].startswith("# ")
    assert len(entries) == len(set(entries)) >= least
    assert list(load(path).count(pa.array([" , ".join(entries)]))) == entries
