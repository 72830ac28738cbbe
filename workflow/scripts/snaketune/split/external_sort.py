"""Sort more rows than fit in memory: into buckets by the leading bits of row_id, then bucket by bucket.

A row_id is a hash, so buckets are of equal size and each is sorted by itself. Rows go to disk once, uncompressed in
Arrow's IPC format, and come back in the order of (row_id, source, line). What comes back is the same, chunk for chunk,
whatever the order and the batches in which rows arrived. Memory: rows of HELD bytes, or one bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from snaketune.rows import numbers

BUCKET = 24_000_000  # characters of text in a bucket; with ids, and where a character has more bytes, some 32 MB
MOST = 512  # open files; beyond 12 GB of text, buckets grow instead
HELD = 32_000_000  # bytes of rows that wait to be written
ORDER = [("row_id", "ascending"), ("source", "ascending"), ("line", "ascending")]


def bucket_bits(chars: int) -> int:
    """How many leading bits of a row_id name a bucket, for so many characters of text: from 0 to 9."""
    return (min(max(-(-chars // BUCKET), 1), MOST) - 1).bit_length()


def sorted_rows(tables: Iterable[pa.Table], folder: Path, bits: int) -> Iterator[pa.Table]:
    """The rows of tables of one schema, sorted, a bucket at a time; `folder` is an empty one for the buckets."""
    paths = [folder / f"{number:03d}.arrow" for number in range(1 << bits)]
    _fill(tables, paths, bits)
    for path in paths:
        if path.exists():
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                table = stream.read_all().combine_chunks()
            path.unlink()
            yield table.sort_by(ORDER).combine_chunks()


def _fill(tables: Iterable[pa.Table], paths: list[Path], bits: int) -> None:
    """Append each row to the file of its bucket."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    held: list[pa.Table] = []
    with ExitStack() as stack:

        def flush() -> None:
            table = pa.concat_tables(held)
            held.clear()
            bucket = (numbers(table["row_id"])[:, 0] >> np.uint64(63 - bits) >> np.uint64(1)).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            cuts = np.searchsorted(bucket[order], np.arange(len(paths) + 1))
            for number in np.flatnonzero(np.diff(cuts)).tolist():
                if number not in writers:
                    writers[number] = stack.enter_context(pa.ipc.new_stream(str(paths[number]), table.schema))
                writers[number].write_table(table.take(order[cuts[number] : cuts[number + 1]]))

        for table in tables:
            held.append(table)
            if sum(part.nbytes for part in held) >= HELD:
                flush()
        if held:
            flush()
