"""MinHash signatures and exact Jaccard similarity of word shingles, in numpy.

A text is the set of its runs of k words, lower-cased, punctuation aside; a text of fewer words is one shingle, its
whole word sequence, so that short texts are compared like all others. Two texts share a band of r MinHash values with
probability J^r for Jaccard similarity J, and at least one of b bands with 1 - (1 - J^r)^b: at 14 bands of 8 that is
0.92 at J = 0.8 and 0.99 at J = 0.85 (parameters of FineWeb, Penedo et al. 2024). Candidates are then compared exactly.

All arithmetic is on unsigned 64-bit integers and wraps, so signatures are equal on every platform.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)
EMPTY = np.array([], dtype=np.uint64)


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def scramble(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shingles(text: str, words: int) -> np.ndarray:
    """The set of a text's shingles of `words` words, as sorted 64-bit hashes [n]; empty only without any word."""
    hashes = np.fromiter((_word_hash(word) for word in WORD.findall(text.lower())), dtype=np.uint64)
    if not len(hashes):
        return EMPTY
    width = min(words, len(hashes))
    total = np.full(len(hashes) - width + 1, width, dtype=np.uint64)
    for offset in range(width):
        total = scramble(total * _MIX + hashes[offset : len(hashes) - width + 1 + offset])
    return np.unique(total)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared shingles over all shingles of two sets; two empty sets are equal."""
    if not len(one) and not len(other):
        return 1.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def permutations(count: int) -> np.ndarray:
    """`count` fixed odd multipliers and offsets, [2, count] uint64: the hash family of the signatures."""
    draws = scramble(np.arange(1, 2 * count + 1, dtype=np.uint64) * _MIX).reshape(2, count)
    draws[0] |= np.uint64(1)
    return draws


def bands(hashes: np.ndarray, family: np.ndarray, rows_per_band: int) -> np.ndarray:
    """The band keys of a shingle set: [bands] uint64, one hash of each band's MinHash values.

    hashes: [n] uint64, not empty; family: [2, bands * rows_per_band] from `permutations`.
    """
    minima = np.full(family.shape[1], np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(hashes), 512):  # a slice of [512, permutations] stays in the cache
        part = scramble(hashes[start : start + 512, None] * family[0] + family[1])
        np.minimum(minima, part.min(axis=0), out=minima)
    keys = np.zeros(len(minima) // rows_per_band, dtype=np.uint64)
    for row in minima.reshape(-1, rows_per_band).T:
        keys = scramble(keys * _MIX + row)
    return keys
