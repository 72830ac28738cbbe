"""A signature says of a row what the search for duplicates must know of it, whatever stands around the row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from sign import sign
from snaketune.dedup.signatures import Signatures, schema
from snaketune.text.minhash import band_keys, shingle_sets

LONG = " ".join(f"word{number}" for number in range(40))


def signed(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    """The signatures of rows."""
    sign(write(folder / "rows.parquet", rows), str(folder / "signatures.parquet"), settings("dedup", **changes))
    return read(folder / "signatures.parquet")


def digest(*texts: str) -> bytes:
    """The documented format, in Python's own integers."""
    a = b = 0x9E3779B97F4A7C15

    def scramble(x: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = (x ^ (x >> shift)) * factor % 2**64
        return x

    for text in texts:
        for value in [*map(ord, text), 2**32 + len(text)]:
            a = (a ^ value) * 0x100000001B3 % 2**64
            b = (((b << 23) | (b >> 41)) % 2**64 * 0x9E6C63D0876A9A47 + value) % 2**64
    return scramble(a).to_bytes(8, "little") + scramble(b).to_bytes(8, "little")


def test_texts_are_equal_but_for_case_and_unicode_white_space(tmp_path: Path) -> None:
    spaces = [chr(code) for code in range(0x3001) if chr(code).isspace()]
    rows = [row(f"{space}ÉA{space}\n{space}中\u03c3{space}", "p") for space in spaces]
    assert {line["exact"] for line in signed(tmp_path, rows)} == {digest("p", "éa 中σ")}
    unlike = [row("a b"), row("ab"), row("a\u200bb"), row("a-b"), row("e\u0301"), row("é")]
    assert len({line["exact"] for line in signed(tmp_path, unlike)}) == len(unlike)


def test_the_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    signed(tmp_path, [row("text")], bands=3)
    names = ["row_id", "source", "line", "group", "label", "split", "chars", "exact", "question"]
    found = pq.read_schema(tmp_path / "signatures.parquet")
    assert found.names == [*names, "band_00", "band_01", "band_02"]
    assert found == schema(3)
    assert {found.field(name).type for name in found.names[-3:]} == {pa.uint64()}
    assert found.field("exact").type == found.field("question").type == pa.binary(16)


def test_rows_keep_their_order_and_what_the_split_reads_of_them(tmp_path: Path) -> None:
    rows = [row(f"t{n}", line=n, group=f"g{n}", label="l", split="test" if n else None) for n in range(5)]
    found = signed(tmp_path, rows)
    for name in ("row_id", "source", "line", "group", "label", "split"):
        assert [line[name] for line in found] == [line[name] for line in rows]


def test_length_is_counted_in_characters_of_both_texts(tmp_path: Path) -> None:
    rows = [row("héllo👍", "中"), row("héllo👍"), row("", "ab"), row("a  b ")]
    assert [line["chars"] for line in signed(tmp_path, rows)] == [7, 6, 2, 5]


def test_hashes_are_those_of_the_comparable_texts_each_with_its_length(tmp_path: Path) -> None:
    rows = [row(" Blue\n\tsky ", "What  COLOUR?"), row("Blue"), row("b", "a"), row("", "ab"), row("x", " \u3000")]
    found = signed(tmp_path, rows)
    texts = [("what colour?", "blue sky"), ("", "blue"), ("a", "b"), ("ab", ""), ("", "x")]
    assert [line["exact"] for line in found] == [digest(*pair) for pair in texts]
    assert [line["question"] for line in found] == [digest(prompt) if prompt else None for prompt, _ in texts]


def test_bands_are_those_of_prompt_and_completion_as_one_text(tmp_path: Path) -> None:
    found = signed(tmp_path, [row("blue sky", LONG), row(LONG), row("sky", f"{LONG} blue")], bands=4, rows_per_band=2)
    flat, offsets = shingle_sets(pa.array([f"{LONG}\nblue sky", LONG]), 5)
    keys = band_keys(flat, offsets, 4, 2).tolist()
    got = [[line[f"band_{number:02d}"] for number in range(4)] for line in found]
    assert got == [keys[0], keys[1], keys[0]]


def test_a_text_without_any_word_has_no_band(tmp_path: Path) -> None:
    found = signed(tmp_path, [row("👍"), row("..", "?"), row("a", "?"), row("?", "a")], bands=2)
    assert [line["band_00"] is None for line in found] == [True, True, False, False]
    assert [line["band_01"] is None for line in found] == [True, True, False, False]


def test_a_signature_does_not_depend_on_the_rows_around_it(tmp_path: Path) -> None:
    rows = [row(f"{LONG[:number]} end{number}", f"q{number}" if number % 3 else None) for number in range(0, 200, 7)]
    whole = signed(tmp_path, rows)
    assert [signed(tmp_path, [line])[0] for line in rows] == whole
    assert signed(tmp_path, rows[::-1])[::-1] == whole


def test_a_shard_without_rows_has_a_file_without_rows(tmp_path: Path) -> None:
    assert signed(tmp_path, []) == []


def test_many_row_groups_are_signed_as_one(tmp_path: Path) -> None:
    rows = [row(f"text number {number}", line=number) for number in range(9000)]
    found = signed(tmp_path, rows, bands=2, rows_per_band=1)
    assert [line["line"] for line in found] == list(range(9000))
    flat, offsets = shingle_sets(pa.array([line["completion"] for line in rows]), 5)
    assert np.array_equal([line["band_01"] for line in found], band_keys(flat, offsets, 2, 1)[:, 1])


def test_three_settings_are_enough(tmp_path: Path) -> None:
    given_by_the_rule = {key: settings("dedup")[key] for key in ("shingle_words", "bands", "rows_per_band")}
    sign(write(tmp_path / "r.parquet", [row("a")]), str(tmp_path / "s.parquet"), given_by_the_rule)
    assert len(read(tmp_path / "s.parquet")) == 1


@bounds(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | st.text("aAb \n", max_size=4), st.text("aAb \n", max_size=4)), min_size=2, max_size=6
    )
)
def test_rows_are_equal_just_where_their_comparable_texts_are(
    tmp_path_factory: Any, rows: list[tuple[str | None, str]]
) -> None:
    found = signed(tmp_path_factory.mktemp("sign"), [row(completion, prompt) for prompt, completion in rows])
    plain = [tuple(" ".join((text or "").lower().split()) for text in pair) for pair in rows]
    for one, ours in zip(found, plain, strict=True):
        for other, theirs in zip(found, plain, strict=True):
            assert (one["exact"] == other["exact"]) == (ours == theirs)


