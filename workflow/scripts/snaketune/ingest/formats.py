"""The formats of raw files by their names, and what every reader yields. Light, for the Snakefile imports it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".arrow": "arrow",
    ".zip": "zip",
}
COMPRESSED = (".gz", ".zst", ".bz2")


class Raw(NamedTuple):
    """A raw row: where it starts, and its fields."""

    line: int
    fields: dict[str, Any]


class Bad(NamedTuple):
    """What could not be read as a row: where, why, and how it begins."""

    line: int
    reason: str
    head: str


Items = Iterator[Raw | Bad]


def format_of(name: str) -> str | None:
    """The format that a file's name tells, or None."""
    path = Path(name)
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    return FORMATS.get(suffixes[-1].lower()) if suffixes else None
