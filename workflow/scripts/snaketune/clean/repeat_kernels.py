"""What a text repeats: lines, paragraphs and runs of words, from their hashes.

The definitions are those of Gopher (Rae et al. 2021, table A1) as datatrove counts them. Two thoughts make it fast:
hash tables hold positions, not texts; and a run of n words can only come twice where both its runs of n - 1 words do,
so that from 3 words on few positions are left to look at.

The kernels call nothing outside this file: numba's cache does not notice an edit of another one.
"""

from __future__ import annotations

import numpy as np

from snaketune.compiled import njit

SHORTEST, LONGEST = 2, 10  # words of a run
TOP = 4  # up to here the commonest run is measured, beyond it all repeated ones
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@njit(cache=True)
def _table_size(entries):
    """A power of two that leaves at least half of a table empty."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return size


@njit(cache=True)
def _find(table, mask, keys, key):
    """The slot that holds a position with this key, or the empty slot where it belongs."""
    slot = np.int64((key ^ (key >> _HALF)) & np.uint64(mask))
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True)
def duplicates(hashes, chars, ends):
    """How many elements of each text stood in it before, and their characters: [n, 2] int64.

    hashes [k] uint64, chars [k] int64, ends [n + 1] int64: lines or paragraphs, from `text_kernels.scan_lines`.
    """
    n = len(ends) - 1
    out = np.zeros((n, 2), dtype=np.int64)
    table = np.empty(_table_size(np.diff(ends).max() if n else 0), dtype=np.int64)
    for text in range(n):
        size = _table_size(ends[text + 1] - ends[text])
        table[:size] = -1
        for at in range(ends[text], ends[text + 1]):
            slot = _find(table, size - 1, hashes, hashes[at])
            if table[slot] < 0:
                table[slot] = at
            else:
                out[text, 0] += 1
                out[text, 1] += chars[at]
    return out


@njit(cache=True)
def _index(table, keys, spots, found, first, times):
    """Enter the runs that begin at `spots[:found]`: the first equal run of each, how often that comes, the commonest.

    Fills first[spot] and times[first]. Of equally common runs the one that comes first in the text counts.
    """
    size = _table_size(found)
    table[:size] = -1
    best = -1
    for number in range(found):
        at = spots[number]
        slot = _find(table, size - 1, keys, keys[at])
        if table[slot] < 0:
            table[slot] = at
            times[at] = 0
        one = table[slot]
        first[at] = one
        times[one] += 1
        if best < 0 or times[one] > times[best] or (times[one] == times[best] and one < best):
            best = one
    return best


@njit(cache=True)
def _repeated_chars(spots, found, first, seen, sums, words):
    """The characters of runs that came before; after each, the next one is looked for behind it."""
    total = free = 0
    for number in range(found):
        seen[spots[number]] = False
    for number in range(found):
        at = spots[number]
        if at < free:
            continue
        if seen[first[at]]:
            total += sums[at + words] - sums[at]
            free = at + words
        seen[first[at]] = True
    return total


@njit(cache=True)
def ngrams(hashes, chars, ends):
    """The characters in repeated runs of words of each text: [n, 9] int64, for runs of 2 to 10 words.

    For 2 to 4 words, those of the commonest run times how often it comes, a space between words included; overlapping
    runs count each, and a run that comes once counts 0. For 5 to 10 words, those of all runs that came before, without
    spaces; none is counted twice. hashes [k] uint64, chars [k] int64, ends [n + 1] int64: the words of each text.
    """
    n = len(ends) - 1
    out = np.zeros((n, LONGEST - SHORTEST + 1), dtype=np.int64)
    most = np.diff(ends).max() if n else 0
    table = np.empty(_table_size(most), dtype=np.int64)
    keys, sums = np.empty(most, dtype=np.uint64), np.zeros(most + 1, dtype=np.int64)
    spots, first, times = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    seen = np.empty(most, dtype=np.bool_)
    for text in range(n):
        start, count = ends[text], ends[text + 1] - ends[text]
        found = max(count - 1, 0)
        for at in range(count):
            sums[at + 1] = sums[at] + chars[start + at]
            keys[at], spots[at] = hashes[start + at], at
        for words in range(SHORTEST, LONGEST + 1):
            for number in range(found):
                at = spots[number]
                keys[at] = ((keys[at] ^ (keys[at] >> _HALF)) + hashes[start + at + words - 1]) * _ODD
            best = _index(table, keys, spots, found, first, times)
            if best < 0 or times[best] < 2:
                break
            if words <= TOP:
                out[text, words - SHORTEST] = times[best] * (sums[best + words] - sums[best] + words - 1)
            else:
                out[text, words - SHORTEST] = _repeated_chars(spots, found, first, seen, sums, words)
            left = 0
            for number in range(found - 1):
                at = spots[number]
                if spots[number + 1] == at + 1 and times[first[at]] > 1 and times[first[at + 1]] > 1:
                    spots[left] = at
                    left += 1
            found = left
    return out
