"""Which sets share elements with a query: an inverted index from hashes to the sets that hold them.

Used where the answer must not rest on MinHash LSH: the leak check asks each row of train for the evaluation rows that
it is like, decontamination asks each row for the test items that it holds. Hashes are well mixed 64-bit numbers, such
as the shingles of `minhash`: their leading bits name a bucket of the index, so that a look-up is one step. The index
takes at most 32 bytes an element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snaketune.compiled import njit

SIGMAS = 4.0  # how far a sample may mislead: an estimate is taken for wrong by chance once in 30,000


@dataclass(frozen=True)
class Index:
    """k different hashes in order, the sets that hold each, and where the hashes of each bucket begin."""

    keys: np.ndarray  # [k] uint64
    starts: np.ndarray  # [k + 1] int64, into members
    members: np.ndarray  # [m] int32
    buckets: np.ndarray  # [2^bits + 1] int32, into keys
    shift: np.uint64  # a hash shifted to the right by it is its bucket
    common: np.ndarray  # [sets] int32: how many elements of each set were left out as common property

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.uint64]:
        """What the compiled loops read."""
        return self.keys, self.starts, self.members, self.buckets, self.shift


def build(hashes: np.ndarray, members: np.ndarray, sets: int, most: int) -> Index:
    """The index of elements: hashes [m] uint64, each with the set [m] that holds it, no pair twice.

    An element of more than `most` sets is common property, such as a licence, and is left out.
    """
    order = np.argsort(hashes, kind="stable")
    hashes, members = hashes[order], members[order].astype(np.int32)
    del order
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]][: len(hashes)])
    sizes = np.diff(np.r_[starts, len(hashes)])
    rare = sizes <= most
    keys, spread = hashes[starts[rare]], np.repeat(rare, sizes)
    common = np.bincount(members[~spread], minlength=sets).astype(np.int32)
    bits = max(len(keys), 2).bit_length()
    shift = np.uint64(64 - bits)
    bounds = np.zeros((1 << bits) + 1, dtype=np.int32)
    np.cumsum(np.bincount((keys >> shift).astype(np.int64), minlength=1 << bits), out=bounds[1:])
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[rare])])
    return Index(keys, ends, members[spread], bounds, shift, common)


@njit(cache=True)
def _find(keys, buckets, shift, value):
    """The number of a key, or -1."""
    bucket = value >> shift
    for at in range(buckets[bucket], buckets[bucket + np.uint64(1)]):
        if keys[at] == value:
            return at
    return -1


@njit(cache=True)
def _count(index, query, first, counts, touched):
    """Count, for the sets from `first` on, the elements of one query that they hold; returns how many hold some."""
    keys, starts, members, buckets, shift = index
    many = 0
    for value in query:
        key = _find(keys, buckets, shift, value)
        if key < 0:
            continue
        for place in range(starts[key], starts[key + 1]):
            member = members[place]
            if member < first:
                continue
            if not counts[member]:
                touched[many] = member
                many += 1
            counts[member] += 1
    return many


@njit(cache=True)
def holding(index, flat, offsets, needed):
    """The pairs (query, set) in which the query holds at least `needed` [sets] elements of the set.

    Returns queries, sets and shared elements, [p] int64 each, by query, then by set. index: Index.arrays; flat,
    offsets: the query sets, as of minhash.shingle_sets.
    """
    counts = np.zeros(len(needed), dtype=np.int32)
    touched = np.empty(len(needed), dtype=np.int32)
    found = []
    for query in range(len(offsets) - 1):
        many = _count(index, flat[offsets[query] : offsets[query + 1]], 0, counts, touched)
        for member in np.sort(touched[:many]):
            if counts[member] >= needed[member]:
                found.append((query, np.int64(member), np.int64(counts[member])))
            counts[member] = 0
    out = np.empty((3, len(found)), dtype=np.int64)
    for at, (query, member, shared) in enumerate(found):
        out[0, at], out[1, at], out[2, at] = query, member, shared
    return out


@njit(cache=True)
def _jaccard(one, other):
    """Jaccard similarity of two sorted sets."""
    shared, left, right = 0, 0, 0
    while left < len(one) and right < len(other):
        if one[left] < other[right]:
            left += 1
        elif one[left] > other[right]:
            right += 1
        else:
            shared, left, right = shared + 1, left + 1, right + 1
    union = len(one) + len(other) - shared
    return shared / union if union else 0.0


@njit(cache=True)
def _at_most(counted, common, sampled, size, other):
    """The highest Jaccard similarity that a count allows, of a set of `size` elements with one of `other`.

    counted: shared elements among the `sampled` ones of the set, of which `common` could not be counted.
    """
    shared = counted + common
    if sampled < size:
        part = shared / sampled
        spread = max(part * (1 - part), 1 / sampled) / sampled
        shared = (part + SIGMAS * np.sqrt(spread)) * size
    shared = min(shared, size, other)
    return shared / (size + other - shared)


@njit(cache=True)
def nearest(index, queries, indexed, found, limits):
    """Update the nearest query of each indexed set, by exact Jaccard similarity; returns the pairs at or above `bar`.

    index: Index.arrays
    queries: (flat, offsets), the query sets
    indexed: (flat, offsets, sampled, common), the indexed sets in full, and how many elements of each the index was
        given and how many of those it left out, [sets] each
    found: (similarity [sets] float64, query [sets] int64), updated; of equally near queries the first stays
    limits: (first, bar, floor); the sets before `first` are not asked, and no query below `floor` is told
    """
    (flat, offsets), (sets, bounds, sampled, common), (best, best_query), (first, bar, floor) = (
        queries, indexed, found, limits
    )  # fmt: skip
    counts = np.zeros(len(best), dtype=np.int32)
    touched = np.empty(len(best), dtype=np.int32)
    pairs = 0
    for number in range(len(offsets) - 1):
        query = flat[offsets[number] : offsets[number + 1]]
        many = _count(index, query, first, counts, touched)
        for member in touched[:many]:
            size, counted = bounds[member + 1] - bounds[member], counts[member]
            counts[member] = 0
            most = _at_most(counted, common[member], sampled[member], size, len(query))
            if most < floor or (most <= best[member] and most < bar):
                continue
            if sampled[member] == size and not common[member]:
                similarity = counted / (size + len(query) - counted)
            else:
                similarity = _jaccard(query, sets[bounds[member] : bounds[member + 1]])
            pairs += similarity >= bar
            if similarity >= floor and similarity > best[member]:
                best[member], best_query[member] = similarity, number
    return pairs
