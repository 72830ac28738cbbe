"""Rows in, train, validation and test out: whole families of rows are dealt, never single rows.

In:  dedup/rows-00000.parquet and dedup/clusters.parquet
Out: split/{train,validation,test}.parquet, each sorted by row_id

A family is a connected component over three ties: the cluster (removed duplicates included), the group, and the same
prompt. So no paper, customer or question stands in two splits, not even through a duplicate that was removed.
Families are put in an order that depends on the seed and on their ids alone, and dealt at the cumulative shares: the
shares are met to within half a family, whatever the order or number of the input files.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from snaketune.components import Components
from snaketune.job import StageError, run
from snaketune.rows import SPLIT, read_table, write_table

SPLITS = ("train", "validation", "test")


def split(rows: str, clusters: str, outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Deal the rows; `settings` holds the share of each split and the seed."""
    order = [(name, "ascending") for name in ("row_id", "source", "line")]
    table = read_table(rows).sort_by(order)
    families = _families(read_table(clusters).sort_by(order))
    table = table.append_column("family", pa.array(families, pa.string()))
    parts = deal(families, [settings[name] for name in SPLITS], settings["seed"])
    counts = []
    for number, name in enumerate(SPLITS):
        part = table.filter(pa.array(parts == number))
        if not part.num_rows:
            raise StageError(
                f"the {name} split is empty: {table.num_rows} rows in {len(np.unique(families))} families of related "
                "rows are too few to deal. Add data, or let `source.columns.group` name a finer group"
            )
        write_table(part, outputs[name], SPLIT)
        counts.append(f"{part.num_rows:,} {name}")
    return f"{', '.join(counts)} rows, of {len(np.unique(families)):,} families"


def _families(everything: pa.Table) -> np.ndarray:
    """The family of each kept row [n], as the smallest row_id in it; `everything` is every clean row, in order."""
    ties = Components(everything.num_rows)
    for column in ("cluster", "group", "question"):
        ties.union_equal(pd.factorize(everything[column].to_pandas())[0])
    kept = everything["kept"].to_numpy()
    ids = pd.Series(everything["row_id"].to_pylist(), dtype=object)[kept]
    return ids.groupby(ties.labels()[kept]).transform("min").to_numpy()


def deal(families: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    """The number of the split of each row [n].

    A family goes to the split in whose stretch of the cumulative rows its middle falls.
    """
    names, member = np.unique(families.astype(str), return_inverse=True)
    sizes = np.bincount(member)
    salted = [blake2b(f"{seed}:{name}".encode(), digest_size=16).digest() for name in names.tolist()]
    order = np.array(sorted(range(len(names)), key=salted.__getitem__))
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    bounds = np.cumsum(shares)[:-1] * len(families)
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[order] = np.searchsorted(bounds, middles, side="right")
    return dealt[member]


if __name__ == "__main__":
    run(
        lambda job: split(
            job.input.rows,
            job.input.clusters,
            {name: job.output[name] for name in SPLITS},
            job.params.settings,
        ),
        snakemake,
    )
