"""JSONL and texts: formats in which a line is told by its line feed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import orjson

from snaketune.ingest.formats import Bad, Raw
from snaketune.ingest.pieces import BOM, BrokenError, Long, Place, lines, shown, text_pieces, too_long, undecodable


def jsonl(place: Place) -> Iterator[Raw | Bad]:
    """One JSON object a line; blank lines are none. A byte order mark before an object is left out: it stands where
    files were joined."""
    for number, line in lines(place):
        if isinstance(line, Bad):
            yield line
        elif isinstance(line, Long):
            yield too_long(number, line.head, place.limit)
        elif body := line.strip():
            yield parsed(body.removeprefix(BOM), number)


def parsed(data: bytes, line: int) -> Raw | Bad:
    """One JSON object. What orjson refuses or would round (NaN, whole numbers over 64 bits, half a surrogate pair)
    Python's own reader gets to see."""
    try:
        value = orjson.loads(data)
        if _rounded(value):
            value = json.loads(data)
    except ValueError:
        try:
            value = json.loads(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            return undecodable(data, line, error)
        except (ValueError, RecursionError) as error:  # a ValueError too: a number of thousands of digits
            return Bad(line, f"broken JSON: {error}", shown(data))
    if isinstance(value, dict):
        return Raw(line, value)
    return Bad(line, f"a JSON object was expected, found {type(value).__name__}", shown(data))


def _rounded(value: Any) -> bool:
    """Whether a value may hold a whole number that orjson took for a float, because it has more than 64 bits."""
    kind = type(value)
    if kind is dict:
        return any(_rounded(item) for item in value.values() if type(item) is not str)
    if kind is list:
        return any(_rounded(item) for item in value if type(item) is not str)
    return kind is float and math.fabs(value) >= 2.0**63


def text(place: Place, unit: str, about: dict[str, str]) -> Iterator[Raw | Bad]:
    """Plain text: the file, each paragraph (blank lines between), or each line is a row with the field `text`.

    A unit with a fault in it is bad as a whole: a text with a hole is not the text.
    """
    units = {"file": _file, "paragraph": _paragraphs, "line": _lines}
    return units[unit](place, about)


def _file(place: Place, about: dict[str, str]) -> Iterator[Raw | Bad]:
    held: list[bytes] = []
    size = 0
    try:
        for piece in text_pieces(place)[1]:
            size += len(piece)
            held = [*held, piece] if size <= place.limit else held[:1] or [piece]
    except BrokenError as error:
        line = sum(piece.count(b"\n") for piece in held) + 1
        yield Bad(line, str(error), shown(b"".join(held).rpartition(b"\n")[2]))
        return
    if size > place.limit:
        yield too_long(1, held[0], place.limit, "text")
    elif size:
        yield _decoded(b"".join(held), 1, about)


def _paragraphs(place: Place, about: dict[str, str]) -> Iterator[Raw | Bad]:
    start, size, held = 1, 0, []
    fault: Bad | None = None
    for number, line in lines(place):
        if isinstance(line, Bad):
            yield line
            return
        if not isinstance(line, Long) and not line.strip():
            if held:
                yield fault or _decoded(b"".join(held), start, about)
            size, held, fault = 0, [], None
            continue
        start = number if not held else start
        size += len(line) if isinstance(line, bytes) else place.limit + 1
        if size <= place.limit:
            held.append(line)
        else:
            head = held[0] if held else line.head if isinstance(line, Long) else line
            fault = fault or too_long(start, head, place.limit, "paragraph")
            held = [head]
    if held:
        yield fault or _decoded(b"".join(held), start, about)


def _lines(place: Place, about: dict[str, str]) -> Iterator[Raw | Bad]:
    for number, line in lines(place):
        if isinstance(line, Bad):
            yield line
        elif isinstance(line, Long):
            yield too_long(number, line.head, place.limit)
        elif line.strip():
            yield _decoded(line.rstrip(b"\r\n"), number, about)


def _decoded(data: bytes, start: int, about: dict[str, str]) -> Raw | Bad:
    """A unit as a row; a fault is told with its line, for no UTF-8 sequence holds a line feed."""
    try:
        return Raw(start, {"text": data.decode("utf-8"), **about})
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        line = data[begin:].partition(b"\n")[0]
        number = start + data.count(b"\n", 0, begin)
        error.start -= begin
        return undecodable(line, number, error)
