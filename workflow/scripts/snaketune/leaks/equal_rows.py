"""Rows of two splits that have something in common which they may not: their text, their prompt, their family.

Every check is a key of 64 bits for each row (see `keys`). The keys of the evaluation rows are held, some 25 bytes a
row and check; the rows that they are compared with come batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.leaks.near_rows import joint
from snaketune.rows import batches
from snaketune.text import keys

EXAMPLES = 5
PLACE = ["row_id", "source", "line"]
COLUMNS = [*PLACE, "prompt", "completion", "group", "cluster", "family"]
PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))

# What may not be equal in two splits.
CHECKS: dict[str, Callable[[pa.Table], np.ndarray]] = {
    "row_id": lambda table: keys.raw(table["row_id"]),
    "text": lambda table: keys.normal(joint(table), "words"),
    "cluster": lambda table: keys.raw(table["cluster"]),
    "family": lambda table: keys.raw(table["family"]),
    "group": lambda table: keys.raw(table["group"]),
    "prompt": lambda table: keys.normal(table["prompt"], "spacing"),
}
# What is told and does not fail: "3 + 4" and "3 - 4" differ in punctuation alone.
TOLD: dict[str, Callable[[pa.Table], np.ndarray]] = {
    "prompt_words": lambda table: keys.normal(table["prompt"], "words"),
}


class Known:
    """The keys of one check in one split, and which of them were met in another split."""

    def __init__(self, found: np.ndarray) -> None:
        """found: the key of each row [n] uint64; 0 stands for nothing to compare."""
        self.keys, self._first, self._rows = np.unique(found, return_index=True, return_counts=True)
        self._met = np.zeros(len(self.keys), dtype=bool)
        self.examples: list[tuple[int, dict[str, Any]]] = []  # the number of the row, and the row that was met

    def meet(self, found: np.ndarray, table: pa.Table) -> None:
        """Note which keys stand among those of the rows of a table [n]."""
        if not len(self.keys):
            return
        place = np.minimum(np.searchsorted(self.keys, found), len(self.keys) - 1)
        equal = np.flatnonzero((self.keys[place] == found) & (found != keys.NOTHING))
        self._met[place[equal]] = True
        for at in equal[: EXAMPLES - len(self.examples)].tolist():
            self.examples.append((int(self._first[place[at]]), table.select(PLACE).slice(at, 1).to_pylist()[0]))

    @property
    def count(self) -> int:
        """The rows of the split whose key was met."""
        return int(self._rows[self._met].sum())


def compare(paths: dict[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """CHECKS and TOLD of all pairs of splits, each as {name, pair, count, examples}.

    An example has the place of a row of the pair's second split (row_id, source, line), and of a row of the first one
    with which it shares something (other_row_id, other_source, other_line). count: such rows of the second split.
    """
    known = {pair: _keys(paths[pair[1]]) for pair in PAIRS}
    for other in ("train", "validation"):
        for batch in batches(paths[other], COLUMNS):
            found = {name: key_of(batch) for name, key_of in (CHECKS | TOLD).items()}
            for split in ("validation", "test"):
                for name, keys_of_rows in known.get((other, split), {}).items():
                    keys_of_rows.meet(found[name], batch)
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in CHECKS | TOLD}
    for (other, split), checks in known.items():
        for name, met in checks.items():
            wanted = rows_at(paths[split], [number for number, _ in met.examples])
            examples = [
                wanted[number] | {f"other_{field}": value for field, value in row.items()}
                for number, row in met.examples
            ]
            made[name].append({"name": name, "pair": f"{other}-{split}", "count": met.count, "examples": examples})
    return [check for name in CHECKS for check in made[name]], [check for name in TOLD for check in made[name]]


def _keys(path: str) -> dict[str, Known]:
    found: dict[str, list[np.ndarray]] = {name: [np.empty(0, np.uint64)] for name in CHECKS | TOLD}
    for batch in batches(path, COLUMNS):
        for name, key_of in (CHECKS | TOLD).items():
            found[name].append(key_of(batch))
    return {name: Known(np.concatenate(parts)) for name, parts in found.items()}


def rows_at(path: str, wanted: list[int]) -> dict[int, dict[str, Any]]:
    """The places (row_id, source, line) of rows of a table, by their numbers."""
    found, done = {}, 0
    if wanted:
        for batch in batches(path, PLACE):
            for number in wanted:
                if done <= number < done + batch.num_rows:
                    found[number] = batch.slice(number - done, 1).to_pylist()[0]
            done += batch.num_rows
    return found
