"""Shingles of words, MinHash band keys, and exact Jaccard similarity: compiled loops over Arrow's own buffers.

A text is the set of its runs of k words (see `words`), lower-cased, punctuation aside; a text of fewer words is one
shingle, its whole word sequence, so that short texts are compared like all others. Two texts share a band of r MinHash
values with probability J^r for Jaccard similarity J, and at least one of b bands with 1 - (1 - J^r)^b: at 14 bands of
8 that is 0.92 at J = 0.8 and 0.99 at J = 0.85 (parameters of FineWeb, Penedo et al. 2024).

The hashes are a file format: all arithmetic is on unsigned 64-bit integers and wraps, so that signatures are equal on
every platform. With F the finaliser of SplitMix64 (Steele et al. 2014) and G = 0x9E3779B97F4A7C15:

    word       F(x_n),  x_0 = G,  x_i = (x_{i-1} ^ c_i) * G    for the lower-case code points c_1 .. c_n
    shingle    F(width * G + sum of word_j * M^(width - j)),  M = 0xD1342543DE82EF95,  width = min(k, words)
    minimum p  the least of shingle * a_p + b_p, with draws d_i = F(i * G): a_p = d_(p+1) | 1, b_p = d_(p+1+bands*rows)
    band key   y_r,  y_0 = 0,  y_i = F(y_{i-1} * G + minimum i of the band)

Multiply-add is a good enough family of permutations because the shingles are well mixed before it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.compiled import njit
from snaketune.text import words as alphabet

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROLL = np.uint64(0xD1342543DE82EF95)
LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_30, _27, _31, _0, _1 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(0), np.uint64(1)
_MULTIPLY_1, _MULTIPLY_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_KIND = alphabet.KIND_SHIFT
_CODE = (1 << _KIND) - 1


def shingle_sets(texts: pa.Array | pa.ChunkedArray, words: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingle sets of n texts: sorted hashes [total] uint64 and where each set begins, [n + 1] int64.

    A set is empty only where the text has no word, or is null. Needs 4 bytes for each byte of text while it works on
    a chunk.
    """
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    flats, sizes = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for chunk in chunks:
        data, bounds = _buffers(chunk)
        flat, offsets = _shingle_sets(data, bounds, alphabet.table(), words)
        flats.append(flat)
        sizes.append(np.diff(offsets))
    return np.concatenate(flats), np.cumsum(np.concatenate(sizes))


def band_keys(flat: np.ndarray, offsets: np.ndarray, bands: int, rows_per_band: int) -> np.ndarray:
    """The band keys of n shingle sets, [n, bands] uint64. Those of an empty set mean nothing."""
    return _band_keys(flat, offsets, _permutations(bands * rows_per_band), rows_per_band)


def jaccard_pairs(flat: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of pairs of shingle sets, [p] float64; 0 where both are empty.

    left, right: [p] int64, the numbers of the sets of each pair.
    """
    return _jaccard_pairs(flat, offsets, left, right)


def _buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of an array, and where each text begins in them, [n + 1] int64."""
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), bounds


def _permutations(count: int) -> np.ndarray:
    """Odd multipliers and offsets, [2, count] uint64."""
    draws = scramble(np.arange(1, 2 * count + 1, dtype=np.uint64) * GOLDEN).reshape(2, count)
    draws[0] |= _1
    return draws


@njit(cache=True)
def scramble(x):
    """The finaliser of SplitMix64, of one uint64 or of an array: every input bit reaches every output bit."""
    x = (x ^ (x >> _30)) * _MULTIPLY_1
    x = (x ^ (x >> _27)) * _MULTIPLY_2
    return x ^ (x >> _31)


@njit(cache=True)
def code_point(data, at, end):
    """The code point at a byte, and the byte after it; a broken sequence is a separator of one byte."""
    first = int(data[at])
    if first < 0x80:
        return first, at + 1
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if at + size > end:
        return 0, at + 1
    code = first & (0xFF >> (size + 1))
    for next_at in range(at + 1, at + size):
        code = code << 6 | (int(data[next_at]) & 0x3F)
    return code, at + size


