"""Candidate pairs: which rows share a band, found by sorting, with work that is linear in the rows.

A bucket (the rows with one key in one band) of m rows gives m - 1 pairs, each with the bucket's first row: a star.
Where the first row turns out to be unlike the others, the others are compared once more, with the first of them.
A pair is one number, the smaller row in the upper 32 bits; pairs are kept sorted and unique.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Band = tuple[np.ndarray, np.ndarray]  # keys [n] uint64 and the numbers of their rows [n] int64

NONE = np.empty(0, np.uint64)
_HALF = np.uint64(32)


def pack(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pairs of row numbers, each smaller than 2^32, as single numbers [p] uint64."""
    return left.astype(np.uint64) << _HALF | right.astype(np.uint64)


def unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smaller and the larger row of each pair, [p] int64 each."""
    return (pairs >> _HALF).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def stars(bands: Iterable[Band]) -> np.ndarray:
    """The pairs of each bucket's rows with its first row, [p] uint64."""
    found = NONE
    for keys, numbers in bands:
        first, member, _ = _star(keys, numbers)
        found = np.union1d(found, pack(first, member))
    return found


def second_stars(bands: Iterable[Band], failed: np.ndarray) -> np.ndarray:
    """The same among those rows of each bucket that failed against its first row; `failed` are such pairs, sorted."""
    found = NONE
    for keys, numbers in bands:
        first, member, key = _star(keys, numbers)
        lost = contained(pack(first, member), failed)
        first, member, _ = _star(key[lost], member[lost])
        found = np.union1d(found, pack(first, member))
    return found


def contained(pairs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which pairs [p] bool are among known ones, which are sorted."""
    if not len(known):
        return np.zeros(len(pairs), dtype=bool)
    return known[np.minimum(np.searchsorted(known, pairs), len(known) - 1)] == pairs


def _star(keys: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row that is not the first of its bucket: that first row, the row, the key."""
    order = np.argsort(keys)
    ordered = keys[order]
    equal = np.zeros(len(keys) + 1, dtype=bool)
    equal[1:-1] = ordered[1:] == ordered[:-1]
    shared = equal[1:] | equal[:-1]
    starts = np.flatnonzero(~equal[:-1][shared])
    keys, numbers = ordered[shared], numbers[order[shared]]
    if not len(keys):
        return numbers, numbers, keys
    first = np.repeat(np.minimum.reduceat(numbers, starts), np.diff(starts, append=len(keys)))
    others = first != numbers
    return first[others], numbers[others], keys[others]
