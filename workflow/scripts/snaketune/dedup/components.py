"""Connected components over row numbers: which rows belong together, whatever the order in which it is learnt."""

from __future__ import annotations

import numpy as np

from snaketune.compiled import njit


class Components:
    """Union-find whose label is the smallest member, so that labels do not depend on the order of the unions.

    8 bytes an item. Roots are always smaller than what hangs below them, and finding halves the paths.
    """

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size, dtype=np.int64)

    def union(self, one: int, other: int) -> None:
        """Join the components of two items."""
        self.union_pairs(np.array([one]), np.array([other]))

    def union_pairs(self, left: np.ndarray, right: np.ndarray) -> None:
        """Join the components of many pairs of items, [p] int64 each."""
        _union(self._parent, left.astype(np.int64), right.astype(np.int64))

    def union_equal(self, keys: np.ndarray) -> None:
        """Join the items [n] that have equal keys; a negative key joins nothing."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0))
        self.union_pairs(order[same], order[same + 1])

    def labels(self) -> np.ndarray:
        """The smallest member of each item's component, [n] int64."""
        return _labels(self._parent)


@njit(cache=True)
def _find(parent, item):
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@njit(cache=True)
def _union(parent, left, right):
    for pair in range(len(left)):
        one, other = _find(parent, left[pair]), _find(parent, right[pair])
        parent[max(one, other)] = min(one, other)


@njit(cache=True)
def _labels(parent):
    labels = np.empty_like(parent)
    for item in range(len(parent)):  # a parent is smaller than its item, and has its label already
        labels[item] = item if parent[item] == item else labels[parent[item]]
    return labels
