"""A file that is cut anywhere gives every row once, with its line; a line of any length costs no memory."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import read, settings
from ingest import ingest
from raw_files import bad, cut, evenly, good, rows_of
from snaketune.ingest import pieces
from snaketune.ingest.formats import Bad, Raw
from snaketune.ingest.sources import read as read_raw

ENDS = {
    "line feeds": "{}\n{}\n{}\n".format,
    "no last line feed": "{}\n{}\n{}".format,
    "carriage returns": "{}\r\n{}\r\n{}\r\n".format,
    "byte order mark": "\ufeff{}\n{}\n{}\n".format,
    "blank lines": "{}\n{}\n{}\n\n \n\r\n".format,
    "line feeds only": lambda *lines: "\n\n".join(lines) + "\n\n",
}
WORDS = ["naïve 😀", "b", "日本語 three"]


@pytest.mark.parametrize("piece", [1, 7, 1 << 19])
@pytest.mark.parametrize("kind", ["jsonl", "text"])
@pytest.mark.parametrize("ends", ENDS)
def test_every_cut_gives_every_line_once_and_to_the_part_in_which_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, kind: str, piece: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE", piece)
    data = ENDS[ends](*(json.dumps({"text": word}, ensure_ascii=False) if kind == "jsonl" else word for word in WORDS))
    (path := tmp_path / "a").write_bytes(data.encode())
    raw = data.encode().split(b"\n")
    starts = [sum(len(line) + 1 for line in raw[:number]) for number in range(len(raw))]
    lines = [number for number, line in enumerate(raw, start=1) if line.strip()]
    for at in range(1, path.stat().st_size):
        first, second = cut(path, kind, [at], "line")
        assert [(line, fields["text"]) for line, fields in good(first + second)] == list(zip(lines, WORDS, strict=True))
        assert not bad(first + second)
        assert len(first) == sum(1 for line in lines if starts[line - 1] < at)


@pytest.mark.parametrize("parts", [2, 7, 60])
def test_faults_keep_their_lines_in_every_part(tmp_path: Path, parts: int) -> None:
    lines = [b'{"text": "%d"}' % number if number % 3 else b"\xff%d" % number for number in range(40)]
    (path := tmp_path / "a").write_bytes(b"\n".join(lines) + b"\n")
    items = [item for part in cut(path, "jsonl", evenly(path, parts)) for item in part]
    assert [item.line for item in items] == list(range(1, 41))
    assert [isinstance(item, Bad) for item in items] == [number % 3 == 0 for number in range(40)]


def test_of_a_utf16_file_only_the_first_part_speaks(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes("a\nb\nc\n".encode("utf-16"))
    first, *others = cut(path, "text", [4, 8], "line")
    assert [item.line for item in first] == [1]
    assert others == [[], []]


def parquet(path: Path, rows: int, group: int, codec: str = "none") -> Path:
    table = pa.table({"text": [f"row {number} " + "x" * 50 for number in range(rows)], "n": list(range(rows))})
    pq.write_table(table, path, row_group_size=group, compression=codec)
    return path


@pytest.mark.parametrize("parts", [1, 2, 7, 100])
def test_a_row_group_belongs_to_the_part_with_its_first_byte(tmp_path: Path, parts: int) -> None:
    path = parquet(tmp_path / "a.parquet", 1000, 93)
    items = [item for part in cut(path, "parquet", evenly(path, parts)) for item in part]
    assert [(line, fields["n"]) for line, fields in good(items)] == [(number + 1, number) for number in range(1000)]
    assert not bad(items)


def test_a_row_group_is_told_by_its_smallest_offset(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", 10, 5)
    assert [len(part) for part in cut(path, "parquet", [4])] == [0, 10]  # the magic number comes before it
    assert [len(part) for part in cut(path, "parquet", [5])] == [5, 5]


def test_a_broken_parquet_file_is_told_once_whatever_the_parts(tmp_path: Path) -> None:
    (path := tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\x00" * 100)
    assert [len(part) for part in cut(path, "parquet", [20, 40])] == [1, 0, 0]


def test_one_and_seven_shards_give_the_same_tables(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"q{n}", "completion": "é" * n}) if n % 11 else "{oops" for n in range(300)]
    (path := tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tables = {}
    for parts in (1, 7):
        ends = [0, *evenly(path, parts), path.stat().st_size]
        rows, aside = [], []
        for number in range(parts):
            file = {"path": str(path), "name": "a", "format": "jsonl", "start": ends[number], "end": ends[number + 1]}
            outputs = [str(tmp_path / f"{name}-{parts}-{number}.parquet") for name in ("rows", "quarantine")]
            ingest([file], *outputs, settings("source"))
            rows += read(outputs[0])
            aside += read(outputs[1])
        tables[parts] = rows, aside
    assert tables[1] == tables[7]
    assert [len(table) for table in tables[1]] == [272, 28]


def test_a_part_in_which_no_row_begins_gives_empty_tables(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 100}) + "\n", encoding="utf-8")
    outputs = [str(tmp_path / "rows.parquet"), str(tmp_path / "quarantine.parquet")]
    file = {"path": str(path), "name": "a", "format": "jsonl", "start": 50, "end": 80}
    assert ingest([file], *outputs, settings("source")) == "0 rows of 1 file"
    assert [read(output) for output in outputs] == [[], []]


# Lines, items and texts beyond `max_line_mb`

LONG = b"y" * 20_000_000
TOO_LONG = "of more than 1 MB (`source.max_line_mb`)"


def peak(work: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """What a function gives, and the most memory (MB) that it held."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "data", "kept", "aside"),
    [
        ("jsonl", (b'{"text": "a"}\n{"text": "', b'"}\n{"text": "b"}\n'), [1, 3], (2, f"a line {TOO_LONG}")),
        ("text by line", (b"a\n", b"\nb\n"), [1, 3], (2, f"a line {TOO_LONG}")),
        ("text by paragraph", (b"a\n\nc\n", b"\nd\n\nb\n"), [1, 7], (3, f"a paragraph {TOO_LONG}")),
        ("text by file", (b"a\n", b"\nb\n"), [], (1, f"a text {TOO_LONG}")),
        ("html", (b"a\n", b"\nb\n"), [], (1, f"a text {TOO_LONG}")),
        ("json", (b'[{"text": "a"}, {"text": "', b'"}, {"text": "b"}]'), [1, 3], (2, f"a single item {TOO_LONG}")),
        ("csv", (b"text,n\na,1\n", b",2\nb,3\n"), [2, 4], (3, f"a line {TOO_LONG}")),
        ("csv", (b'text,n\na,1\n"', b'\n\n,",2\nb,3\n'), [2, 6], (3, f"a line {TOO_LONG}")),
    ],
)
def test_a_line_beyond_the_limit_is_set_aside_and_never_held(
    tmp_path: Path, kind: str, data: tuple[bytes, bytes], kept: list[int], aside: tuple[int, str]
) -> None:
    (path := tmp_path / "a").write_bytes(LONG.join(data))
    kind, _, unit = kind.partition(" by ")
    items, memory = peak(lambda: rows_of(path, kind, unit or "file", 1))
    assert [line for line, _ in good(items)] == kept
    assert bad(items) == [aside]
    assert len(next(item for item in items if isinstance(item, Bad)).head) <= 200
    assert memory < 8


