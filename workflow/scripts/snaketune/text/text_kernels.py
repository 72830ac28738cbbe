"""One pass over the bytes of a column of texts: words, lines and paragraphs, and what the quality rules count in them.

The vocabulary, for all rules alike:

word        a run between white space (that of `str.split`). Punctuation stays on its word.
line        what stands between line feeds, without the white space at its ends; blank lines are no lines. A carriage
            return is white space, so that CRLF and LF files give the same values.
paragraph   a run of lines without a blank line in between.
character   a code point; carriage returns are not counted.
equal lines have equal words, whatever the white space in between; equal paragraphs have equal lines.

Words, lines and paragraphs go on as 64-bit hashes (FNV-1a and a finaliser), which `repeat_kernels` compares. Two
different ones are taken for equal with a chance of about k^2 / 2^65 in a text of k words: 3e-8 at a million words.

The kernels call nothing outside this file: numba's cache does not notice an edit of another one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.compiled import njit

# What is counted in each text, by column.
STATISTICS = (
    "words",
    "chars",
    "breaks",  # line feeds
    "lines",
    "word_chars",
    "letter_words",  # words with a letter
    "hash_signs",
    "ellipses",
    "bullet_lines",
    "ellipsis_lines",
    "stop_words",  # how many of the eight occur
    "sentences",
    "curly",
    "lorem",
    "ended_lines",  # lines that end a sentence
    "short_lines",
)
COLUMNS = len(STATISTICS)
(
    WORDS,
    CHARS,
    BREAKS,
    LINES,
    WORD_CHARS,
    LETTER_WORDS,
    HASH_SIGNS,
    ELLIPSES,
    BULLET_LINES,
    ELLIPSIS_LINES,
    STOP_WORDS,
    SENTENCES,
    CURLY,
    LOREM,
    ENDED_LINES,
    SHORT_LINES,
) = range(COLUMNS)
SHORT_LINE = 30  # characters; FineWeb

# What a code point is, as bits of `marks`.
LETTER, SPACE, SIGN, SENTENCE, CLOSER, QUOTE = 1, 2, 4, 8, 16, 32
SIGNS = "#.{}…"  # counted one by one
SENTENCE_MARKS = ".!?…。．！？｡؟۔।॥։።፧։။៖៕᠃᠉"  # Unicode's Sentence_Terminal of the larger scripts, and the ellipsis
CLOSERS = "\"'”’»)]}"
QUOTES = "\"'”’"
PLANES = 0x40000  # no letter has a code point beyond

_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_LF, _CR, _HASH, _HYPHEN, _DOT, _OPEN, _CLOSE, _BULLET, _ELLIPSIS = (ord(sign) for sign in "\n\r#-.{}•…")

_STOP_WORDS = np.array(
    [int.from_bytes(word, "big") for word in (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")]
)


@lru_cache(maxsize=1)
def marks() -> np.ndarray:
    """What each code point below `PLANES` is: [PLANES] uint8 of the bits above; letters and white
    space as `str.isalpha` and `str.isspace` have them."""
    points = [chr(point) for point in range(PLANES)]
    table = np.fromiter(map(str.isalpha, points), dtype=np.uint8, count=PLANES)
    table |= SPACE * np.fromiter(map(str.isspace, points), dtype=np.uint8, count=PLANES)
    for bit, signs in ((SIGN, SIGNS), (SENTENCE, SENTENCE_MARKS), (CLOSER, CLOSERS), (QUOTE, QUOTES)):
        table[[ord(sign) for sign in signs]] |= bit
    return table


def buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes [b] uint8 and the offsets [n + 1] int64 into them of a column of texts; nulls are empty."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    if not len(texts):
        return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=width)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", dtype=np.uint8), ends.astype(np.int64)


@njit(cache=True)
def _point(data, at, stop):
    """The code point at `at`, at most PLANES - 1, and its bytes."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, 1
    width = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2
    width = min(width, stop - at)
    value = lead & (0xFF >> (width + 1))
    for step in range(1, width):
        value = (value << 6) | np.int64(data[at + step] & 63)
    return min(value, PLANES - 1), width


