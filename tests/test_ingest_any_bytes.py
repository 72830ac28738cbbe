"""Any bytes in a file of any format end as rows and quarantine: no exception, and nothing is lost between them."""

import csv
import gzip
import io
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from raw_files import cut, good, parquet_bytes, rows_of, taken
from snaketune.ingest.formats import FORMATS, Bad, Raw
from snaketune.job import StageError

FAST = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
KINDS = sorted(set(FORMATS.values()))
UNITS = ("file", "paragraph", "line")
MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def arrow_bytes(new: Any = pa.ipc.new_file) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": ["one", "zwei\n", "три"], "n": [1, None, 3]})
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def zip_bytes() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "text\nx\n")
        archive.writestr("b.jsonl", '{"text": "y"}\n')
    return held.getvalue()


WHOLE = [parquet_bytes(), arrow_bytes(), arrow_bytes(pa.ipc.new_stream), zip_bytes()]
SEEDS = [
    b'{"text": "a"}\n', b'[{"text": "a"}, ', b'text,n\n"a', b'"', b"\n", b"\r\n", b",", b"\t", b"{", b"[", b"]", b"}",
    b"\x00", b"\xef\xbb\xbf", b"\xff", "é😀".encode(), b"\xc3", b'{"text": "\\ud800"}', b'{"text": null, "x": NaN}',
    b"[" * 2000, b"1" * 5000, b'{"text": 1e999}', b'{"messages": []}', b'{"text": [1]}',
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A whole table or archive with a few bytes changed, and perhaps its end lost."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


TEXTS = st.lists(st.one_of(st.sampled_from(SEEDS), st.binary(max_size=12)), max_size=10).map(b"".join)
LINES = TEXTS.filter(lambda data: not data.startswith(MARKS))


@bounds(max_examples=250, **FAST)
@given(st.one_of(TEXTS, TEXTS, damaged()), st.sampled_from(KINDS), st.sampled_from(UNITS), st.booleans())
def test_any_bytes_in_any_format_end_as_rows_and_quarantine(
    tmp_path: Path, data: bytes, kind: str, unit: str, packed: bool
) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(data) if packed and len(data) % 2 else data)
    items = rows_of(path, kind, unit)
    assert all(item.line >= 1 for item in items)
    try:
        rows, aside = taken(path, kind, text_unit=unit)
    except StageError as error:
        told = f"none of the {len(items):,} raw rows can be used" in str(error)
    else:
        told = len(rows) + len(aside) == len(items)
    assert told


@bounds(max_examples=150, **FAST)
@given(LINES, st.integers(1, 5))
def test_of_any_bytes_each_line_that_is_not_blank_is_a_row_or_set_aside(
    tmp_path: Path, data: bytes, parts: int
) -> None:
    (path := tmp_path / "a").write_bytes(data)
    marked = data.removeprefix(b"\xef\xbb\xbf")
    numbers = [number for number, line in enumerate(marked.split(b"\n"), start=1) if line.strip()]
    for kind in ("jsonl", "text"):
        whole = rows_of(path, kind, "line")
        assert [item.line for item in whole] == numbers
        if data:
            cuts = sorted({len(data) * number // parts for number in range(1, parts)} - {0})
            assert [item for part in cut(path, kind, cuts, "line") for item in part] == whole or "nan" in str(whole)


@bounds(max_examples=150, **FAST)
@given(LINES)
def test_texts_and_set_aside_units_cover_the_bytes(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "a").write_bytes(data)
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = io.BytesIO(data).readlines()
    groups = [list(group) for full, group in itertools.groupby(lines, lambda line: bool(line.strip())) if full]
    expected = {"file": [data] if data else [], "paragraph": [b"".join(group) for group in groups]}
    for unit, texts in expected.items():
        items = rows_of(path, "text", unit)
        assert len(items) == len(texts)
        for item, text in zip(items, texts, strict=True):
            assert isinstance(item, Raw) == _is_utf8(text)
            assert isinstance(item, Bad) or item.fields["text"] == text.decode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@bounds(max_examples=200, **FAST)
@given(LINES, st.sampled_from([",", "\t"]))
def test_every_record_that_pythons_csv_finds_is_a_row_or_set_aside(tmp_path: Path, data: bytes, delimiter: str) -> None:
    data = b"text%cn\n" % delimiter.encode() + data
    (path := tmp_path / "a").write_bytes(data)
    reader = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline="\n"), delimiter=delimiter)
    found: list[list[str] | None] = []
    while True:
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error:
            record = ["an", "error", "is", "a", "record"]
        if record:
            found.append(record)
    items = rows_of(path, "csv" if delimiter == "," else "tsv")
    assert len(items) == len(found) - 1
    for item, record in zip(items, found[1:], strict=True):
        assert isinstance(item, Bad) or list(item.fields.values()) == record
        assert isinstance(item, Raw) or len(record or []) != 2 or not _is_utf8(data) or "never closed" in item.reason


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@bounds(max_examples=150, **FAST)
@given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5), st.booleans(), st.booleans())
def test_a_json_array_is_what_pythons_json_reads(tmp_path: Path, values: list[Any], ascii_: bool, wide: bool) -> None:
    text = json.dumps(values, ensure_ascii=ascii_, indent=3 if wide else None)
    (path := tmp_path / "a").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert good(rows_of(path, "json")) == list(enumerate(values, start=1))


@bounds(max_examples=60, **FAST)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=30), st.integers(1, 99))
def test_a_cut_off_gz_gives_the_first_rows_and_one_fault(tmp_path: Path, texts: list[str], share: int) -> None:
    packed = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    (path := tmp_path / "a.jsonl.gz").write_bytes(packed[: max(1, len(packed) * share // 100)])
    *rows, last = rows_of(path, "jsonl")
    assert [fields["text"] for _, fields in good(rows)] == texts[: len(rows)]
    assert isinstance(last, Bad)
    assert last.line == len(rows) + 1


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_has_no_row_and_is_no_fault_of_the_reader(tmp_path: Path, kind: str, suffix: str) -> None:
    (path := tmp_path / f"a{suffix}").write_bytes(b"")
    assert not good(rows_of(path, kind))
