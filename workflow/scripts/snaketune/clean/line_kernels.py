"""C4's removal of lines (Raffel et al. 2020, section 2.2), on the words that `text_kernels` found.

The kernels call nothing outside this file: numba's cache does not notice an edit of another one.
"""

from __future__ import annotations

import numpy as np

from snaketune.compiled import njit

# Lower case; the names of the programming language and of what sites must say about cookies. As in C4's own code.
POLICY_PHRASES = (
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_PHRASES = np.zeros((len(POLICY_PHRASES), max(map(len, POLICY_PHRASES))), dtype=np.uint8)
_LENGTHS = np.array([len(phrase) for phrase in POLICY_PHRASES])
_BEGINS = np.zeros(256, dtype=np.bool_)  # bytes that begin a phrase
for _number, _phrase in enumerate(POLICY_PHRASES):
    _PHRASES[_number, : len(_phrase)] = np.frombuffer(_phrase.encode(), dtype=np.uint8)
    _BEGINS[[ord(_phrase[0]), ord(_phrase[0].upper())]] = True
_ENDS = np.zeros(256, dtype=np.bool_)
_ENDS[[ord(sign) for sign in ".!?\"'"]] = True
_LF, _DOT = 10, 46


@njit(cache=True)
def _has_phrase(data, start, stop):
    """Whether a policy phrase stands between two bytes, whatever its (ASCII) case."""
    for at in range(start, stop):
        if not _BEGINS[data[at]]:
            continue
        for number in range(len(_LENGTHS)):
            length, step = _LENGTHS[number], 0
            while step < length and at + step < stop:
                byte = data[at + step]
                if byte != _PHRASES[number, step] and not (65 <= byte <= 90 and byte + 32 == _PHRASES[number, step]):
                    break
                step += 1
            if step == length:
                return True
    return False


@njit(cache=True)
def _ends_well(data, start, stop):
    """Whether a line ends with . ! ? or a quotation mark, straight or curly, but not with three dots."""
    last = data[stop - 1]
    if stop - start >= 3 and last in (0x99, 0x9D) and data[stop - 2] == 0x80 and data[stop - 3] == 0xE2:
        return True
    dots = stop - start >= 3 and last == data[stop - 2] == data[stop - 3] == _DOT
    return _ENDS[last] and not dots


@njit(cache=True)
def keep_lines(data, places, ends, terminal, min_words, max_word, policy):
    """The texts without their bad lines, lines stripped: bytes [b] uint8 and offsets [n + 1] int64.

    data: from `text_kernels.buffers`; places, ends: from `text_kernels.scan_words`. A line goes when it does not end
    well (terminal), has fewer than `min_words` words, a word of more than `max_word` characters, or a policy phrase.
    """
    n = len(ends) - 1
    out, offsets = (
        np.empty(places[-1, 1] - places[0, 0] + n if len(places) else 0, dtype=np.uint8),
        np.zeros(n + 1, dtype=np.int64),
    )
    to = 0
    for text in range(n):
        word, begin, blank = ends[text], to, 0
        while word < ends[text + 1]:
            first, longest = word, 0
            while word < ends[text + 1] and (word == first or not places[word, 4]):
                longest = max(longest, places[word, 3])
                word += 1
            start, stop = places[first, 0], places[word - 1, 1]
            if not terminal and min_words == 0:
                blank += max(places[first, 4] - 1, 0)  # blank lines have no fault then
            if longest > max_word or word - first < min_words or (terminal and not _ends_well(data, start, stop)):
                continue
            if policy and _has_phrase(data, start, stop):
                continue
            feeds = 1 + blank if to > begin else 0
            out[to : to + feeds] = _LF
            to += feeds
            out[to : to + stop - start] = data[start:stop]
            to += stop - start
            blank = 0
        offsets[text + 1] = to
    return out[:to], offsets
