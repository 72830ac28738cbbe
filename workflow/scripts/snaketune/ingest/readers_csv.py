"""CSV and TSV with a header line. Quoted fields may span lines; a bad record costs itself and nothing around it."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from snaketune.ingest.formats import HEAD_CHARS, Bad, Raw
from snaketune.ingest.pieces import Long, Place, lines, too_long, undecodable


class _Decoded:
    """The lines of a delimited file as text, for csv.reader, with what is wrong in them by their number.

    Of a line that cannot be used something is still handed on, with its quotation marks, so that the reader knows
    where the record ends. A record beyond the limit is cut off, by a StopIteration in the middle of it.
    """

    def __init__(self, place: Place) -> None:
        self._lines = lines(place)
        self.limit = place.limit
        self.faults: dict[int, Bad] = {}
        self.last = ""
        self.number = 0  # of the line that was read last
        self.size = 0  # of the record so far; set to 0 where one begins
        self.ended = self.cut = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > self.limit:
            self.cut = True
            raise StopIteration
        number, line = next(self._lines, (0, None))
        if line is None or isinstance(line, Bad):
            self.ended = True
            if line:
                self.faults[number] = line
            raise StopIteration
        self.number = number
        if isinstance(line, Long):
            self.faults[number] = too_long(number, line.head, self.limit)
            self.last = '"\n' if line.quotes % 2 else "x\n"
            return self.last
        self.size += len(line)
        try:
            self.last = line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.faults[number] = undecodable(line, number, error)
            self.last = line.decode("utf-8", "replace")
        return self.last

    def skip(self) -> None:
        """Go to the end of a record that was cut off: behind the quotation mark that closes the open field."""
        self.cut, opened = False, True
        while opened and not self.ended:
            self.size = 0
            line = next(self, "")
            opened = line.count('"') % 2 == 0


def _records(place: Place, delimiter: str) -> Iterator[tuple[int, list[str]] | Bad]:
    """The records of a delimited file, each with the line on which it starts; blank lines are none."""
    csv.field_size_limit(2**31 - 1)
    text = _Decoded(place)
    reader = csv.reader(text, delimiter=delimiter)
    while True:
        first, text.size = text.number + 1, 0
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield _with_faults(
                text, first, Bad(first, f"broken {delimiter!r}-separated line: {error}", text.last[:HEAD_CHARS].strip())
            )
            continue
        head = delimiter.join(value[:HEAD_CHARS] for value in values)[:HEAD_CHARS]
        if text.cut:
            text.skip()
            yield _with_faults(text, first, too_long(first, head.encode(), text.limit, "record"))
        elif text.ended:  # the reader asks for a line beyond the last only inside of quotes
            unclosed = Bad(first, "a quoted field is opened here and never closed", head)
            last = text.faults.pop(text.number + 1, None)
            yield _with_faults(text, first, unclosed)
            if last:
                yield last
        elif fault := _with_faults(text, first, None):
            yield fault
        elif values:
            yield first, values
    yield from text.faults.values()


def _with_faults(text: _Decoded, first: int, otherwise: Bad | None) -> Bad | None:
    """The first fault of the lines of a record, which are then done with."""
    found = [text.faults.pop(number) for number in range(first, text.number + 1) if number in text.faults]
    return found[0] if found else otherwise


def delimited(place: Place, delimiter: str) -> Iterator[Raw | Bad]:
    """The rows below the header line. Without a sound header no row can be read."""
    header: list[str] | None = None
    for record in _records(place, delimiter):
        if isinstance(record, Bad):
            if header is None:
                yield Bad(record.line, f"no row is read, for want of a header: {record.reason}", record.head)
                return
            yield record
            continue
        line, values = record
        if header is None:
            header = values
            if twice := [name for name in header if header.count(name) > 1]:
                head = delimiter.join(header)[:HEAD_CHARS]
                yield Bad(line, f"no row is read: the header names `{twice[0]}` twice", head)
                return
        elif len(values) == len(header):
            yield Raw(line, dict(zip(header, values, strict=True)))
        else:
            reason = f"{len(values)} columns, where the header has {len(header)}"
            yield Bad(line, reason, delimiter.join(values)[:HEAD_CHARS])
