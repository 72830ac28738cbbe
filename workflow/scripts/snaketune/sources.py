"""Raw files to raw rows, one reader a format, each good row kept whatever stands around it.

A reader yields `Raw` (the line on which the row starts, 1-based, and its fields) or `Bad` (the line, the reason and
the beginning of what stood there). Nothing is skipped: what cannot be read is a `Bad`. Compressed files (.gz, .zst,
.bz2) are opened by Arrow as streams, so that a row is never held twice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HEAD_CHARS = 200
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


def _lines(path: str | Path) -> Iterator[bytes | Bad]:
    """The lines of a file, with their ends; a Bad where compressed data breaks off. A byte order mark is removed."""
    number = 0
    with pa.input_stream(str(path), compression="detect") as stream:
        lines = io.BufferedReader(stream, buffer_size=1 << 20)  # type: ignore[arg-type]
        while True:
            try:
                line = lines.readline()
            except (OSError, pa.ArrowException) as error:
                yield Bad(number + 1, f"the file cannot be read any further: {str(error).splitlines()[0]}", "")
                return
            if not line:
                return
            number += 1
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


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
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield _undecodable(line, number, error)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Bad(number, f"broken JSON: {error}", line[:HEAD_CHARS].decode("utf-8", "replace").strip())
        else:
            yield _object(value, number)


def _object(value: Any, line: int) -> Raw | Bad:
    if isinstance(value, dict):
        return Raw(line, value)
    return Bad(line, f"a JSON object was expected, found {type(value).__name__}", json.dumps(value)[:HEAD_CHARS])


def _json(path: str | Path) -> Iterator[Raw | Bad]:
    """A JSON file that is one array of objects; `line` counts its items."""
    pieces = list(_lines(path))
    if pieces and isinstance(pieces[-1], Bad):
        yield pieces[-1]
        return
    data = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    try:
        values = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        yield _undecodable(data, 1, error)
        return
    except json.JSONDecodeError as error:
        yield Bad(error.lineno, f"broken JSON: {error.msg}", data[:HEAD_CHARS].decode("utf-8", "replace"))
        return
    for number, value in enumerate(values if isinstance(values, list) else [values], start=1):
        yield _object(value, number)


def _delimited(path: str | Path, delimiter: str) -> Iterator[Raw | Bad]:
    """CSV or TSV with a header line; quoted fields may span lines."""
    faults: dict[int, Bad] = {}

    def decoded() -> Iterator[str]:
        for number, line in enumerate(_lines(path), start=1):
            if isinstance(line, Bad):
                faults[number] = line
                return
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                faults[number] = _undecodable(line, number, error)
                yield line.decode("utf-8", "replace")

    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(decoded(), delimiter=delimiter)
    header: list[str] | None = None
    start = 1
    for values in reader:
        first, start = start, reader.line_num + 1
        broken = [faults.pop(number) for number in range(first, start) if number in faults]
        if broken:
            yield broken[0]
        elif header is None:
            header = values
        elif len(values) == len(header):
            yield Raw(first, dict(zip(header, values, strict=True)))
        elif values:
            reason = f"{len(values)} columns, where the header has {len(header)}"
            yield Bad(first, reason, delimiter.join(values)[:HEAD_CHARS])
    yield from faults.values()


def _parquet(path: str | Path) -> Iterator[Raw | Bad]:
    """A Parquet file; `line` counts its rows."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Raw(number, fields)
    except (OSError, pa.ArrowException) as error:
        yield Bad(number + 1, f"the file cannot be read any further: {str(error).splitlines()[0]}", "")


def _text(path: str | Path, name: str, unit: str) -> Iterator[Raw | Bad]:
    """Plain text: the file, each paragraph (blank lines between), or each line is a row with the field `text`."""
    about = {"file": name, "stem": Path(name).stem}
    start, held = 1, []
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, Bad):
            yield line
            break
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _undecodable(line, number, error)
            continue
        if unit == "line" and text.strip():
            yield Raw(number, {"text": text.rstrip("\r\n"), **about})
        elif unit == "paragraph" and not text.strip():
            if held:
                yield Raw(start, {"text": "".join(held), **about})
            held = []
        elif unit != "line":
            start = number if not held else start
            held.append(text)
    if held:
        yield Raw(start, {"text": "".join(held), **about})
