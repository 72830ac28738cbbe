"""Connected components over row numbers: which rows belong together, whatever the order in which it is learnt."""

from __future__ import annotations

import numpy as np


class Components:
    """Union-find whose label is the smallest member, so that labels do not depend on the order of the unions."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """The smallest member of the item's component."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def union(self, one: int, other: int) -> None:
        """Join two components."""
        one, other = self.find(one), self.find(other)
        if one != other:
            self._parent[max(one, other)] = min(one, other)

    def union_equal(self, keys: np.ndarray) -> None:
        """Join the items [n] that have equal keys; a negative key joins nothing."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0))
        for at in same.tolist():
            self.union(int(order[at]), int(order[at + 1]))

    def labels(self) -> np.ndarray:
        """The smallest member of each item's component, [n] int64."""
        return np.fromiter((self.find(item) for item in range(len(self._parent))), np.int64, len(self._parent))
