"""Keys of texts: 64-bit hashes by which rows are matched without holding their texts.

`raw` tells apart whatever differs in a byte. `normal` is for the leak check, and shares no code with the search for
duplicates: NFC, case folded, and either only white space collapsed, or punctuation too. Characters that nobody sees
(zero-width joiners, soft hyphens) count as nothing. A text without a letter or digit, such as an emoji, keeps its
punctuation, or all such texts would be one.

Two unlike texts get one key by chance with probability 2^-64: 5e-10 for 100,000 texts against 100,000.
The hash is FNV-1a (Fowler, Noll, Vo) over bytes or code points, with the finaliser of SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.compiled import njit
from snaketune.text.minhash import scramble

NOTHING = 0  # the key of a null
_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_GAP, _WORD, _MARK, _UNSEEN = range(4)
_UNICODE = 0x110000


@njit(cache=True)
def _raw(data: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(out)):
        key = _BASIS
        for at in range(offsets[row], offsets[row + 1]):
            key = (key ^ np.uint64(data[at])) * _PRIME
        key = scramble(key)
        out[row] = key if key else np.uint64(1)


@njit(cache=True)
def _folded(data: np.ndarray, start: int, stop: int, kinds: np.ndarray, marks: bool) -> np.uint64:
    """The key of one text of case-folded UTF-8; 0 where nothing of it counts."""
    key, gap, at = _BASIS, False, start
    some = False
    while at < stop:
        code = np.uint32(data[at])
        if code < 0x80:
            at += 1
            if 65 <= code <= 90:
                code += np.uint32(32)
        else:
            more = 1 if code < 0xE0 else 2 if code < 0xF0 else 3
            code &= np.uint32(0x3F >> more)
            for follow in range(at + 1, at + 1 + more):
                code = code << np.uint32(6) | np.uint32(data[follow] & 0x3F)
            at += 1 + more
        kind = kinds[code]
        if kind == _UNSEEN:
            continue
        if kind == _WORD or (marks and kind == _MARK):
            if gap and some:
                key = (key ^ np.uint64(32)) * _PRIME
            key = (key ^ np.uint64(code)) * _PRIME
            gap, some = False, True
        else:
            gap = True
    return scramble(key) if some else np.uint64(0)


@njit(cache=True)
def _normal(data: np.ndarray, offsets: np.ndarray, kinds: np.ndarray, marks: bool, out: np.ndarray) -> None:
    for row in range(len(out)):
        key = _folded(data, offsets[row], offsets[row + 1], kinds, marks)
        if not key and not marks:
            key = ~_folded(data, offsets[row], offsets[row + 1], kinds, True)
            key = key if ~key else np.uint64(0)
        out[row] = key


@lru_cache(maxsize=2)
def _kinds(size: int) -> np.ndarray:
    """What each of the first code points is to a key [size] uint8; half a second for all of Unicode."""
    first = (unicodedata.category(chr(code)) for code in range(size))
    kind = {"L": _WORD, "M": _WORD, "N": _WORD, "P": _MARK, "S": _MARK, "Z": _GAP, "C": _GAP}
    return np.fromiter((_UNSEEN if name == "Cf" else kind[name[0]] for name in first), np.uint8, size)


def raw(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The keys [n] uint64 of strings as they are; 0 for null, and for nothing else."""
    texts, data, offsets = _buffers(texts)
    out = np.empty(len(texts), dtype=np.uint64)
    _raw(data, offsets, out)
    out[pc.is_null(texts).to_numpy(zero_copy_only=False)] = NOTHING
    return out


def normal(texts: pa.Array | pa.ChunkedArray, compare: Literal["words", "spacing"]) -> np.ndarray:
    """The keys [n] uint64 of strings as the leak check compares them; 0 for null and for texts without anything.

    compare: `words` leaves punctuation out of account, `spacing` only the amount and kind of white space.
    """
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    foreign = pc.fill_null(pc.invert(pc.string_is_ascii(texts)), False)
    folded = [_fold(text) for text in texts.filter(foreign).to_pylist()]
    kinds = _kinds(_UNICODE if folded else 128)
    texts, data, offsets = _buffers(pc.replace_with_mask(texts, foreign, pa.array(folded, pa.string())))
    out = np.empty(len(texts), dtype=np.uint64)
    _normal(data, offsets, kinds, compare == "spacing", out)
    out[pc.is_null(texts).to_numpy(zero_copy_only=False)] = NOTHING
    return out


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The strings as one array, their bytes, and where each begins and ends [n + 1]."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    texts = texts.cast(pa.large_string())
    _, starts, data = texts.buffers()
    offsets = np.frombuffer(starts, np.int64)[texts.offset :][: len(texts) + 1] if starts else np.zeros(1, np.int64)
    return texts, np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8), offsets
