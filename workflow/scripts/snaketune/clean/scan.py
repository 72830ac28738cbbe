"""One pass over the bytes of a column of texts: which step of the cleaning each text may need.

Most texts need nothing, or one thing. A regular expression for each step over each text would cost a hundred times
what this pass does (about 1 GB/s). A flag may be set in vain; it is never missing, so that a step that runs on the
flagged texts alone gives what it would give on all.

The kernel calls nothing outside this file: numba's cache does not notice an edit of another one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
import pyarrow as pa

from snaketune.compiled import njit

# The flags of a text; the first four are also what a character may be.
SPACING = 1  # spaces to collapse, lines to strip, blank lines to join, or white space that ends the text
CONTROL = 2  # control and zero-width characters, or line ends other than the line feed
COMBINING = 4  # a character that NFC may change
MOJIBAKE = 8  # signs that ftfy's test for mojibake asks for
MARKUP = 16  # a tag, a comment, a doctype or an entity of HTML may be there
NON_ASCII = 32  # what NFKC may change

# What a character is part of in mojibake: `_pairs` says which two, side by side, are a sign of it.
_UPPER, _LOWER, _COMMON, _START, _END, _OTHER = 1, 2, 3, 4, 5, 6
_CLASSES = 7
_CLASS = 4  # bits below the class
_FIRST = 0x80  # a sign of mojibake before anything but a Latin letter

CONTROLS = re.compile(r"[\x00-\x08\x0B-\x1F\x7F-\x9F\u200B\u200E\u200F\u2028-\u202E\u2060-\u2064\uFEFF]")


@lru_cache
def characters() -> np.ndarray:
    """What each character of the basic plane is: bits and class, [65536] uint8."""
    table = np.zeros(0x10000, dtype=np.uint8)
    seconds = set()
    for code in range(0xA0, 0x10000):
        if 0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xF900:
            continue  # CJK, Hangul syllables, surrogates, private use: all are as NFC wants them
        sign = chr(code)
        category = unicodedata.category(sign)
        if category == "Cn" or unicodedata.combining(sign):  # unassigned: another Unicode may know it
            table[code] |= COMBINING
        parts = unicodedata.decomposition(sign)
        if parts and not parts.startswith("<"):
            seconds.update(int(part, 16) for part in parts.split()[1:])
            if unicodedata.normalize("NFC", sign) != sign:
                table[code] |= COMBINING
        if sign.isspace():
            table[code] |= SPACING
    table[[code for code in seconds if code < 0x10000]] |= COMBINING
    table[0x1100:0x1200] |= COMBINING  # Hangul letters, which make syllables
    for sign in CONTROLS.findall(_plane()):
        table[ord(sign)] |= CONTROL | (SPACING if sign.isspace() else 0)
    table[[*range(0x80, 0xA0), 0xFFFD]] |= MOJIBAKE
    return table | _mojibake()


def _mojibake() -> np.ndarray:
    """The classes of the some 400 characters that ftfy looks for, [65536] uint8, shifted into place."""
    from ftfy.badness import MOJIBAKE_CATEGORIES

    sets = {name: _members(ranges) for name, ranges in MOJIBAKE_CATEGORIES.items()}
    letters = set().union(*(sets[name] for name in sets if name.endswith(("accented", "_common"))), sets["kaomoji"])
    table = np.zeros(0x10000, dtype=np.uint8)
    for name in ("bad", "law", "currency", "numeric", "box"):
        table[[ord(sign) for sign in sets[name]]] = _OTHER
    table[[ord(sign) for sign in sets["common"]]] = _COMMON
    table[[ord(sign) for sign in sets["start_punctuation"] | {"´"}]] = _START
    table[[ord(sign) for sign in sets["end_punctuation"] | {"‚"}]] = _END
    for sign in letters:
        table[ord(sign)] = _UPPER if sign.isupper() else _LOWER if sign.isalpha() else _OTHER
    table <<= _CLASS
    table[[ord(sign) for sign in "ÂÃÎÐØÙŒœ"]] |= _FIRST
    return table


def _members(ranges: str) -> set[str]:
    """The characters of the inside of a regular expression's class."""
    return set(re.findall(f"[{ranges}]", _plane()[0x80:]))


@lru_cache
def _plane() -> str:
    """All characters of the basic plane: one search finds those of a class, at a hundredth of one search for each."""
    return "".join(map(chr, range(0x10000)))


@lru_cache
def _pairs() -> np.ndarray:
    """Which class after which is a sign of mojibake, [classes, classes] bool; by ftfy.badness.BADNESS_RE."""
    table = np.zeros((_CLASSES, _CLASSES), dtype=np.bool_)
    table[_UPPER, [_START, _END, _OTHER]] = True
    table[_LOWER, [_UPPER, _START, _END, _OTHER]] = True
    table[_START, _OTHER] = True
    table[_END, [_UPPER, _LOWER, _OTHER]] = True
    table[_OTHER, [_UPPER, _LOWER, _START, _END, _OTHER]] = True
    return table


