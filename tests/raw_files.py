"""Raw files for the tests of ingest: packed, cut, and read by the readers or by the whole stage."""

import bz2
import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builders import read, settings
from ingest import ingest
from snaketune.ingest.formats import Bad, Raw
from snaketune.ingest.sources import opened
from snaketune.ingest.sources import read as read_raw


def rows_of(path: Path, kind: str, unit: str = "file", max_line_mb: int = 64) -> list[Raw | Bad]:
    return list(read_raw(path, path.name, kind, unit, max_line_mb))


def good(items: list[Raw | Bad]) -> list[tuple[int, dict[str, Any]]]:
    return [(item.line, item.fields) for item in items if isinstance(item, Raw)]


def bad(items: list[Raw | Bad]) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in items if isinstance(item, Bad)]


def taken(path: Path, kind: str, **changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What ingest makes of one file: the typed rows and the quarantine."""
    out = path.parent / "rows.parquet", path.parent / "quarantine.parquet"
    file = {"path": str(path), "name": path.name, "format": kind}
    ingest([file], *map(str, out), settings("source", **changes))
    return read(out[0]), read(out[1])


def zst(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst, ".bz2": bz2.compress}


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["one", "zwei\n", "три"]}), sink)
    return sink.getvalue().to_pybytes()


def cut(path: Path, kind: str, cuts: list[int], unit: str = "file") -> list[list[Raw | Bad]]:
    """The rows of each part of a file that is cut at these bytes."""
    ends = [0, *cuts, path.stat().st_size]
    settings = {"format": "auto", "text_unit": unit, "max_line_mb": 64}
    parts = []
    for start, end in itertools.pairwise(ends):
        file = {"path": str(path), "name": path.name, "format": kind, "start": start, "end": end}
        ((_, items),) = opened(file, settings)
        parts.append(list(items))
    return parts


def evenly(path: Path, parts: int) -> list[int]:
    """Where a file is cut into parts of equal size."""
    return [path.stat().st_size * number // parts for number in range(1, parts)]
