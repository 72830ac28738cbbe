"""What a word is, for every comparison of texts: a table over code points that a compiled loop can read.

A word is a run of letters, digits and underscores with the marks that follow them, in lower case: what `\\w+` finds,
except that marks belong to their letter (Python's `\\w` would cut Hindi words at each vowel sign). Scripts that are
written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) have one word a character; otherwise a
whole Chinese sentence would be one word, and two sentences that differ in one character would have nothing in common.
A mark continues a word and begins none: an emoji with a variation selector holds no word.

Lower case is one code point for one (the first of `str.lower`), and the final sigma is a sigma. The categories are
those of Python's unicodedata; letters that a later Unicode adds are separators in an older Python.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SIZE = 0x20000  # code points in the table: planes 0 and 1
IDEOGRAPHS = 0x40000  # from SIZE up to here each code point is a Han character; above, none is part of a word

SEPARATOR, LETTER, ALONE, MARK = 0, 1, 2, 3
KIND_SHIFT = 24  # an entry is the kind << 24 | the lower-case code point

UNSPACED = (
    (0x0E00, 0x0E80),  # Thai
    (0x0E80, 0x0F00),  # Lao
    (0x1000, 0x10A0),  # Myanmar
    (0x1780, 0x1800),  # Khmer
    (0x3005, 0x3008),  # the iteration mark and the number zero of Han
    (0x3021, 0x302A),  # Hangzhou numerals
    (0x3040, 0x3100),  # Hiragana, Katakana
    (0x31F0, 0x3200),  # Katakana, phonetic extensions
    (0x3400, 0x4DC0),  # Han, extension A
    (0x4E00, 0xA000),  # Han
    (0xA9E0, 0xAA00),  # Myanmar, extended B
    (0xAA60, 0xAA80),  # Myanmar, extended A
    (0xF900, 0xFB00),  # Han, compatibility
    (0xFF66, 0xFFA0),  # Katakana, half width
    (0x1AFF0, 0x1B170),  # kana, supplements
)

# All white space of Unicode.
WHITE = (
    *range(0x09, 0x0E),
    *range(0x1C, 0x21),
    *(0x85, 0xA0, 0x1680),
    *range(0x2000, 0x200B),
    *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
)
_SPACES = "[" + "".join(f"\\x{{{code:x}}}" for code in WHITE) + "]+"


def comparable(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts as they are compared for equality: lower case, white space collapsed to one space and stripped."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), _SPACES, " "))


def joint(prompts: pa.Array, completions: pa.Array) -> pa.Array:
    """Rows as one text each: prompt and completion on two lines; the completion alone where the prompt is null."""
    # Arrow leaves out a row whose texts are all null, so none may be.
    return pc.binary_join_element_wise(prompts, pc.fill_null(completions, ""), "\n", null_handling="skip")


@lru_cache
def table() -> np.ndarray:
    """The kind and the lower case of each code point below SIZE, [SIZE] uint32."""
    characters = list(map(chr, range(SIZE)))
    category = np.array("".join(map(unicodedata.category, characters)).encode("ascii"))
    major = np.frombuffer(category.tobytes(), dtype="S1")[::2]
    kind = np.full(SIZE, SEPARATOR, dtype=np.uint32)
    kind[(major == b"L") | (major == b"N")] = LETTER
    kind[ord("_")] = LETTER
    kind[major == b"M"] = MARK
    for start, end in UNSPACED:
        kind[start:end][major[start:end] == b"L"] = ALONE
    kind[0x3005:0x302A][major[0x3005:0x302A] == b"N"] = ALONE
    return kind << np.uint32(KIND_SHIFT) | _lower(characters)


def _lower(characters: list[str]) -> np.ndarray:
    """The lower case of each character, [SIZE] uint32: one code point for one."""
    characters = characters.copy()
    characters[0x0130] = "i"  # the only one whose lower case has two code points
    characters[0x03C2] = "\u03c3"
    # One call for all of them is ten times faster; the line feeds keep each from its neighbours.
    lowered = "\n".join(characters).lower().encode("utf-32-le", "surrogatepass")
    return np.frombuffer(lowered, dtype="<u4")[::2]