@njit(cache=True)
def _last(data, start, stop):
    """The last code point before `stop`, and its bytes; 0, 0 when there is none."""
    at = stop - 1
    if at < start:
        return np.int64(0), 0
    while at > start and data[at] & 0xC0 == 0x80:
        at -= 1
    return _point(data, at, stop)


@njit(cache=True)
def _ends_sentence(data, start, stop, kinds):
    """Whether a word ends in a sentence mark, brackets and quotation marks after it aside."""
    point, width = _last(data, start, stop)
    while width and kinds[point] & CLOSER:
        stop -= width
        point, width = _last(data, start, stop)
    return width > 0 and kinds[point] & SENTENCE != 0


@njit(cache=True)
def _same(data, at, stop, phrase):
    """Whether an ASCII phrase in lower case stands at `at`, whatever its case."""
    if stop - at < len(phrase):
        return False
    for step in range(len(phrase)):
        byte = data[at + step]
        if 65 <= byte <= 90:
            byte += 32
        if byte != phrase[step]:
            return False
    return True


@njit(cache=True)
def _plain(byte):
    """Whether a byte belongs to the core of a word: not an ASCII sign."""
    return byte >= 0x80 or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


@njit(cache=True)
def _stop_word(data, start, stop):
    """The bit of an English stop word of Gopher, ASCII signs at its ends and its case aside; 0 for other words."""
    while start < stop and not _plain(data[start]):
        start += 1
    while start < stop and not _plain(data[stop - 1]):
        stop -= 1
    if not 2 <= stop - start <= 4:
        return 0
    packed = 0
    for at in range(start, stop):
        packed = packed << 8 | data[at] | 32  # in lower case; no byte but a letter becomes a letter
    for number in range(len(_STOP_WORDS)):
        if packed == _STOP_WORDS[number]:
            return 1 << number
    return 0


@njit(cache=True)
def _mix(one, other):
    """A hash of two hashes in their order."""
    mixed = (one ^ other) * _ODD
    return (mixed ^ (mixed >> _HALF)) * _PRIME


@njit(cache=True)
def _gap(data, at, stop, kinds):
    """White space from `at` on: where it ends, its characters, its line feeds."""
    chars = feeds = 0
    while at < stop:
        byte = data[at]
        if byte < 0x80:
            if not kinds[byte] & SPACE:
                break
            at += 1
            chars += byte != _CR
            feeds += byte == _LF
        else:
            point, width = _point(data, at, stop)
            if not kinds[point] & SPACE:
                break
            at += width
            chars += 1
    return at, chars, feeds


@njit(cache=True)
def _word(data, at, stop, kinds, count):
    """The word at `at`: where it ends, its characters, its hash; its signs are added to the text's `count`."""
    chars = dots = 0
    bits = np.uint8(0)
    value = _BASIS
    while at < stop:
        byte = data[at]
        if byte < 0x80 and not kinds[byte] & (SPACE | SIGN):  # nearly all: no call, no sign to look at
            bits |= kinds[byte]
            value = (value ^ np.uint64(byte)) * _PRIME
            at += 1
            chars += 1
            dots = 0
            continue
        point, width = _point(data, at, stop)
        kind = kinds[point]
        if kind & SPACE:
            break
        bits |= kind
        value = (value ^ np.uint64(point)) * _PRIME
        count[HASH_SIGNS] += point == _HASH
        count[CURLY] += point in (_OPEN, _CLOSE)
        dots = dots + 1 if point == _DOT else 0
        count[ELLIPSES] += point == _ELLIPSIS or dots == 3
        dots %= 3
        at += width
        chars += 1
    count[WORDS] += 1
    count[WORD_CHARS] += chars
    count[LETTER_WORDS] += bits & LETTER
    return at, chars, value ^ (value >> _HALF)


