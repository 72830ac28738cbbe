"""How often the words of a list stand in texts: whole words and phrases, whatever their case.

A word is what `words` says: "ass" is not found in "class", nor "art" in "art_1". Case is folded letter by letter,
with "ss" for sharp s. The words of a phrase may have any white space between them; other signs between them (the
hyphen, the apostrophe; their typographic forms are taken for the plain ones) must be those of the list. Signs at the
ends of an entry do not count. Each entry counts by itself: where a list holds "deaf" and "deaf people", the phrase
counts for both. Inflected forms are found only where the list has them.

Words go through one compiled pass as 64-bit hashes; a list of a hundred entries takes a chance of 1e-17 a word to see
one that is not there.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa

from snaketune.compiled import njit
from snaketune.job import StageError
from snaketune.text.text_kernels import buffers
from snaketune.text.words import ALONE, KIND_SHIFT, LETTER, MARK, SIZE, table

MOST_WORDS = 12  # of a phrase

_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_POINT = (1 << KIND_SHIFT) - 1
# The lower case of each ASCII letter, digit or underscore; 0 for what is in no word.
_ASCII = np.zeros(128, dtype=np.uint8)
for _sign in "0123456789_abcdefghijklmnopqrstuvwxyz":
    _ASCII[[ord(_sign), ord(_sign.upper())]] = ord(_sign)


class Terms:
    """A list of words and phrases, ready to be counted."""

    def __init__(self, terms: list[str]) -> None:
        """Take the terms as they are written; one that has no word, or too many, is a ValueError."""
        self.terms: list[str] = []
        self._most = 1
        hashes: list[int] = []
        starts: set[int] = set()
        for term in terms:
            data = np.frombuffer(unicodedata.normalize("NFC", term).encode(), dtype=np.uint8)
            first, whole, count = _hash_term(data, table(), MOST_WORDS)
            if not 0 < count <= MOST_WORDS:
                raise ValueError(f"`{term}` has {'no word' if not count else f'more than {MOST_WORDS} words'}")
            if int(whole) not in hashes:
                self.terms.append(term)
                hashes.append(int(whole))
                starts.add(int(first))
                self._most = max(self._most, count)
        self._slots = _slots(dict(zip(hashes, range(len(hashes)), strict=True)), starts)

    def count(self, texts: pa.Array | pa.ChunkedArray) -> dict[str, np.ndarray]:
        """How often each term that occurs stands in each text: int64 [n] by term, in the order of the list."""
        data, offsets = buffers(texts)
        hits = _hits(data, offsets, table(), self._slots, self._most)
        order = np.lexsort((hits[:, 0], hits[:, 1]))
        hits = hits[order]
        n = len(offsets) - 1
        numbers, firsts = np.unique(hits[:, 1], return_index=True)
        parts = np.split(hits[:, 0], firsts[1:])
        return {
            self.terms[number]: np.bincount(part, minlength=n).astype(np.int64)
            for number, part in zip(numbers, parts, strict=False)
        }


def load(path: str | Path) -> Terms:
    """Read a list in UTF-8 with one word or phrase a line; blank lines, and lines that begin with #, are left out.

    Raises StageError where there is no such file, where it is not UTF-8, or where a line has no word.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise StageError(f"The list of words {path} is not there: correct its path in the configuration.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"The list of words {path} cannot be read ({error}): save it as text in UTF-8.") from None
    terms = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    try:
        return Terms(terms)
    except ValueError as error:
        raise StageError(f"The list of words {path} cannot be used: {error}. Correct or remove this line.") from None


def _slots(numbers: dict[int, int], starts: set[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An open hash table, at most a quarter full: hashes [s] uint64, the number of the term there [s] int64 (-1 for
    none), and whether a longer term begins with this word or may [s] bool; 0 marks an empty slot."""
    size = 1 << max(6, (4 * len(numbers | dict.fromkeys(starts))).bit_length())
    keys, terms = np.zeros(size, dtype=np.uint64), np.full(size, -1, dtype=np.int64)
    begins = np.zeros(size, dtype=np.bool_)
    for key in dict.fromkeys([*numbers, *sorted(starts)]):
        slot = key & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], terms[slot], begins[slot] = key, numbers.get(key, -1), key in starts
    return keys, terms, begins


@njit(cache=True)
def _point(data, at, stop):
    """The code point at `at` and its bytes."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, 1
    width = min(4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2, stop - at)
    value = lead & (0xFF >> (width + 1))
    for step in range(1, width):
        value = (value << 6) | np.int64(data[at + step] & 63)
    return value, width


@njit(cache=True)
def _finish(value):
    """A hash whose every bit depends on every other; never 0."""
    mixed = (value ^ (value >> _HALF)) * _ODD
    mixed ^= mixed >> _HALF
    return mixed if mixed else np.uint64(1)


@njit(cache=True)
def _next_word(data, at, stop, kinds):
    """The next word from `at` on: where it begins, where it ends, its hash; it begins at `stop` when there is none."""
    while at < stop:
        if data[at] < 0x80:
            if _ASCII[data[at]]:
                break
            at += 1
            continue
        point, width = _point(data, at, stop)
        kind = kinds[point] >> KIND_SHIFT if point < SIZE else ALONE
        if kind in (LETTER, ALONE):
            break
        at += width
    start = at
    value = _BASIS
    alone = False
    while at < stop:
        if data[at] < 0x80:
            folded, width = np.int64(_ASCII[data[at]]), 1
            if alone or not folded:
                break
        else:
            point, width = _point(data, at, stop)
            entry = np.int64(kinds[point]) if point < SIZE else (ALONE << KIND_SHIFT) | point
            kind = entry >> KIND_SHIFT
            if kind != MARK and at > start and (alone or kind != LETTER):
                break
            alone = kind == ALONE or (alone and kind == MARK)
            folded = entry & _POINT
        if folded == 0xDF:
            value = (value ^ np.uint64(115)) * _PRIME
            folded = 115
        value = (value ^ np.uint64(folded)) * _PRIME
        at += width
    return start, at, _finish(value)


@njit(cache=True)
def _gap(data, start, stop):
    """The hash of what stands between two words: any white space is one space."""
    value = _BASIS
    blank = False
    at = start
    while at < stop:
        point, width = _point(data, at, stop)
        at += width
        space = point <= 32 or point in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
        if space or 0x2000 <= point <= 0x200A:
            if not blank:
                value = (value ^ np.uint64(32)) * _PRIME
            blank = True
            continue
        blank = False
        if point in (0x2019, 0x02BC):
            point = 0x27
        elif point in (0x2010, 0x2011):
            point = 0x2D
        value = (value ^ np.uint64(point)) * _PRIME
    return value


@njit(cache=True)
def _joined(whole, gap, word):
    """The hash of a phrase that is one gap and one word longer."""
    return _finish((whole ^ gap) * _PRIME ^ word)


@njit(cache=True)
def _hash_term(data, kinds, most):
    """Of a term: the hash of its first word, its own hash, and how many words it has (at most `most` + 1)."""
    stop = len(data)
    start, end, whole = _next_word(data, 0, stop, kinds)
    if start >= stop:
        return np.uint64(0), np.uint64(0), 0
    first = whole
    count = 1
    while count <= most:
        start, after, word = _next_word(data, end, stop, kinds)
        if start >= stop:
            break
        whole = _joined(whole, _gap(data, end, start), word)
        end = after
        count += 1
    return first, whole, count


@njit(cache=True)
def _find(keys, wanted):
    """The slot of a hash, or -1."""
    mask = len(keys) - 1
    slot = np.int64(wanted & np.uint64(mask))
    while keys[slot]:
        if keys[slot] == wanted:
            return slot
        slot = (slot + 1) & mask
    return -1


@njit(cache=True)
def _hits(data, offsets, kinds, slots, most):
    """Every occurrence of a term: [k, 2] int64, the text and the term."""
    keys, terms, begins = slots
    found = np.empty((1024, 2), dtype=np.int64)
    k = 0
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        while True:
            start, at, whole = _next_word(data, at, stop, kinds)
            if start >= stop:
                break
            slot = _find(keys, whole)
            if slot < 0:
                continue
            end = at
            count = 1
            while True:
                if slot >= 0 and terms[slot] >= 0:
                    if k == len(found):
                        wider = np.empty((2 * k, 2), dtype=np.int64)
                        wider[:k] = found
                        found = wider
                    found[k, 0], found[k, 1] = text, terms[slot]
                    k += 1
                if count == most or (count == 1 and not begins[slot]):
                    break
                start, after, word = _next_word(data, end, stop, kinds)
                if start >= stop:
                    break
                whole = _joined(whole, _gap(data, end, start), word)
                slot = _find(keys, whole)
                end = after
                count += 1
    return found[:k]
