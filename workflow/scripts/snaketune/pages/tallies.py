"""Counting over tables that are read batch by batch: groups with their rows and sums, and the first few of an order.

Held are the groups alone, or the few rows; results do not depend on how the rows were cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from snaketune.rows import batches

MANY_GROUPS = 65536


def over(paths: Iterable[str | Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The batches of several tables, one after another."""
    for path in paths:
        yield from batches(path, columns)


def tally(tables: Iterable[pa.Table], keys: list[str], measures: Sequence[tuple[str, str]] = ()) -> pa.Table:
    """The groups of equal keys, sorted by key, with the column `rows` and one for each measure.

    A measure is (column, "sum" | "min" | "max"), and its column is named column_sum and so on; whole numbers are summed
    exactly. Nulls are a key of their own, and no part of a measure.
    """
    names = [f"{column}_{how}" for column, how in measures]
    hows = [("rows", "sum"), *((name, how) for name, (_, how) in zip(names, measures, strict=True))]

    def grouped(parts: list[pa.Table]) -> pa.Table:
        groups = pa.concat_tables(parts).group_by(keys, use_threads=False).aggregate(hows)
        return groups.rename_columns([*keys, "rows", *names])

    parts: list[pa.Table] = []
    held = settled = 0
    for table in tables:
        ones = pa.array(np.ones(table.num_rows, np.int64))
        columns = [*(table[key] for key in keys), ones, *(table[column] for column, _ in measures)]
        parts.append(grouped([pa.table(columns, names=[*keys, "rows", *names])]))
        held += parts[-1].num_rows
        if held > 2 * settled + MANY_GROUPS:
            parts = [grouped(parts)]
            held = settled = parts[0].num_rows
    if not parts:
        return pa.table({name: [] for name in [*keys, "rows", *names]})
    return grouped(parts).sort_by([(key, "ascending") for key in keys])


def first(
    tables: Iterable[pa.Table], by: list[tuple[str, str]], count: int, unlike: str | None = None
) -> pa.Table | None:
    """The first `count` rows in an order of columns, such as [("row_id", "ascending")]; None where there is no row.

    Of rows that are equal in the column `unlike` only the first counts.
    """
    best: pa.Table | None = None
    for table in tables:
        if table.num_rows:
            both = (table if best is None else pa.concat_tables([best, table])).sort_by(by)
            if unlike:
                _, firsts = np.unique(both[unlike].combine_chunks().dictionary_encode().indices, return_index=True)
                both = both.take(np.sort(firsts)[:count])
            best = both.slice(0, count).combine_chunks()
    return best