@njit(cache=True)
def scan_words(data, offsets, kinds):
    """Find the words of texts, and count what a word alone shows.

    data, offsets: from `buffers`; kinds: from `marks`. Returns the counts so far [n, COLUMNS] int64; of each word the
    place [k, 5] int64, that is its first byte, the byte after it, the characters before it, its characters, and the
    line feeds before it; its hash [k] uint64; and each text's first word [n + 1] int64.
    """
    n = len(offsets) - 1
    room = (offsets[n] - offsets[0] + n) // 2 + 1  # each word but a text's last has a byte and a gap
    counts = np.zeros((n, COLUMNS), dtype=np.int64)
    places, hashes = np.empty((room, 5), dtype=np.int64), np.empty(room, dtype=np.uint64)
    ends = np.zeros(n + 1, dtype=np.int64)
    k = 0
    for text in range(n):
        at, stop, count = offsets[text], offsets[text + 1], counts[text]
        stop_words = 0
        while True:
            at, chars, feeds = _gap(data, at, stop, kinds)
            count[CHARS] += chars
            count[BREAKS] += feeds
            if at >= stop:
                break
            end, chars, hashes[k] = _word(data, at, stop, kinds, count)
            places[k, 0], places[k, 1], places[k, 2], places[k, 3], places[k, 4] = at, end, count[CHARS], chars, feeds
            count[CHARS] += chars
            if stop_words != 255:
                stop_words |= _stop_word(data, at, end)
            before = places[k - 1, 1] if k > ends[text] else offsets[text]
            if data[at] | 32 == 105 and _same(data, at, stop, b"ipsum") and before - offsets[text] >= 5:
                count[LOREM] += _same(data, before - 5, stop, b"lorem")
            at = end
            k += 1
        while stop_words:
            count[STOP_WORDS] += stop_words & 1
            stop_words >>= 1
        ends[text + 1] = k
    return counts, places[:k], hashes[:k], ends


@njit(cache=True)
def _count_line(data, start, stop, chars, kinds, count):
    """Add what the line between two bytes shows to its text's `count`."""
    count[LINES] += 1
    count[SHORT_LINES] += chars <= SHORT_LINE
    point, _ = _last(data, start, stop)
    count[ENDED_LINES] += kinds[point] & (SENTENCE | QUOTE) != 0
    count[ELLIPSIS_LINES] += point == _ELLIPSIS or (stop - start >= 3 and _same(data, stop - 3, stop, b"..."))
    point, _ = _point(data, start, stop)
    count[BULLET_LINES] += point in (_BULLET, _HYPHEN)


@njit(cache=True)
def scan_lines(data, places, hashes, ends, kinds, counts):
    """Join the words of texts to lines, and the lines to paragraphs; what lines show is added to `counts`.

    Takes what `scan_words` gave. Returns, for lines and for paragraphs, (hashes [k] uint64, characters [k] int64,
    each text's first [n + 1] int64). A paragraph's characters include the line feeds inside it.
    """
    n = len(ends) - 1
    marks_of, chars_of = np.empty((2, len(hashes)), dtype=np.uint64), np.empty((2, len(hashes)), dtype=np.int64)
    firsts = np.zeros((2, n + 1), dtype=np.int64)
    lines = paragraphs = 0
    for text in range(n):
        word = ends[text]
        while word < ends[text + 1]:
            first, value, ended = word, _BASIS, True
            while word < ends[text + 1] and (word == first or not places[word, 4]):
                start, stop = places[word, 0], places[word, 1]
                counts[text, SENTENCES] += word == first or (ended and not 97 <= data[start] <= 122)
                ended = _ends_sentence(data, start, stop, kinds)
                value = _mix(value, hashes[word])
                word += 1
            chars = places[word - 1, 2] + places[word - 1, 3] - places[first, 2]
            _count_line(data, places[first, 0], places[word - 1, 1], chars, kinds, counts[text])
            marks_of[0, lines], chars_of[0, lines] = value, chars
            lines += 1
            if first == ends[text] or places[first, 4] > 1:
                marks_of[1, paragraphs], chars_of[1, paragraphs] = _BASIS, -1
                paragraphs += 1
            marks_of[1, paragraphs - 1] = _mix(marks_of[1, paragraphs - 1], value)
            chars_of[1, paragraphs - 1] += chars + 1
        firsts[0, text + 1], firsts[1, text + 1] = lines, paragraphs
    return (
        (marks_of[0, :lines], chars_of[0, :lines], firsts[0]),
        (marks_of[1, :paragraphs], chars_of[1, :paragraphs], firsts[1]),
    )