def written(path: Path, ids: list[str], exact: list[bytes], question: list[bytes | None]) -> str:
    """A file of signatures with given hashes."""
    rows = [
        {"row_id": row_id, "source": "raw", "line": 1, "chars": number, "exact": one, "question": other}
        for number, (row_id, one, other) in enumerate(zip(ids, exact, question, strict=True))
    ]
    return write(path, rows, schema(1))


def test_hashes_and_ids_that_share_a_half_are_told_apart(tmp_path: Path) -> None:
    a, b, c = (letter.encode() * 8 for letter in "abc")
    ids = ["1" * 16 + "3" * 16, "1" * 16 + "2" * 16, "0" * 16 + "9" * 16, "2" * 32, "1" * 16 + "2" * 15 + "3"]
    exact = [a + b, a + c, c + c, a + c, a + b]
    question = [None, a + b, c + b, a + b, b + a]
    found = Signatures([written(tmp_path / "s.parquet", ids, exact, question)])
    order = [2, 1, 4, 0, 3]  # by id
    assert sorted(range(5), key=ids.__getitem__) == order
    assert found.chars.tolist() == order
    assert found.row_ids(np.arange(5)).to_pylist() == sorted(ids)
    assert found.exact.tolist() == [0, 1, 2, 2, 1]
    assert found.question.tolist() == [0, 1, 2, -1, 1]
    assert found.row_ids(np.array([3, -1])).to_pylist() == [ids[0], None]