@njit(cache=True)
def _word_hashes(data, start, end, table, out):
    """Write the hashes of a text's words to `out`; returns how many there are."""
    count = 0
    state = GOLDEN
    opened = alphabet.SEPARATOR  # what the word that is being read consists of
    at = start
    while at < end:
        code, at = code_point(data, at, end)
        if code < alphabet.SIZE:
            entry = int(table[code])
            kind, code = entry >> _KIND, entry & _CODE
        else:
            kind = alphabet.ALONE if code < alphabet.IDEOGRAPHS else alphabet.SEPARATOR
        if kind == alphabet.MARK:
            if opened != alphabet.SEPARATOR:
                state = (state ^ np.uint64(code)) * GOLDEN
            continue
        if opened != alphabet.SEPARATOR and (kind != alphabet.LETTER or opened != alphabet.LETTER):
            out[count] = scramble(state)
            count += 1
            state = GOLDEN
        opened = kind
        if kind != alphabet.SEPARATOR:
            state = (state ^ np.uint64(code)) * GOLDEN
    if opened != alphabet.SEPARATOR:
        out[count] = scramble(state)
        count += 1
    return count


@njit(cache=True)
def _shingles(hashes, count, words, out):
    """Write the shingles of `count` > 0 word hashes to `out`, rolling; returns how many there are."""
    width = min(words, count)
    leave = _1  # what a word has been multiplied with when it leaves the window
    for _ in range(width):
        leave *= ROLL
    total = _0
    for at in range(count):
        total = total * ROLL + hashes[at]
        if at >= width:
            total -= hashes[at - width] * leave
        if at >= width - 1:
            out[at - width + 1] = scramble(total + np.uint64(width) * GOLDEN)
    return count - width + 1


@njit(cache=True)
def _sort_unique(values, spare, out):
    """Write the distinct values to `out` in order; returns how many there are.

    Hashes are spread evenly, so one pass that deals them by their highest bits leaves them almost sorted, and the
    insertions that follow are few: linear time, where a comparison sort takes most of the whole kernel's.
    """
    bits = 1
    while 1 << bits < len(values):
        bits += 1
    shift = np.uint64(64 - bits)
    ends = np.zeros((1 << bits) + 1, np.int64)
    for value in values:
        ends[(value >> shift) + _1] += 1
    for bucket in range(1 << bits):
        ends[bucket + 1] += ends[bucket]
    for value in values:
        bucket = value >> shift
        spare[ends[bucket]] = value
        ends[bucket] += 1
    count = 0
    for number in range(len(values)):
        value = spare[number]
        at = count
        while at > 0 and out[at - 1] > value:
            at -= 1
        if at > 0 and out[at - 1] == value:
            continue
        for place in range(count, at, -1):
            out[place] = out[place - 1]
        out[at] = value
        count += 1
    return count


@njit(cache=True)
def _shingle_sets(data, bounds, table, words):
    """The sets of all texts, one after the other, and their bounds."""
    size = len(bounds) - 1
    longest = 0
    for number in range(size):
        longest = max(longest, bounds[number + 1] - bounds[number])
    most = longest // 2 + 1  # words of a text: a separator stands between two, or they take three bytes each
    hashes, shingles = np.empty(most, np.uint64), np.empty(most, np.uint64)
    flat = np.empty((bounds[size] - bounds[0]) // 2 + size, np.uint64)
    offsets = np.zeros(size + 1, np.int64)
    for number in range(size):
        total = offsets[number]
        count = _word_hashes(data, bounds[number], bounds[number + 1], table, hashes)
        if count:
            count = _shingles(hashes, count, words, shingles)
            total += _sort_unique(shingles[:count], hashes, flat[total:])
        offsets[number + 1] = total
    return flat[: offsets[size]].copy(), offsets


@njit(cache=True)
def _band_keys(flat, offsets, family, rows_per_band):
    """The inner loop runs over the permutations, which the compiler turns into vector instructions."""
    count = family.shape[1]
    times, plus = family[0], family[1]
    keys = np.zeros((len(offsets) - 1, count // rows_per_band), np.uint64)
    minima = np.empty(count, np.uint64)
    for number in range(len(offsets) - 1):
        minima[:] = LARGEST
        for at in range(offsets[number], offsets[number + 1]):
            shingle = flat[at]
            for p in range(count):
                minima[p] = min(minima[p], shingle * times[p] + plus[p])
        for p in range(count):
            band = p // rows_per_band
            keys[number, band] = scramble(keys[number, band] * GOLDEN + minima[p])
    return keys


@njit(cache=True)
def _jaccard_pairs(flat, offsets, left, right):
    similarity = np.zeros(len(left))
    for pair in range(len(left)):
        one, one_end = offsets[left[pair]], offsets[left[pair] + 1]
        other, other_end = offsets[right[pair]], offsets[right[pair] + 1]
        total = one_end - one + other_end - other
        shared = 0
        while one < one_end and other < other_end:
            if flat[one] == flat[other]:
                shared += 1
                one += 1
                other += 1
            elif flat[one] < flat[other]:
                one += 1
            else:
                other += 1
        if total:
            similarity[pair] = shared / (total - shared)
    return similarity
