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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
        ("split", pa.string()),  # as the data itself names it; `split.method: column` reads it
        ("meta", pa.string()),
    ]
)
CLUSTERED = ROW.append(pa.field("cluster", pa.string()))
# A family is dealt to the splits, and resampled by the bootstrap, as one: its cluster, its group, its prompt.
SPLIT = CLUSTERED.append(pa.field("family", pa.string()))

# Every clean row after the search for duplicates, sorted by (row_id, source, line): what the split deals.
CLUSTERS = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("group", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("chars", pa.int64()),  # of the clean prompt and completion
        ("question", pa.string()),  # the first row_id with an equal prompt; null for plain text
        ("cluster", pa.string()),  # the smallest row_id of all related rows
        ("kept", pa.bool_()),
    ]
)

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
LEDGER = pa.schema(
    [
        *DROPPED,
        ("kept", pa.bool_()),
        ("split", pa.string()),
        ("chars", pa.int64()),  # of the raw prompt and completion; of a quarantined row, none
        ("chars_kept", pa.int64()),  # of the clean ones; 0 for a dropped row
    ]
)
# What was found in a row that a person should know of: personal data, words of a list; kinds and counts, never texts.
FINDINGS = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("rule", pa.string()),
        ("kind", pa.string()),
        ("count", pa.int64()),
    ]
)

QUARANTINE = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("head", pa.string()),
    ]
)

# Columns of few values, which a dictionary makes smaller; of texts and ids it would only cost time.
REPEATING = frozenset({"source", "group", "label", "split", "stage", "rule", "kind", "relation"})
BATCH_ROWS = 8192  # a row group has at most so many rows,
BATCH_BYTES = 8_000_000  # and at most so many bytes of text, unless a single row has more


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
    """Writes a Parquet file batch by batch: zstd, never more than a row group and a batch in memory.

    Row groups are cut by what the rows hold, not by how they arrive: equal rows in equal order make equal bytes. The
    file appears under its name when it is complete.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self.path = Path(path)
        self.schema = schema
        self.rows = 0
        self._part = self.path.with_name(self.path.name + ".part")
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0  # of the row group that is being filled

    def __enter__(self) -> TableWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        repeating = [name for name in self.schema.names if name in REPEATING]
        self._writer = pq.ParquetWriter(self._part, self.schema, compression="zstd", use_dictionary=repeating)
        return self

    def write(self, table: pa.Table) -> None:
        """Append a table of the writer's columns, in any order."""
        self.rows += table.num_rows
        table = table.select(self.schema.names).cast(self.schema)
        ends = np.cumsum(row_bytes(table))
        start = done = 0
        while start < table.num_rows:
            room = np.searchsorted(ends, done + BATCH_BYTES - self._bytes, side="right")
            stop = min(int(room), start + BATCH_ROWS - self._rows, table.num_rows)
            if stop == start and not self._rows:
                stop += 1  # a row that is larger than a row group has one for itself
            self._held.append(table.slice(start, stop - start))
            self._rows += stop - start
            self._bytes += int(ends[stop - 1]) - done if stop > start else 0
            done = int(ends[stop - 1]) if stop else 0
            start = stop
            if start < table.num_rows or self._rows == BATCH_ROWS:
                self._flush()

    def _flush(self) -> None:
        if self._rows:
            assert self._writer is not None, "the writer is used in a with block"
            # One chunk, because pages are cut at the borders of chunks.
            self._writer.write_table(pa.concat_tables(self._held).combine_chunks(), row_group_size=BATCH_ROWS)
        self._held, self._rows, self._bytes = [], 0, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)


def row_bytes(table: pa.Table) -> np.ndarray:
    """The bytes of text of each row [n] int64, over all string columns."""
    total = np.zeros(table.num_rows, dtype=np.int64)
    for column in table.columns:
        if pa.types.is_string(column.type):
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy()
    return total


def write_table(table: pa.Table, path: str | Path, schema: pa.Schema) -> None:
    """Write a whole table with the fixed settings."""
    with TableWriter(path, schema) as out:
        out.write(table)


def read_table(paths: str | Path | Iterable[str | Path], columns: list[str] | None = None) -> pa.Table:
    """Read one table, or several as one."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])


def batches(path: str | Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read a table by row groups, none of which is large."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns)


def numbers(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Row ids as numbers [n, 2] uint64, in the order of the ids: 16 bytes a row instead of 36."""
    text = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    text = text.cast(pa.binary()).cast(pa.binary(32))
    digits = np.frombuffer(text.buffers()[1], dtype=np.uint8)[32 * text.offset :][: 32 * len(text)]
    values = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0")).reshape(len(text), 16, 2)
    return (values[:, :, 0] << 4 | values[:, :, 1]).astype(np.uint8).view(">u8").astype(np.uint64)
