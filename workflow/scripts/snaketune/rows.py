"""The row: its schema, its identity, and how tables of rows are read and written.

A row's id is a hash of what it says, never of where it stands, so that files can be reordered, split or joined
and every later file still speaks of the same row. Two equal raw rows have one id; (source, line, row_id) tells
them apart. Tables are written with fixed settings, so that equal rows make equal bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

ROW = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("messages", pa.string()),
        ("group", pa.string()),
        ("label", pa.string()),
        ("meta", pa.string()),
    ]
)
CLUSTERED = ROW.append(pa.field("cluster", pa.string()))
# A family is dealt to the splits, and resampled by the bootstrap, as one: its cluster, its group, its prompt.
SPLIT = CLUSTERED.append(pa.field("family", pa.string()))

# Why a row left the run: the stage and rule that decided, the value that it had and the threshold that it missed.
DROPPED = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
    ]
)
LEDGER = DROPPED.append(pa.field("kept", pa.bool_())).append(pa.field("split", pa.string()))

QUARANTINE = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("head", pa.string()),
    ]
)

BATCH_ROWS = 8192


def row_id(prompt: str | None, completion: str, messages: str | None = None) -> str:
    """The identity of a row: 128 bits, in hex, of its NFC-normalised fields, each with its length before it."""
    digest = blake2b(digest_size=16)
    for field in (prompt, completion, messages):
        if field is None:
            digest.update(b"\xff")
            continue
        data = unicodedata.normalize("NFC", field).encode("utf-8", "surrogatepass")
        digest.update(b"\x01" + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class TableWriter:
    """Writes a Parquet file batch by batch: zstd, fixed row groups, never more than a batch in memory.

    The file appears under its name when it is complete.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self.path = Path(path)
        self.schema = schema
        self.rows = 0
        self._part = self.path.with_name(self.path.name + ".part")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> TableWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._part, self.schema, compression="zstd")
        return self

    def write(self, table: pa.Table) -> None:
        """Append a table of the writer's columns, in any order."""
        if table.num_rows:
            assert self._writer is not None, "the writer is used in a with block"
            self._writer.write_table(table.select(self.schema.names).cast(self.schema), row_group_size=BATCH_ROWS)
            self.rows += table.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        self._writer.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)


def write_table(table: pa.Table, path: str | Path, schema: pa.Schema) -> None:
    """Write a whole table with the fixed settings."""
    with TableWriter(path, schema) as out:
        out.write(table)


def read_table(paths: str | Path | Iterable[str | Path], columns: list[str] | None = None) -> pa.Table:
    """Read one table, or several as one."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])


def batches(path: str | Path, columns: list[str] | None = None, size: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Read a table in batches of at most `size` rows."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=size, columns=columns):
            yield pa.Table.from_batches([batch])
