"""A million rows that have nothing to do with each other: how many does the search for duplicates join?

python benchmarks/data/unrelated.py FOLDER [--rows 1000000]

Rows of 40 words, drawn at random from 50,000. Two of them share a run of five words once in 10^20 pairs, so that
every row that is joined to another is a fault of the hashes. Prints rows, pairs, seconds and memory.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow/scripts"))

from deduplicate import deduplicate
from sign import sign
from snaketune.rows import ROW, TableWriter

SETTINGS = {"exact": True, "near": True, "threshold": 0.8, "shingle_words": 5, "bands": 14, "rows_per_band": 8}
WORDS, VOCABULARY, BATCH = 40, 50_000, 8192


def write(path: Path, rows: int) -> None:
    """Write the rows."""
    draw = np.random.default_rng(1)
    vocabulary = pa.array([f"word{number}" for number in range(VOCABULARY)])
    with TableWriter(path, ROW) as out:
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            words = vocabulary.take(pa.array(draw.integers(VOCABULARY, size=count * WORDS)))
            offsets = pa.array(np.arange(0, count * WORDS + 1, WORDS, dtype=np.int32))
            texts = pc.binary_join(pa.ListArray.from_arrays(offsets, words), " ")
            ids = [draw.bytes(16).hex() for _ in range(count)]
            columns = {name: pa.nulls(count, ROW.field(name).type) for name in ROW.names}
            lines = pa.array(np.arange(start, start + count))
            columns |= {"row_id": ids, "source": pa.repeat("drawn", count), "line": lines, "completion": texts}
            out.write(pa.table(columns, schema=ROW))


def main() -> None:
    """Write, sign, deduplicate, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    rows, signatures = given.folder / "rows.parquet", given.folder / "signatures.parquet"
    write(rows, given.rows)
    outputs = {name: str(given.folder / f"{name}.parquet") for name in ("clusters", "evidence", "dropped")}
    started = time.process_time()
    sign(str(rows), str(signatures), SETTINGS)
    signed = time.process_time()
    said = deduplicate([str(signatures)], [str(rows)], outputs, SETTINGS | {"max_cluster_share": 0.1})
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    pairs = pq.read_metadata(outputs["evidence"]).num_rows
    print(f"{said}; {pairs} pairs; sign {signed - started:.1f} s, deduplicate {done - signed:.1f} s, {peak:.0f} MB")


if __name__ == "__main__":
    main()
