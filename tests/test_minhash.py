"""Words, shingles and band keys are those of their written definition; estimates come out as probability says."""

import re
import unicodedata
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.text.minhash import band_keys, jaccard_pairs, shingle_sets
from snaketune.text.words import comparable, joint, table

WRAP = 1 << 64
GOLDEN, ROLL = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
)
TEXTS = st.text(
    st.sampled_from("aAbZß_09 .,!-\n\té\u0301\u0130Σς\u00ad中文字々カひกำ\u0e31ລမ👍\ufe0f\U00020000\U0001f1e6नमस्ते"),
    max_size=40,
)


def finalise(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WRAP
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WRAP
    return x ^ x >> 31


def words_of(text: str) -> list[str]:
    """The words of a text by the definition, character by character."""
    words: list[str] = []
    within = ""  # what the last character belongs to: a run of letters, a character by itself, nothing
    for character in text:
        major = unicodedata.category(character)[0]
        lower = "σ" if character in "Σς" else character.lower()[0]
        if major == "M":
            if within:
                words[-1] += lower
        elif (
            UNSPACED.match(character) and major in "LN" and unicodedata.category(character) != "Nd"
        ) or character >= "\U00020000":
            words.append(lower)
            within = "one"
        elif major in "LN" or character == "_":
            if within == "run":
                words[-1] += lower
            else:
                words.append(lower)
            within = "run"
        else:
            within = ""
    return words


def shingles_of(text: str, k: int) -> set[int]:
    """The shingle hashes of a text by the documented format, in Python's own integers."""
    hashes = []
    for word in words_of(text):
        state = GOLDEN
        for character in word:
            state = (state ^ ord(character)) * GOLDEN % WRAP
        hashes.append(finalise(state))
    width = min(k, len(hashes))
    runs = [hashes[at : at + width] for at in range(len(hashes) - width + 1)] if hashes else []
    return {
        finalise((width * GOLDEN + sum(h * pow(ROLL, width - 1 - at, WRAP) for at, h in enumerate(run))) % WRAP)
        for run in runs
    }


def keys_of(shingles: set[int], bands: int, rows: int) -> list[int]:
    count = bands * rows
    draws = [finalise(number * GOLDEN % WRAP) for number in range(1, 2 * count + 1)]
    minima = [min((h * (draws[p] | 1) + draws[count + p]) % WRAP for h in shingles) for p in range(count)]
    keys = []
    for band in range(bands):
        key = 0
        for minimum in minima[band * rows : (band + 1) * rows]:
            key = finalise((key * GOLDEN + minimum) % WRAP)
        keys.append(key)
    return keys


def sets(texts: list[str | None], words: int = 5) -> list[list[int]]:
    """The shingle sets of texts, by the kernel."""
    flat, offsets = shingle_sets(pa.array(texts, pa.string()), words)
    return [flat[start:end].tolist() for start, end in pairwise(offsets.tolist())]


def words_apart(text: str) -> int:
    """How many words a text has: its shingles of one word are told apart by distinct words only."""
    return len(sets([text], 1)[0])


@bounds(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS | st.none(), max_size=6), words=st.integers(1, 6))
def test_shingles_are_those_of_the_documented_format(texts: list[str | None], words: int) -> None:
    assert sets(texts, words) == [sorted(shingles_of(text or "", words)) for text in texts]


def test_golden_values_of_the_format() -> None:
    # From `finalise` and the formulas of the module's docstring, worked out in Python's own integers.
    (found,) = sets(["Hello, World"], 5)
    assert found == [0x284D09D9060F179]
    keys = band_keys(np.array(found, np.uint64), np.array([0, 1]), 2, 3)
    assert keys.tolist() == [[0x9494E69AF31F720, 0xC1FFB38FFB12CDDC]]


@bounds(max_examples=40, deadline=None)
@given(text=TEXTS.filter(words_of), bands=st.integers(1, 5), rows=st.integers(1, 4))
def test_band_keys_are_those_of_the_documented_format(text: str, bands: int, rows: int) -> None:
    flat, offsets = shingle_sets(pa.array(["", text, "x"]), 2)
    found = band_keys(flat, offsets, bands, rows)
    assert found.shape == (3, bands)
    assert found[1].tolist() == keys_of(shingles_of(text, 2), bands, rows)


def test_the_table_of_words_is_that_of_python_for_every_code_point() -> None:
    """Where no mark and no unspaced script is concerned, a word character is what `\\w` of `re` matches."""
    entries = table()
    for code in range(0x20000):
        character = chr(code)
        kind = int(entries[code]) >> 24
        category = unicodedata.category(character)
        assert (kind == 3) == (category[0] == "M")
        if category[0] != "M" and category != "Cs":
            assert (kind in (1, 2)) == bool(re.match(r"\w", character)), hex(code)
        if len(character.lower()) == 1 and character != "ς":
            assert int(entries[code]) & 0xFFFFFF == ord(character.lower()), hex(code)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("one two three", 3),
        ("don't snake_case x86-64", 5),
        ("ÉCOLE école", 1),
        ("ΟΔΟΣ οδος οδοσ", 1),
        ("नमस्ते दुनिया", 2),  # `\\w+` would find five
        ("e\u0301te\u0301 été", 2),  # nothing is composed here; cleaning did it
        ("今天天气好", 4),  # 天 stands twice
        ("カタカナ", 3),
        ("กขค", 3),
        ("\U00020000\U00020001", 2),
        ("abc中def", 3),
        ("中 2024 年", 3),
        ("👍 ❤\ufe0f ... !", 0),
        ("1\ufe0f\u20e3", 1),
        ("", 0),
        (" \n", 0),
    ],
)
def test_what_counts_as_a_word(text: str, count: int) -> None:
    assert words_apart(text) == count


