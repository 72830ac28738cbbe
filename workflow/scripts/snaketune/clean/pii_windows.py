"""Where personal data could stand: one compiled pass over the bytes of a column of texts.

Ordinary prose holds almost no candidate, so the patterns of `pii` look at a few windows instead of at every byte. A
window is as wide as any match that it can hold, with what stands around the match as far as the match depends on it.
"""

from __future__ import annotations

import numpy as np

from snaketune.compiled import njit

# What a window may hold, as bits.
AT, IBAN, CARD, IPV4, IPV6, PHONE = 1, 2, 4, 8, 16, 32

LEFT_OF_AT, RIGHT_OF_AT = 400, 260  # bytes; RFC 5321 has 64 for the local part and 255 for the domain
IBAN_BYTES = 2 + 2 + 2 * 30  # with a separator between any two characters
BLOCK = 32  # bytes that are looked at together
FEWEST_PHONE, FEWEST_PLUS, FEWEST_CARD = 9, 8, 13  # digits

_NONE, _DIGIT, _OPEN, _JOIN, _SIGN_AT, _COLON = 0, 1, 2, 3, 4, 5
_KIND = np.zeros(256, dtype=np.uint8)
_KIND[[ord(sign) for sign in "0123456789"]] = _DIGIT
_KIND[[ord(sign) for sign in "+("]] = _OPEN
_KIND[[ord(sign) for sign in " )-./"]] = _JOIN
_KIND[ord("@")] = _SIGN_AT
_KIND[ord(":")] = _COLON
_HEX = np.zeros(256, dtype=np.bool_)  # what an IPv6 address is written with
_HEX[[ord(sign) for sign in "0123456789abcdefABCDEF:."]] = True


@njit(cache=True)
def _alphanumeric(byte):
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


@njit(cache=True)
def _digits(data, start, stop):
    """A run of digits with at most three other signs in a row between two: its end, its digits, the kinds it may be."""
    at = end = start
    digits = dots = 0
    plus = False
    while at < stop and at - end < 4:
        byte = data[at]
        kind = _KIND[byte]
        if kind == _DIGIT:
            digits += 1
            end = at + 1
        elif kind in (_OPEN, _JOIN):
            plus |= byte == 43
            dots += byte == 46
        else:
            break
        at += 1
    found = 0
    if digits >= FEWEST_PHONE or (plus and digits >= FEWEST_PLUS):
        found |= PHONE
    if digits >= FEWEST_CARD:
        found |= CARD
    if dots >= 3 and digits >= 4:
        found |= IPV4
    return end, found


@njit(cache=True)
def _around_at(data, at, start, stop):
    """The run of printing bytes around an at sign, cut to what can matter."""
    left, right = at, at + 1
    while left > max(start, at - LEFT_OF_AT) and data[left - 1] > 32:
        left -= 1
    while right < min(stop, at + RIGHT_OF_AT) and data[right] > 32:
        right += 1
    return left, right


@njit(cache=True)
def _around_colon(data, at, start, stop):
    """The run of signs of an IPv6 address around a colon, and whether it has two colons."""
    left, right, colons = at, at, 0
    while left > start and _HEX[data[left - 1]]:
        left -= 1
    while right < stop and _HEX[data[right]]:
        colons += data[right] == 58
        right += 1
    return left, right, colons >= 2 and right - left >= 4


@njit(cache=True)
def _blank(data, at, stop):
    """Past the blocks from `at` on in which no window can begin; prose is mostly that.

    Comparisons of bytes with bytes instead of a table and branches, so that they are compiled to SIMD.
    """
    while at + BLOCK <= stop:
        begins = False
        block = data[at : at + BLOCK]  # whose places are known not to count from its end
        for place in range(BLOCK):
            byte = block[place]
            begins |= np.uint8(byte - np.uint8(0x30)) <= np.uint8(10)  # a digit, or the colon, which follows the nine
            begins |= (byte == np.uint8(0x28)) | (byte == np.uint8(0x2B)) | (byte == np.uint8(0x40))  # ( + @
        if begins:
            break
        at += BLOCK
    return at


@njit(cache=True)
def windows(data, offsets):
    """Every window of a column of texts, in the order of the bytes.

    data, offsets: from `text_kernels.buffers`. Returns [k, 4] int64: the text, its first byte and the byte after the
    last (both counted from the text's own first byte), and the bits of what it may hold.
    """
    found = np.empty((256, 4), dtype=np.int64)
    k = 0
    for text in range(len(offsets) - 1):
        start, stop = offsets[text], offsets[text + 1]
        at = start
        while at < stop:
            kind = _KIND[data[at]]
            if kind in (_NONE, _JOIN):
                at = _blank(data, at + 1, stop)
                continue
            if k + 2 > len(found):
                wider = np.empty((2 * len(found), 4), dtype=np.int64)
                wider[:k] = found[:k]
                found = wider
            left, right, bits = at, at + 1, 0
            if kind == _SIGN_AT:
                left, right = _around_at(data, at, start, stop)
                bits, past = AT, at + 1
            elif kind == _COLON:
                left, right, likely = _around_colon(data, at, start, stop)
                bits, past = IPV6 if likely else 0, right
            else:
                right, bits = _digits(data, at, stop)
                past = max(right, at + 1)
                if kind == _DIGIT and at + 1 < stop and _KIND[data[at + 1]] == _DIGIT and at - start >= 2:
                    one, two = data[at - 2], data[at - 1]
                    alone = at - start == 2 or not _alphanumeric(data[at - 3])
                    if alone and 65 <= one <= 90 and 65 <= two <= 90:
                        found[k, 0], found[k, 1], found[k, 3] = text, at - 2 - start, IBAN
                        found[k, 2] = min(at - 2 + IBAN_BYTES, stop) - start
                        k += 1
            if bits:
                found[k, 0], found[k, 1], found[k, 2], found[k, 3] = text, left - start, right - start, bits
                k += 1
            at = past
    return found[:k]
