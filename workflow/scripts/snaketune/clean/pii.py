"""Personal data that patterns can find: how much of it there is, and texts without it.

url_credentials  `scheme://user:secret@host`; a lone token before the @ is none.
email            as people write them: no quoted local parts, no bare host names. `git@host`, and what ends like the
                 name of a file (`icon@2x.png`), are none.
iban             in capital letters, in one piece or in groups; its length by country and its check digits must hold.
card             13 to 19 digits, in one piece or in groups of 3 to 6 joined alike; a known issuer and Luhn's check.
ip               v4 and v6, global addresses only: neither private ones nor those of documentation. Four numbers behind
                 `v`, `version`, `section` or the like are none; a bare section number such as 3.2.1.4 counts.
phone            international: `+` and 8 to 15 digits. National, with separators: North America (3-3-4), trunk numbers
                 with a leading 0 (9 to 12 digits: most of Europe, Asia and Australia), Brazil. Not found: plain runs of
                 digits, local numbers such as 555-1234, and national forms with neither sign (Spain, India).

Names, postal addresses and birthdays have no pattern. Digits must be ASCII, joined by spaces, hyphens, dots, slashes.

Of two kinds that overlap, the one further up takes the characters. All kinds are looked for whatever is asked for, so
that the digits of a card are never counted as a phone. A text is searched until nothing more is found: what is masked
does not make its neighbours look like something new, and masking twice is masking once.

`pii_windows` finds the places that could matter in one compiled pass; Python's patterns see nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from snaketune.clean import pii_patterns as patterns
from snaketune.clean.pii_windows import AT, CARD, IBAN, IPV4, IPV6, PHONE, windows
from snaketune.text.text_kernels import buffers

PLACEHOLDERS = {
    "url_credentials": "[CREDENTIALS]",
    "email": "[EMAIL]",
    "iban": "[IBAN]",
    "card": "[CARD]",
    "ip": "[IP]",
    "phone": "[PHONE]",
}
Finder = Callable[[bytearray, int, int], Iterator[patterns.Span]]
Found = list[tuple[int, int, str]]  # first byte, byte after, kind; in order, none over another
# In the order of precedence: in which windows, what it is, how it is found.
FINDERS: tuple[tuple[int, str, Finder], ...] = (
    (AT, "url_credentials", patterns.credentials),
    (AT, "email", patterns.emails),
    (IBAN, "iban", patterns.ibans),
    (CARD, "card", patterns.cards),
    (IPV6, "ip", patterns.wide_addresses),
    (IPV4, "ip", patterns.addresses),
    (PHONE, "phone", patterns.international_phones),
    (PHONE, "phone", patterns.national_phones),
)


def find(texts: pa.Array, kinds: Iterable[str]) -> dict[str, np.ndarray]:
    """How often each kind that is asked for stands in each text: int64 [n] by kind; a null has none."""
    counts = {kind: np.zeros(len(texts), dtype=np.int64) for kind in kinds}
    for text, _, found in _search(texts):
        for _, _, kind in found:
            if kind in counts:
                counts[kind][text] += 1
    return counts


def mask(texts: pa.Array, kinds: Iterable[str]) -> pa.Array:
    """The texts with a placeholder for each piece that `find` counts; every other byte stays as it is.

    Of a URL only `user:secret` is replaced. The array has the type of the one given; its nulls stay null.
    """
    wanted = {kind: PLACEHOLDERS[kind].encode() for kind in kinds}
    changed = {}
    for text, raw, found in _search(texts):
        pieces, done = [], 0
        for start, stop, kind in found:
            if kind in wanted:
                pieces += [raw[done:start], wanted[kind]]
                done = stop
        if pieces:
            changed[text] = b"".join([*pieces, raw[done:]])
    return _replaced(texts, changed) if changed else texts


def _replaced(texts: pa.Array, changed: dict[int, bytes]) -> pa.Array:
    """The texts with some of them replaced, which are named by their places in rising order."""
    data, offsets = buffers(texts)
    lengths = np.diff(offsets)
    pieces, done = [], 0
    for text, value in changed.items():
        pieces += [data[offsets[done] : offsets[text]], value]
        lengths[text] = len(value)
        done = text + 1
    pieces.append(data[offsets[done] : offsets[-1]])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    kind = texts.type
    valid = np.packbits(texts.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
    bits = pa.py_buffer(valid.tobytes()) if texts.null_count else None
    ends = ends.astype(np.int64 if pa.types.is_large_string(kind) else np.int32)
    return pa.Array.from_buffers(kind, len(texts), [bits, pa.py_buffer(ends), pa.py_buffer(b"".join(pieces))])


def _search(texts: pa.Array) -> Iterator[tuple[int, bytes, Found]]:
    """Each text with something in it, in order: its place, its bytes, and what was found."""
    data, offsets = buffers(texts)
    likely = windows(data, offsets)
    firsts = np.flatnonzero(np.diff(likely[:, 0], prepend=-1))
    for first, after in zip(firsts, np.append(firsts, len(likely))[1:], strict=True):
        text = int(likely[first, 0])
        raw = data[offsets[text] : offsets[text + 1]].tobytes()
        found = _in_text(raw, likely[first:after, 1:].tolist())
        if found:
            yield text, raw, found


def _in_text(raw: bytes, likely: list[list[int]]) -> Found:
    """What stands in the windows (first byte, byte after, bits) of one text.

    What is found is blanked by brackets, which no pattern matches, and the search starts again with the first kind,
    in the windows of what is left.
    """
    left = bytearray(raw)
    found: Found = []
    again = True
    while again:
        again = False
        for bits, kind, look in FINDERS:
            before = len(found)
            for start, stop, held in likely:
                if held & bits:
                    for first, after in list(look(left, start, stop)):
                        left[first:after] = b"]" * (after - first)
                        found.append((first, after, kind))
            if len(found) > before:
                likely = windows(np.frombuffer(bytes(left), np.uint8), np.array([0, len(left)]))[:, 1:].tolist()
                again = True
                break
    return sorted(found)
