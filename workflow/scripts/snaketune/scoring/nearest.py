"""The row of the train split that is most like each of a few test rows: what the model may have learnt its answer from.

Rows are compared as sets of word shingles (see `text.minhash`) of prompt and completion, by exact Jaccard similarity.
Shingles of 3 words, not the 5 that deduplication takes: what is asked here is what a row resembles, not whether it is
a copy, and duplicates are gone. Train comes batch by batch; a batch is all that is in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.rows import batches
from snaketune.text.minhash import jaccard_pairs, shingle_sets
from snaketune.text.words import joint

SHINGLE_WORDS = 3
COLUMNS = ["row_id", "prompt", "completion"]


def nearest(queries: pa.Table, train: str) -> list[dict[str, Any] | None]:
    """For each query its nearest row of train: row_id, prompt, completion, similarity; None where all are 0.

    queries: prompt and completion of a few rows; train: a Parquet file. Of equally near rows the first is taken.
    """
    found: list[dict[str, Any] | None] = [None] * queries.num_rows
    if not queries.num_rows:
        return found
    flat, offsets = shingle_sets(_texts(queries), SHINGLE_WORDS)
    best = np.zeros(queries.num_rows)
    for batch in batches(train, COLUMNS):
        similarity = _similarities(flat, offsets, _texts(batch))
        first = similarity.argmax(axis=1)
        for query in np.flatnonzero(similarity.max(axis=1) > best).tolist():
            best[query] = similarity[query, first[query]]
            row = {name: batch[name][int(first[query])].as_py() for name in COLUMNS}
            found[query] = row | {"similarity": round(float(best[query]), 6)}
    return found


def _texts(table: pa.Table) -> pa.Array:
    return joint(table["prompt"].combine_chunks(), table["completion"].combine_chunks())


def _similarities(flat: np.ndarray, offsets: np.ndarray, texts: pa.Array) -> np.ndarray:
    """The Jaccard similarity of each query with each text, [queries, texts]."""
    others, bounds = shingle_sets(texts, SHINGLE_WORDS)
    queries, rows = len(offsets) - 1, len(bounds) - 1
    together = np.concatenate([flat, others])
    ends = np.concatenate([offsets, bounds[1:] + len(flat)])
    left = np.repeat(np.arange(queries), rows)
    right = np.tile(np.arange(queries, queries + rows), queries)
    return jaccard_pairs(together, ends, left, right).reshape(queries, rows)