def scan(texts: pa.Array) -> np.ndarray:
    """The flags of each text [n] uint8, of an array of strings; 0 for a null."""
    _, ends, data = texts.buffers()
    if data is None or not len(texts):
        return np.zeros(len(texts), dtype=np.uint8)
    offsets = np.frombuffer(ends, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    flags = _scan(np.frombuffer(data, dtype=np.uint8), offsets, characters(), _pairs())
    if texts.null_count:
        flags[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return flags


@njit(cache=True, boundscheck=False)
def _scan(data, offsets, characters, pairs):
    count = len(offsets) - 1
    result = np.zeros(count, dtype=np.uint8)
    for row in range(count):
        start, end = offsets[row], offsets[row + 1]
        if start == end:
            continue
        spacing, look = _ascii(data[start:end])
        flags = SPACING if spacing else 0
        if look:
            flags |= _closer(data, start, end, characters, pairs)
        result[row] = flags
    return result


@njit(cache=True, boundscheck=False)
def _ascii(text):
    """Whether white space of ASCII is to be mended in a text [bytes], and whether a closer look is needed, as 0 or 1.

    Arithmetic on bytes instead of branches, so that it is compiled to SIMD.
    """
    spacing = look = np.uint8(0)
    for at in range(len(text) - 2):
        one, two, three = text[at], text[at + 1], text[at + 2]
        line, line_two = np.uint8(one == 0x0A), np.uint8(two == 0x0A)
        white, white_two = line | np.uint8(one == 0x20), line_two | np.uint8(two == 0x20)
        lines = line & line_two
        spacing |= (white & white_two & ~lines) | (lines & np.uint8(three == 0x0A))
        look |= np.uint8(one >= 0x7F) | (np.uint8(one < 0x20) & ~line) | np.uint8(one == 0x3C) | np.uint8(one == 0x26)
    for at in range(max(0, len(text) - 2), len(text)):
        one = text[at]
        look |= np.uint8(one >= 0x7F or (one < 0x20 and one != 0x0A) or one in (0x3C, 0x26))
    spacing |= np.uint8(text[0] in (0x20, 0x0A) or text[-1] in (0x20, 0x0A))
    return spacing & np.uint8(1), look & np.uint8(1)


@njit(cache=True, boundscheck=False)
def _closer(data, start, end, characters, pairs):  # noqa: PLR0912 - one loop over bytes, split by their kind
    """The flags that follow from all but letters, spaces and line feeds of ASCII."""
    flags = 0
    last, last_end = 0, -1  # the class of the last character of mojibake, and where it ended
    at = start
    while at < end:
        byte = data[at]
        at += 1
        if byte == 0x0A or (0x20 <= byte < 0x7F and byte not in (0x3C, 0x26)):
            continue
        if byte < 0x80:
            if byte == 0x09:
                flags |= SPACING
            elif byte == 0x3C:
                if at < end and (data[at] == 0x2F or data[at] == 0x21 or 0x61 <= data[at] | 0x20 <= 0x7A):
                    flags |= MARKUP
            elif byte == 0x26:
                if at < end and data[at] == 0x23:
                    flags |= MARKUP
                ahead = at
                while ahead < min(end, at + 10) and (0x61 <= data[ahead] | 0x20 <= 0x7A or 0x30 <= data[ahead] <= 0x39):
                    ahead += 1
                if at < ahead < end and data[ahead] == 0x3B:
                    flags |= MARKUP
            else:
                flags |= CONTROL | SPACING
            continue
        flags |= NON_ASCII
        begin = at - 1
        if byte < 0xE0:
            code = (byte & 0x1F) << 6 | (data[at] & 0x3F)
            at += 1
        elif byte < 0xF0:
            code = (byte & 0x0F) << 12 | (data[at] & 0x3F) << 6 | (data[at + 1] & 0x3F)
            at += 2
        else:
            code = (byte & 0x07) << 18 | (data[at] & 0x3F) << 12
            at += 3
            if not 0x1F000 <= code < 0x20000:  # emoji have no other form
                flags |= COMBINING
            continue
        marks = characters[code]
        group = marks >> 4 & 7
        flags |= marks & 15
        if marks & 0x80 and at < end and not 0x61 <= data[at] | 0x20 <= 0x7A:
            flags |= MOJIBAKE
        if group:
            if last_end == begin and pairs[last, group]:
                flags |= MOJIBAKE
            last, last_end = group, at
    return flags