def test_a_quote_that_is_never_closed_costs_no_memory(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(
        b'n,text\n1,a\n2,"' + b"x" * 99 + b"\n" * 3 + (b"3," + b"y" * 97 + b"\n") * 50_000
    )
    items, memory = peak(lambda: rows_of(path, "csv", "file", 1))
    assert [line for line, _ in good(items)] == [2]
    assert bad(items) == [(3, f"a record {TOO_LONG}")]
    assert memory < 8


def test_a_quoted_field_beyond_the_limit_ends_at_its_closing_quotation_mark(tmp_path: Path) -> None:
    field = b'"' + (b'say ""x,y""\n' * 100_000) + b'"'
    (path := tmp_path / "a").write_bytes(b"n,text\n1,a\n2," + field + b"\n3,b\n")
    items = rows_of(path, "csv", "file", 1)
    assert [line for line, _ in good(items)] == [2, 100_004]
    assert bad(items) == [(3, f"a record {TOO_LONG}")]


def test_a_line_up_to_the_limit_is_read(tmp_path: Path) -> None:
    for size, count in ((1_000_000, 1), (1_000_001, 0)):
        (path := tmp_path / "a").write_bytes(b'{"text": "' + b"x" * (size - 12) + b'"}\n')
        assert len(good(rows_of(path, "jsonl", "file", 1))) == count


def test_a_json_array_is_read_item_by_item(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b"[" + b",\n".join([b'{"text": "%s"}' % (b"x" * 1000)] * 20_000) + b"]")
    lines, memory = peak(lambda: [item.line for item in read_raw(path, "a", "json") if isinstance(item, Raw)])
    assert lines == list(range(1, 20_001))
    assert memory < 5  # of a file of 20 MB
