"""Raw files to raw rows, one reader a format, each good row kept whatever stands around it.

A reader yields `Raw` (the line on which the row starts, 1-based, and its fields) or `Bad` (the line, the reason and
the beginning of what stood there). Nothing is skipped: what cannot be read is a `Bad`. Compressed files (.gz, .zst,
.bz2) are opened by Arrow as streams, so that a row is never held twice; it is imported where it is used, because the
Snakefile asks `format_of` in every call.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_CHARS = 200
PIECE = 1 << 20
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
COMPRESSED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Raw:
    """A raw row: where it starts, and its fields."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """What could not be read as a row: where, why, and how it begins."""

    line: int
    reason: str
    head: str


def format_of(name: str) -> str | None:
    """The format that a file's name tells, or None."""
    path = Path(name)
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    return FORMATS.get(suffixes[-1].lower()) if suffixes else None


def read(path: str | Path, name: str, kind: str, text_unit: str = "file") -> Iterator[Raw | Bad]:
    """Read the rows of one file; `kind` is a value of FORMATS, `name` is what the file is called in messages."""
    if kind == "text":
        return _text(path, name, text_unit)
    readers: dict[str, Callable[[str | Path], Iterator[Raw | Bad]]] = {
        "csv": lambda p: _delimited(p, ","),
        "tsv": lambda p: _delimited(p, "\t"),
        "json": _json,
        "jsonl": _jsonl,
        "parquet": _parquet,
    }
    return readers[kind](path)


