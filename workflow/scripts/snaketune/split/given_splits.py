"""The data's own split: which rows it puts where, and which rows must go so that its test set keeps its meaning."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from snaketune.job import StageError
from snaketune.rows import batches
from snaketune.split.families import column
from snaketune.split.split_names import SPELLINGS, split_numbers


def read(clusters: str) -> np.ndarray:
    """The split that the data names for each clean row [n] int8.

    Raises StageError where a row names none, or none that is known.
    """
    given = column(clusters, ["split"], lambda batch: split_numbers(batch["split"]), ((), np.int8))
    if (given < 0).any():
        raise StageError(_told(clusters, int((given < 0).sum())))
    return given


def _told(clusters: str, count: int) -> str:
    """The sentence about the first row, by source and line, whose split is not known."""
    faults = []
    for batch in batches(clusters, ["source", "line", "split"]):
        bad = batch.filter(pa.array(split_numbers(batch["split"]) < 0))
        faults += bad.sort_by([("source", "ascending"), ("line", "ascending")]).slice(0, 1).to_pylist()
    first = min(faults, key=lambda row: (row["source"], row["line"]))
    what = "names no split" if first["split"] is None else f"names the split `{first['split']}`"
    known = "; ".join("/".join(names) for names in SPELLINGS)
    return (
        f"{first['source']}, line {first['line']} {what} ({count:,} such rows in all). `split.method: column` knows "
        f"{known}: mend the column that `source.columns.split` names, or choose another method"
    )


def unprotected(given: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows [n] bool stand in a less protected split than the best protected row of their component.

    Removed duplicates count too: a train row that is like a test row stays out, even where the test row was removed.
    """
    best = np.zeros(len(given), dtype=np.int8)
    np.maximum.at(best, labels, given)
    return given < best[labels]
