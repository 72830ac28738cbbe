"""The bytes of a raw file as pieces and as lines: unpacked, bounded, and only of the part that was asked for.

No more than a piece and one line stands in memory. A line belongs to the part of a file in which its first byte lies,
so that a file can be cut anywhere and every line is read once; its number counts from the beginning of the file.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, NamedTuple

import pyarrow as pa

from snaketune.ingest.formats import HEAD_CHARS, Bad

PIECE = 1 << 19
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BOM = b"\xef\xbb\xbf"
FOREIGN = {  # the longer mark first: that of UTF-16 is the beginning of that of UTF-32
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
MARK_BYTES = 4
# What reading damaged bytes may raise: of the disk, of Arrow and its codecs, of Python's zip files.
FAULTS = (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile, pa.ArrowException)


class BrokenError(Exception):
    """A file cannot be read, or not any further; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where raw bytes are: a file, a part of it, or a member of an archive."""

    open: Callable[[], IO[bytes]]
    path: str | None  # of a file on the disk; None for a member of an archive
    packed: str | None  # the suffix of its compression
    limit: int  # of a line, in bytes
    start: int = 0
    end: int | None = None


class Long(NamedTuple):
    """What is left of a line beyond the limit: how it begins, and how many quotation marks it has."""

    head: bytes
    quotes: int


def broken(error: Exception) -> str:
    """Why a file is not read any further, in words."""
    words = str(error).strip() or type(error).__name__
    return f"the file cannot be read any further: {words.splitlines()[0]}"


def too_long(line: int, head: bytes, limit: int, what: str = "line") -> Bad:
    """The Bad of something beyond the limit."""
    return Bad(line, f"a {what} of more than {limit // 1_000_000} MB (`source.max_line_mb`)", shown(head))


def shown(data: bytes) -> str:
    """The beginning of bytes for a person."""
    return data[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS].strip()


def undecodable(line: bytes, number: int, error: UnicodeDecodeError) -> Bad:
    """The Bad of a line that is no UTF-8."""
    return Bad(number, f"invalid UTF-8 at byte {error.start + 1} of the line", shown(line))


@contextmanager
def _unpacked(place: Place) -> Iterator[IO[bytes]]:
    with place.open() as raw:
        if place.packed:
            with pa.input_stream(raw, compression=CODECS[place.packed]) as stream:
                yield stream
        else:
            yield raw


def pieces(place: Place) -> Iterator[bytes]:
    """The bytes of a whole file, unpacked. Where they break off, whatever stands before comes first.

    Raises BrokenError there.
    """
    done = 0
    try:
        with _unpacked(place) as stream:
            while piece := stream.read(PIECE):
                done += len(piece)
                yield piece
            return
    except FAULTS as error:
        fault = error
    tail = bytearray()  # the reader drops the whole piece in which the data breaks off: read it again, byte by byte
    try:
        with _unpacked(place) as stream:
            while done:
                done -= len(stream.read(min(done, PIECE)))
            while byte := stream.read(1):
                tail += byte
    except FAULTS as error:
        fault = error
    if tail:
        yield bytes(tail)
    raise BrokenError(broken(fault)) from fault


def text_pieces(place: Place) -> tuple[int, Iterator[bytes]]:
    """The number of the first line, and the bytes of a text file or of the lines of a part of it.

    A byte order mark of UTF-8 is removed. The bytes raise BrokenError where they end too early, or are UTF-16.
    """
    if place.end is None:
        return 1, _without_mark(pieces(place))
    begin, number = _first_line(place) if place.start else (0, 1)
    part = _part(place, begin)
    if place.start == 0:
        return 1, _without_mark(part)
    with place.open() as file:
        foreign = _foreign(file.read(MARK_BYTES))
    return number, iter(()) if foreign else part  # the part that begins the file tells it


def _foreign(data: bytes) -> str | None:
    return next((name for mark, name in FOREIGN.items() if data.startswith(mark)), None)


def _without_mark(parts: Iterator[bytes]) -> Iterator[bytes]:
    begin = b""
    for piece in parts:
        begin += piece
        if len(begin) >= MARK_BYTES:
            break
    if name := _foreign(begin):
        raise BrokenError(f"the file is {name}, by its byte order mark: convert it to UTF-8")
    yield begin.removeprefix(BOM)
    yield from parts


def _first_line(place: Place) -> tuple[int, int]:
    """Where the first line begins that begins in a part, and its number; beyond the end where there is none."""
    assert place.end is not None
    with place.open() as file:
        number, left = 1, place.start - 1
        while left and (block := file.read(min(left, PIECE))):
            number += block.count(b"\n")
            left -= len(block)
        begin = place.start - 1
        while begin < place.end and (block := file.read(PIECE)):
            found = block.find(b"\n")
            if found >= 0:
                return begin + found + 1, number + 1
            begin += len(block)
    return place.end, number


def _part(place: Place, begin: int) -> Iterator[bytes]:
    """The bytes of the lines that begin from `begin` to the end of a part; the last one is read beyond it."""
    assert place.end is not None
    left = place.end - begin
    if left <= 0:
        return
    piece = b""
    try:
        with place.open() as file:
            file.seek(begin)
            while left and (piece := file.read(min(left, PIECE))):
                left -= len(piece)
                yield piece
            while not piece.endswith(b"\n") and (piece := file.read(PIECE)):
                piece = piece[: piece.find(b"\n") + 1 or None]
                yield piece
    except OSError as error:
        raise BrokenError(broken(error)) from error


def lines(place: Place) -> Iterator[tuple[int, bytes | Long | Bad]]:
    """The lines of a file or a part of it, numbered, with their line feeds. A Bad, at the end, where the file breaks
    off; a Long for a line beyond the limit, which is never held."""
    number, line = 1, _Line(place.limit)
    try:
        number, parts = text_pieces(place)
        for piece in parts:
            first, *rest = piece.split(b"\n")
            line.add(first)
            for following in rest:
                yield number, line.taken(b"\n")
                number += 1
                line.add(following)
    except (BrokenError, OSError) as error:
        reason = str(error) if isinstance(error, BrokenError) else broken(error)
        yield number, Bad(number, reason, shown(line.head()))
        return
    if line.size:
        yield number, line.taken(b"")


class _Line:
    """A line that is put together from pieces; beyond the limit only its head is kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clear()

    def _clear(self) -> None:
        self.size = self.quotes = 0
        self.start, self.parts = b"", []

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self.parts.append(part)
        if self.size > self.limit:
            self.quotes += sum(held.count(b'"') for held in self.parts)
            self.start, self.parts = self.head(), []

    def head(self) -> bytes:
        return (self.start + b"".join(self.parts))[: 4 * HEAD_CHARS]

    def taken(self, end: bytes) -> bytes | Long:
        whole = self.size <= self.limit
        held = b"".join([*self.parts, end]) if whole else Long(self.head(), self.quotes)
        self._clear()
        return held


@contextmanager
def on_disk(place: Place) -> Iterator[str]:
    """The path of a file that is read from its end; a packed one is unpacked to a temporary file.

    Raises BrokenError where it cannot be unpacked.
    """
    if place.path and not place.packed:
        yield place.path
        return
    with tempfile.NamedTemporaryFile(prefix="snaketune-") as copy:
        try:
            with _unpacked(place) as stream:
                shutil.copyfileobj(stream, copy, PIECE)
        except FAULTS as error:
            raise BrokenError(broken(error)) from error
        copy.flush()
        yield copy.name
