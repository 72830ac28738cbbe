"""Digests of rows: 128-bit hashes that are equal just where two texts differ in case and white space only.

One compiled pass over the bytes lowers the case, collapses white space to one space and strips it, without making the
text that results. Two lanes of 64 bits, both beginning at GOLDEN, read each code point c:

    a = (a ^ c) * P            FNV-1a (Fowler, Noll, Vo)
    b = (b << 23 | b >> 41) * Q + c

A prompt and the completion after it are each closed by 2^32 plus the number of their code points, read like a code
point; the finaliser of SplitMix64 ends both lanes. Two unlike rows among a million share a digest by chance with
probability 1.5e-27. It is no cryptographic hash: who knows it can make two rows that share one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.compiled import njit
from snaketune.text.minhash import GOLDEN, code_point, scramble
from snaketune.text.text_kernels import buffers
from snaketune.text.words import KIND_SHIFT, SIZE, WHITE, table

DIGEST = pa.binary(16)
P = np.uint64(0x100000001B3)
Q = np.uint64(0x9E6C63D0876A9A47)
CLOSED = np.uint64(1 << 32)
_CASE = (1 << KIND_SHIFT) - 1
_LEFT, _RIGHT = np.uint64(23), np.uint64(41)
_SPACE = np.uint64(32)


def digests(prompts: pa.Array, completions: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Of each row [n]: the digest of both texts, and of the prompt alone, null where the prompt says nothing."""
    both, asked, empty = _digests(*buffers(prompts), *buffers(completions), table())
    return _binary(both), pc.if_else(pa.array(empty), pa.scalar(None, DIGEST), _binary(asked))


def _binary(lanes: np.ndarray) -> pa.Array:
    """Two lanes [n, 2] uint64 as n binary values of 16 bytes, the first lane first, little-endian."""
    data = pa.py_buffer(np.ascontiguousarray(lanes.astype("<u8")))
    return pa.Array.from_buffers(DIGEST, len(lanes), [None, data])


@njit(cache=True)
def _read(a, b, value):
    return (a ^ value) * P, (b << _LEFT | b >> _RIGHT) * Q + value


@njit(cache=True)
def _is_white(code):
    """Whether a code point is in WHITE; the plain space, which is every sixth, is found at once."""
    if code <= 0x20:
        return code == 0x20 or 0x09 <= code <= 0x0D or code >= 0x1C
    return code >= 0x85 and code in WHITE


@njit(cache=True)
def _text(data, start, end, cases, a, b):
    """Read one text into the lanes; also whether it says nothing."""
    count = np.uint64(0)
    gap = False
    at = start
    while at < end:
        code, at = code_point(data, at, end)
        if _is_white(code):
            gap = True
            continue
        if gap and count:
            a, b = _read(a, b, _SPACE)
            count += np.uint64(1)
        gap = False
        a, b = _read(a, b, np.uint64(int(cases[code]) & _CASE if code < SIZE else code))
        count += np.uint64(1)
    a, b = _read(a, b, CLOSED + count)
    return a, b, count == 0


@njit(cache=True)
def _digests(prompts, prompt_ends, completions, completion_ends, cases):
    rows = len(prompt_ends) - 1
    both, asked = np.empty((rows, 2), np.uint64), np.empty((rows, 2), np.uint64)
    empty = np.empty(rows, np.bool_)
    for row in range(rows):
        a, b, empty[row] = _text(prompts, prompt_ends[row], prompt_ends[row + 1], cases, GOLDEN, GOLDEN)
        asked[row, 0], asked[row, 1] = scramble(a), scramble(b)
        a, b, _ = _text(completions, completion_ends[row], completion_ends[row + 1], cases, a, b)
        both[row, 0], both[row, 1] = scramble(a), scramble(b)
    return both, asked, empty
