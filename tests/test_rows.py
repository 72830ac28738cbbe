"""Tables of rows: equal rows make equal bytes however they arrive, and no row group is large."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snaketune.rows import BATCH_BYTES, BATCH_ROWS, TableWriter, batches, numbers, row_bytes, row_id, write_table

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64())])


def table(lengths: list[int]) -> pa.Table:
    return pa.table({"text": ["x" * n for n in lengths], "number": list(range(len(lengths)))}, schema=SCHEMA)


def groups(path: Path) -> list[int]:
    """Rows of each row group, by Arrow's own reading of the file."""
    about = pq.ParquetFile(path).metadata
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


def test_equal_rows_make_equal_bytes_however_they_arrive(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    whole = table([*draw.choice([0, 1, 400, 30_000, 900_000], 400).tolist(), *[1] * 20_000, BATCH_BYTES + 7, 3])
    made = set()
    for number, size in enumerate((whole.num_rows, 1, 77, 9000)):
        path = tmp_path / f"{number}.parquet"
        with TableWriter(path, SCHEMA) as out:
            for start in range(0, min(whole.num_rows, 500), size):
                out.write(whole.slice(start, min(size, 500 - start)))
            out.write(whole.slice(500))
        assert pq.read_table(path).equals(whole)
        made.add(path.read_bytes())
    assert len(made) == 1


def test_a_row_group_is_bounded_in_rows_and_in_bytes(tmp_path: Path) -> None:
    write_table(table([10] * (2 * BATCH_ROWS + 5)), tmp_path / "many.parquet", SCHEMA)
    assert groups(tmp_path / "many.parquet") == [BATCH_ROWS, BATCH_ROWS, 5]
    third = BATCH_BYTES // 3
    write_table(table([third] * 7 + [BATCH_BYTES * 2, 1, 1]), tmp_path / "large.parquet", SCHEMA)
    assert groups(tmp_path / "large.parquet") == [3, 3, 1, 1, 2]
    read = [batch.num_rows for batch in batches(tmp_path / "large.parquet", ["number"])]
    assert read == [3, 3, 1, 1, 2]


def broken_off(path: Path) -> None:
    with TableWriter(path, SCHEMA) as out:
        out.write(table([1, 2]))
        assert not path.exists()
        raise RuntimeError("broken off")


def test_a_table_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/rows.parquet"
    with pytest.raises(RuntimeError, match="broken off"):
        broken_off(path)
    assert list(path.parent.iterdir()) == []
    write_table(table([1, 2]), path, SCHEMA)
    assert list(path.parent.iterdir()) == [path]


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=20))
def test_ids_as_numbers_keep_their_values_and_their_order(drawn: list[bytes]) -> None:
    ids = [value.hex() for value in drawn]
    found = numbers(pa.chunked_array([pa.array(["0" * 32, *ids]).slice(1), pa.array([], pa.string())]))
    assert [int(high) << 64 | int(low) for high, low in found] == [int(text, 16) for text in ids]
    assert np.lexsort((found[:, 1], found[:, 0])).tolist() == sorted(range(len(ids)), key=ids.__getitem__)


def test_the_bytes_of_a_row_are_those_of_its_texts_in_utf8() -> None:
    rows = pa.table({"a": ["é", None, "abc"], "n": [1, 2, 3], "b": ["", "日本", None]})
    assert row_bytes(rows).tolist() == [2, 6, 3]


def test_a_row_id_tells_apart_what_a_joined_text_would_not() -> None:
    ids = {row_id("ab", "c"), row_id("a", "bc"), row_id(None, "abc"), row_id("", "abc"), row_id(None, "abc", "[]")}
    assert len(ids) == 5
    assert row_id(None, "e\u0301") == row_id(None, "é")  # NFC


def test_the_row_id_is_a_documented_format() -> None:
    """blake2b-128 over the fields: absent 0xff, else 0x01, the length in 8 bytes little-endian, the UTF-8 text."""
    fields = b"\x01" + (2).to_bytes(8, "little") + b"hi" + b"\x01" + (3).to_bytes(8, "little") + "né".encode() + b"\xff"
    assert row_id("hi", "né") == hashlib.blake2b(fields, digest_size=16).hexdigest()