def _pieces(path: str | Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed. Where compressed data breaks off, whatever stands before comes first."""
    import pyarrow as pa

    done = 0
    with pa.input_stream(str(path), compression="detect") as stream:
        try:
            while piece := stream.read(PIECE):
                done += len(piece)
                yield piece
            return
        except (OSError, pa.ArrowException):
            pass  # Arrow drops the whole piece in which the data breaks off: it is read once more, byte by byte
    tail = bytearray()
    with pa.input_stream(str(path), compression="detect") as stream:
        while done:
            done -= len(stream.read(min(done, PIECE)))
        try:
            while byte := stream.read(1):
                tail += byte
        except (OSError, pa.ArrowException):
            yield bytes(tail)
            raise


def _lines(path: str | Path) -> Iterator[bytes | Bad]:
    """The lines of a file, with their ends; a Bad where compressed data breaks off. A byte order mark is removed."""
    number, rest = 0, b""
    try:
        for piece in _pieces(path):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                number += 1
                yield (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line) + b"\n"
    except OSError as error:  # Arrow's own errors of reading are OSErrors too
        reason = f"the file cannot be read any further: {str(error).splitlines()[0]}"
        yield Bad(number + 1, reason, rest[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS])
        return
    if rest:
        yield rest.removeprefix(b"\xef\xbb\xbf") if number == 0 else rest


def _undecodable(line: bytes, number: int, error: UnicodeDecodeError) -> Bad:
    head = line[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS].rstrip("\n")
    return Bad(number, f"invalid UTF-8 at byte {error.start + 1} of the line", head)


def _jsonl(path: str | Path) -> Iterator[Raw | Bad]:
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, Bad):
            yield line
            return
        if not line.strip():
            continue
        head = line[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS].strip()
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield _undecodable(line, number, error)
        except (ValueError, RecursionError) as error:  # a ValueError too: a number of thousands of digits
            yield Bad(number, f"broken JSON: {error}", head)
        else:
            yield _object(value, number, head)


def _object(value: Any, line: int, head: str) -> Raw | Bad:
    if isinstance(value, dict):
        return Raw(line, value)
    return Bad(line, f"a JSON object was expected, found {type(value).__name__}", head)


def _json(path: str | Path) -> Iterator[Raw | Bad]:
    """A JSON file that is one array of objects; `line` counts its items."""
    pieces = list(_lines(path))
    if pieces and isinstance(pieces[-1], Bad):
        yield pieces[-1]
        return
    data = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    head = data[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS]
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        yield _undecodable(data, 1, error)
        return
    except json.JSONDecodeError as error:
        yield Bad(error.lineno, f"broken JSON: {error.msg}", head)
        return
    except (ValueError, RecursionError) as error:
        yield Bad(1, f"broken JSON: {error}", head)
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], start=1):
        yield _object(value, number, "" if isinstance(value, (list, dict)) else str(value)[:HEAD_CHARS])


class _Decoded:
    """The lines of a delimited file as text: its faults by line, the last line, and whether the end was reached."""

    def __init__(self, path: str | Path) -> None:
        self._lines = enumerate(_lines(path), start=1)
        self.faults: dict[int, Bad] = {}
        self.last = ""
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            if isinstance(line, Bad):
                self.faults[number] = line
                break
            try:
                self.last = line.decode("utf-8")
            except UnicodeDecodeError as error:
                self.faults[number] = _undecodable(line, number, error)
                self.last = line.decode("utf-8", "replace")
            yield self.last
        self.ended = True


def _records(path: str | Path, delimiter: str) -> Iterator[tuple[int, list[str]] | Bad]:
    """The records of a delimited file, each with the line on which it starts; blank lines are none."""
    csv.field_size_limit(2**31 - 1)
    text = _Decoded(path)
    reader = csv.reader(text, delimiter=delimiter)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield Bad(first, f"broken {delimiter!r}-separated line: {error}", text.last[:HEAD_CHARS].strip())
            continue
        broken = [text.faults.pop(number) for number in range(first, reader.line_num + 1) if number in text.faults]
        if broken:
            yield broken[0]
        elif text.ended:  # the reader asks for a line beyond the last only inside of quotes
            yield Bad(first, "a quoted field is opened here and never closed", delimiter.join(values)[:HEAD_CHARS])
        elif values:
            yield first, values
    yield from text.faults.values()


def _delimited(path: str | Path, delimiter: str) -> Iterator[Raw | Bad]:
    """CSV or TSV with a header line; quoted fields may span lines. Without a sound header no row can be read."""
    header: list[str] | None = None
    for record in _records(path, delimiter):
        if isinstance(record, Bad):
            yield (
                record
                if header
                else Bad(record.line, f"no row is read, for want of a header: {record.reason}", record.head)
            )
            if header is None:
                return
            continue
        line, values = record
        if header is None:
            header = values
            if twice := [name for name in header if header.count(name) > 1]:
                yield Bad(
                    line, f"no row is read: the header names `{twice[0]}` twice", delimiter.join(header)[:HEAD_CHARS]
                )
                return
        elif len(values) == len(header):
            yield Raw(line, dict(zip(header, values, strict=True)))
        else:
            reason = f"{len(values)} columns, where the header has {len(header)}"
            yield Bad(line, reason, delimiter.join(values)[:HEAD_CHARS])


def _parquet(path: str | Path) -> Iterator[Raw | Bad]:
    """A Parquet file; `line` counts its rows. It is read from its end, so a compressed one is unpacked in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        packed = Path(path).suffix in COMPRESSED
        with pq.ParquetFile(pa.BufferReader(b"".join(_pieces(path))) if packed else path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Raw(number, fields)
    except (OSError, pa.ArrowException) as error:
        yield Bad(number + 1, f"the file cannot be read any further: {str(error).splitlines()[0]}", "")


def _text(path: str | Path, name: str, unit: str) -> Iterator[Raw | Bad]:
    """Plain text: the file, each paragraph (blank lines between), or each line is a row with the field `text`.

    A unit with a fault in it is bad as a whole: a text with a hole is not the text.
    """
    about = {"file": name, "stem": Path(name).stem}
    start, held = 1, []
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, Bad):
            yield line
            return
        if unit != "file" and not line.strip():
            if held:
                yield _unit(start, held, about)
            held = []
            continue
        start = number if not held else start
        held.append(line)
        if unit == "line":
            yield _unit(start, [line.rstrip(b"\r\n")], about)
            held = []
    if held:
        yield _unit(start, held, about)


def _unit(start: int, lines: list[bytes], about: dict[str, str]) -> Raw | Bad:
    try:
        return Raw(start, {"text": b"".join(lines).decode("utf-8"), **about})
    except UnicodeDecodeError:
        for number, line in enumerate(lines, start=start):  # no UTF-8 sequence holds a line feed
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _undecodable(line, number, error)
        raise
