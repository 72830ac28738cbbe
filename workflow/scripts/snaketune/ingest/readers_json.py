"""A JSON file as a stream of its items, so that a file of any size costs the memory of one item.

The file is an array of objects; single objects one after another are read too. `line` is the number of the item. Only
brackets, strings and commas are followed here, each byte once; what stands between two commas is parsed as a whole. So
an item that is broken costs itself, unless a quotation mark or a bracket is missing: then the rest of the file is its.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from snaketune.ingest.formats import HEAD_CHARS, Bad, Raw
from snaketune.ingest.pieces import BrokenError, Long, Place, shown, text_pieces, too_long
from snaketune.ingest.readers_text import parsed

STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
MARK = re.compile(rb'["\[\]{},]')


def json_items(place: Place) -> Iterator[Raw | Bad]:
    """The items of a JSON file. A Bad, at the end, where it breaks off or the array is never closed."""
    number, cutter = 0, _Cutter(place.limit)
    try:
        for piece in text_pieces(place)[1]:
            for item in cutter.add(piece):
                number += 1
                yield _row(item, number, place.limit)
    except BrokenError as error:
        yield Bad(number + 1, str(error), shown(cutter.head()))
        return
    rest = cutter.taken()
    if isinstance(rest, Long) or rest.strip():
        number += 1
        yield (item := _row(rest, number, place.limit))
        if isinstance(item, Bad):
            return
    if cutter.depth:
        yield Bad(number + 1, "the array is not closed: the file seems to be cut off", "")


def _row(item: bytes | Long, number: int, limit: int) -> Raw | Bad:
    if isinstance(item, Long):
        return too_long(number, item.head, limit, "single item")
    return parsed(item.strip(), number)


class _Cutter:
    """Cuts bytes, piece by piece, into items; of an item beyond the limit only the head is kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = 0  # of open brackets; that of the array is one of them
        self.array = False  # whether the outermost open bracket is that of an array
        self.first = True  # whether the array has had no comma yet: only then nothing may stand in it
        self.string = False  # whether a string is open
        self.rest = b""  # a backslash at the end of a piece; what it stands before comes with the next
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        self.held: list[bytes] = []

    def head(self) -> bytes:
        return b"".join(self.held)[: 4 * HEAD_CHARS]

    def taken(self) -> bytes | Long:
        """The item so far."""
        self._hold(self.rest)
        item = b"".join(self.held) if self.size <= self.limit else Long(self.head(), 0)
        self.rest = b""
        self._clear()
        return item

    def _hold(self, data: bytes) -> None:
        self.size += len(data)
        self.held.append(data)
        if self.size > self.limit:
            self.held = [self.head()]

    def add(self, piece: bytes) -> Iterator[bytes | Long]:
        """The items that end in a piece."""
        piece, self.rest = self.rest + piece, b""
        begin = at = 0
        while at < len(piece):
            if self.string:
                at = STRING.match(piece, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
                if not piece.startswith(b'"', at):
                    break
                at, self.string = at + 1, False
            elif found := MARK.search(piece, at):
                at = found.end()
                end, following, blank = self._step(found[0], at)
                if end is not None:
                    self._hold(piece[begin:end])
                    begin = following
                    item = self.taken()
                    if blank or isinstance(item, Long) or item.strip():
                        yield item
            else:
                at = len(piece)
        self._hold(piece[begin:at])
        self.rest = piece[at:]

    def _step(self, mark: bytes, at: int) -> tuple[int | None, int, bool]:
        """What a mark, which ends at `at`, means: where the item ends (None: it goes on), where the next begins, and
        whether it counts even if nothing stands in it."""
        if mark == b'"':
            self.string = True
        elif self.depth == 0:
            if mark in (b"[", b"{"):
                self.depth, self.array, self.first = 1, mark == b"[", True
                return at - 1, at if self.array else at - 1, False
        elif self.depth == 1 and self.array and mark in (b",", b"]"):
            blank, self.first = mark == b"," or not self.first, False
            self.depth = int(mark == b",")
            return at - 1, at, blank
        elif mark in (b"[", b"{"):
            self.depth += 1
        elif mark != b"," and not (self.depth == 1 and self.array):
            self.depth -= 1
            if self.depth == 0:
                return at, at, False
        return None, 0, False