def test_a_text_of_fewer_words_is_one_shingle_of_all_of_them() -> None:
    short, same, longer, other, none = sets(["New York, now!", "new york -- now", "new york", "york new now", "!"])
    assert short == same
    assert len(short) == len(longer) == len(other) == 1
    assert len({short[0], longer[0], other[0]}) == 3
    assert none == []


def test_sets_do_not_depend_on_how_the_column_is_stored() -> None:
    texts = ["x", None, "a b c d e f g", "", "b c d e f g h", "中文", None, "z"]
    array = pa.array(texts, pa.string())
    expected = sets(texts, 3)
    for column in (
        array.cast(pa.large_string()),
        pa.chunked_array([array[:3], array[3:3], array[3:]]),
        pa.concat_arrays([pa.array(["before", None]), array, pa.array(["after"])])[2:-1],
    ):
        flat, offsets = shingle_sets(column, 3)
        assert offsets.dtype == np.int64
        assert [flat[a:b].tolist() for a, b in pairwise(offsets.tolist())] == expected
    flat, offsets = shingle_sets(pa.array(["before", "a b", "c", "after"])[1:3], 3)
    assert [flat[a:b].tolist() for a, b in pairwise(offsets.tolist())] == sets(["a b", "c"], 3)
    for column in (pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(2, pa.string())):
        flat, offsets = shingle_sets(column, 3)
        assert flat.tolist() == []
        assert offsets.tolist() == [0] * (len(column) + 1)


def test_what_lies_under_a_null_is_no_text() -> None:
    ends, bits = pa.py_buffer(np.array([0, 4, 7], np.int32)), pa.py_buffer(b"\x02")
    array = pa.Array.from_buffers(pa.string(), 2, [bits, ends, pa.py_buffer(b"gonehas")])
    assert array.to_pylist() == [None, "has"]
    flat, offsets = shingle_sets(array, 3)
    assert offsets.tolist() == [0, 0, 1]
    assert [flat.tolist()] == sets(["has"], 3)


@pytest.mark.parametrize("text", ["a b " * 20_000, "same " * 50_000, " ".join(f"w{n % 700}" for n in range(50_000))])
def test_a_long_text_that_repeats_itself_is_a_small_set(text: str) -> None:
    (found,) = sets([text], 3)
    assert found == sorted(shingles_of(text[:8000], 3))


@bounds(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=2, max_size=5))
def test_jaccard_is_that_of_sets(values: list[list[int]]) -> None:
    distinct = [sorted(set(value)) for value in values]
    flat = np.array([x for value in distinct for x in value], np.uint64)
    offsets = np.cumsum([0, *map(len, distinct)])
    left, right = (side.ravel() for side in np.indices((len(values), len(values))))
    found = jaccard_pairs(flat, offsets, left, right)
    for a, b, similarity in zip(left, right, found, strict=True):
        one, other = set(values[a]), set(values[b])
        assert similarity == (len(one & other) / len(one | other) if one | other else 0.0)


def pairs_of(similarity: float, count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """`count` pairs of random sets: the sets [2 * count, size], the second of each pair after all the first; true J."""
    shared = round(2 * size * similarity / (1 + similarity))
    pool = np.random.default_rng(seed).integers(0, WRAP - 1, (count, 2 * size - shared), dtype=np.uint64)
    flat = np.concatenate([pool[:, :size], np.concatenate([pool[:, :shared], pool[:, size:]], axis=1)])
    return flat, np.arange(2 * count + 1) * size, shared / (2 * size - shared)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.7, 0.8, 0.9])
def test_minima_are_equal_as_often_as_sets_are_alike(similarity: float) -> None:
    count = 2500
    flat, offsets, true = pairs_of(similarity, count, 60, seed=round(similarity * 10))
    minima = band_keys(flat.ravel(), offsets, 112, 1)
    estimate = (minima[:count] == minima[count:]).mean(axis=1)
    assert abs(estimate.mean() - true) < 3 * estimate.std() / count**0.5
    # Independent permutations: the estimates scatter as 112 tosses of a coin do, no more.
    assert estimate.std() == pytest.approx((true * (1 - true) / 112) ** 0.5, rel=0.06)


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_bands_are_shared_with_the_probability_of_the_formula(similarity: float) -> None:
    count = 2500
    flat, offsets, true = pairs_of(similarity, count, 60, seed=round(similarity * 100))
    keys = band_keys(flat.ravel(), offsets, 14, 8)
    hits = (keys[:count] == keys[count:]).any(axis=1).mean()
    expected = 1 - (1 - true**8) ** 14
    assert abs(hits - expected) < 3 * (expected * (1 - expected) / count) ** 0.5 + 1 / count


@bounds(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("aÀ \t\n\u00a0\u3000\x85\x1c\u200bSß"), max_size=12) | st.none(), max_size=4))
def test_comparable_texts_differ_in_more_than_case_and_white_space(texts: list[Any]) -> None:
    found = comparable(pa.array(texts, pa.string())).to_pylist()
    assert found == [text if text is None else " ".join(text.lower().split()) for text in texts]


def test_a_row_as_one_text_is_prompt_and_completion_on_two_lines() -> None:
    prompts, completions = pa.array(["q", None, "", "q", None]), pa.array(["a", "a", "a", None, None])
    assert joint(prompts, completions).to_pylist() == ["q\na", "a", "\na", "q\n", ""]
