"""Which texts are near to a row that is held out: exact Jaccard similarity of word shingles, nothing missed.

Sets of at least a Jaccard similarity t share one of their smallest |A| - ceil(t |A|) + 1 hashes each (prefix filter;
Chaudhuri et al. 2006, Bayardo et al. 2007), so only these are indexed: of 100 shingles 21 at t = 0.8. Pairs that share
one, and whose sizes allow t, are compared exactly.

Memory: 8 bytes a shingle of the held-out rows, 12 bytes an indexed one: 11 bytes a word at t = 0.8; and a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from snaketune.text.minhash import jaccard_pairs, shingle_sets

PAIRS = 1 << 21  # candidates that are held at once


class HeldOut:
    """The held-out rows, to be asked for texts that are near to one of them."""

    def __init__(self, texts: Iterable[pa.Array | pa.ChunkedArray], words: int, threshold: float) -> None:
        """Take all texts. words: of a shingle; threshold: the least Jaccard similarity that is near, above 0."""
        self.words, self.threshold = words, threshold
        flats, sizes = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
        for batch in texts:
            flat, offsets = shingle_sets(batch, words)
            flats.append(flat)
            sizes.append(np.diff(offsets))
        self._flat, self._offsets = np.concatenate(flats), np.cumsum(np.concatenate(sizes))
        keys, owners = self._prefixes(self._flat, self._offsets)
        order = np.argsort(keys, kind="stable")
        self._keys, self._owners = keys[order], owners[order].astype(np.int32)

    def near(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Which texts [n] bool are near to a held-out row; a text without words is near to none."""
        flat, offsets = shingle_sets(texts, self.words)
        found = np.zeros(len(offsets) - 1, dtype=bool)
        keys, askers = self._prefixes(flat, offsets)
        first = np.searchsorted(self._keys, keys, side="left")
        counts = np.searchsorted(self._keys, keys, side="right") - first
        some = np.flatnonzero(counts)
        ends = np.cumsum(counts[some])
        start = 0
        while start < len(some):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
            part = some[start:stop]
            left = np.repeat(askers[part], counts[part])
            within = np.arange(len(left)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            right = self._owners[np.repeat(first[part], counts[part]) + within].astype(np.int64)
            found[self._verified(flat, offsets, left, right)] = True
            start = stop
        return found

    def _prefixes(self, flat: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of each set that must be looked at [k], and whose they are [k] int64."""
        sizes = np.diff(offsets)
        lengths = np.where(sizes > 0, sizes - np.ceil(self.threshold * sizes - 1e-9).astype(np.int64) + 1, 0)
        owners = np.repeat(np.arange(len(sizes)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return flat[offsets[owners] + within], owners

    def _verified(self, flat: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The texts of the pairs (text, held-out row) that are near."""
        pairs = np.unique(left << 32 | right)
        left, right = pairs >> 32, pairs & 0xFFFFFFFF
        mine, theirs = np.diff(offsets)[left], np.diff(self._offsets)[right]
        likely = np.minimum(mine, theirs) >= self.threshold * np.maximum(mine, theirs) - 1e-9
        left, right = left[likely], right[likely]
        own, left = np.unique(left, return_inverse=True)
        held, right = np.unique(right, return_inverse=True)
        parts = [_gathered(flat, offsets, own), _gathered(self._flat, self._offsets, held)]
        sets = np.concatenate([part for part, _ in parts])
        bounds = np.cumsum(np.concatenate([[0], *(sizes for _, sizes in parts)])).astype(np.int64)
        similar = jaccard_pairs(sets, bounds, left.astype(np.int64), (right + len(own)).astype(np.int64))
        return own[left[similar >= self.threshold]]


def _gathered(flat: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the sets one after the other, and their sizes."""
    sizes = np.diff(offsets)[chosen]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return flat[np.repeat(offsets[chosen], sizes) + within], sizes
