"""Parquet and Arrow files. `line` counts the rows; what cannot be read costs its row, or the batch that it spoils."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from snaketune.ingest.formats import Bad, Raw
from snaketune.ingest.pieces import BrokenError, Place, broken, on_disk

BATCH_BYTES = 4_000_000  # of the table in memory, about
BATCH_ROWS = 8192
# What Arrow raises on damaged files; a size that damage made huge is a MemoryError.
FAULTS = (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError, RuntimeError, pa.ArrowException)

Wanted = Callable[[list[str]], list[str]]


def parquet(place: Place, wanted: Wanted) -> Iterator[Raw | Bad]:
    """A Parquet file, or the row groups of it whose first byte lies in a part; only the wanted columns are read."""
    try:
        with on_disk(place) as path, pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            number = 1
            for group in range(file.num_row_groups):
                meta = file.metadata.row_group(group)
                if place.end is None or place.start <= _first_byte(meta) < place.end:
                    yield from _group(file, group, number, wanted)
                number += meta.num_rows
    except (*FAULTS, BrokenError) as error:
        if place.start == 0:  # the part that begins the file tells it
            yield Bad(1, str(error) if isinstance(error, BrokenError) else broken(error), "")


def _first_byte(group: Any) -> int:
    """The byte of the file at which a row group begins."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    return min(chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks)  # a dictionary comes first


def _group(file: pq.ParquetFile, group: int, first: int, wanted: Wanted) -> Iterator[Raw | Bad]:
    meta = file.metadata.row_group(group)
    names = file.schema_arrow.names
    size = max(1, min(BATCH_ROWS, BATCH_BYTES * meta.num_rows // max(1, meta.total_byte_size)))
    number = first
    try:
        for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=wanted(names)):
            yield from rows_of(batch, number)
            number += batch.num_rows
    except FAULTS as error:
        last = first + meta.num_rows - 1
        yield Bad(number, f"the rows to {last} cannot be read: {_words(error)}", "")


def arrow(place: Place, wanted: Wanted) -> Iterator[Raw | Bad]:
    """An Arrow IPC file or stream. A file that has lost its end is read as the stream that it begins with."""
    number = 1
    try:
        with on_disk(place) as path, pa.memory_map(path) as file:
            for batch in _ipc_batches(file):
                names = wanted(batch.schema.names)
                size = max(1, min(BATCH_ROWS, BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
                for start in range(0, batch.num_rows, size):
                    yield from rows_of(batch.slice(start, size), number + start, names)
                number += batch.num_rows
    except (*FAULTS, BrokenError) as error:
        yield Bad(number, str(error) if isinstance(error, BrokenError) else broken(error), "")


def _ipc_batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    magic = file.read(8)
    file.seek(0)
    if magic.startswith(b"ARROW1"):
        try:
            reader = pa.ipc.open_file(file)
        except FAULTS:
            file.seek(8)
        else:
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            return
    elif not magic:
        raise BrokenError("the file is empty")
    yield from pa.ipc.open_stream(file)


def rows_of(batch: pa.RecordBatch, first: int, names: list[str] | None = None) -> Iterator[Raw | Bad]:
    """The rows of a batch, numbered from `first`. Damaged text costs its row, other damage the batch."""
    names = names or batch.schema.names
    batch = batch.select(names)
    try:
        batch.validate(full=True)
        columns = [column.to_pylist() for column in batch.columns]
    except FAULTS:
        yield from _one_by_one(batch, first)
        return
    for number, values in enumerate(zip(*columns, strict=True), start=first):
        yield Raw(number, dict(zip(names, values, strict=True)))


def _one_by_one(batch: pa.RecordBatch, first: int) -> Iterator[Raw | Bad]:
    """The rows of a batch with a fault in it; texts are looked at as bytes, so that the offsets can be checked."""
    columns = []
    try:
        for column in batch.columns:
            text = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
            plain = column.view(text) if text else column
            plain.validate(full=True)
            columns.append((plain, text is not None))
    except FAULTS as error:
        yield Bad(first, f"the rows to {first + batch.num_rows - 1} cannot be read: {_words(error)}", "")
        return
    for row in range(batch.num_rows):
        fields: dict[str, Any] = {}
        for name, (column, is_text) in zip(batch.schema.names, columns, strict=True):
            try:
                value = column[row].as_py()
                fields[name] = value.decode("utf-8") if is_text and value is not None else value
            except UnicodeDecodeError as error:
                yield Bad(first + row, f"invalid UTF-8 at byte {error.start + 1} of the column `{name}`", "")
                break
            except FAULTS as error:
                yield Bad(first + row, f"the column `{name}` cannot be read: {_words(error)}", "")
                break
        else:
            yield Raw(first + row, fields)


def _words(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
