"""The files that judges send back: read, checked against the key of the page, and joined by judge.

A file that does not belong is refused by name. What is wrong with it cannot be mended by guessing, and a vote of
another page would count for a text that nobody saw.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from snaketune.job import StageError

CHOICES = ("a", "b", "tie")
COLUMNS = ("page", "run", "judge", "item", "choice", "note")
AGAIN = "Save the answers from the page again, or move the file out of the folder"
csv.field_size_limit(2**31 - 1)  # a note may be as long as one likes


class Vote(NamedTuple):
    """What one judge chose for one pair, and the file that says so."""

    choice: str
    note: str
    file: str


def collected(files: Iterable[str], key: dict[str, Any]) -> dict[str, dict[str, Vote]]:
    """The votes of all files: judge -> item -> Vote, judges by name. Raises StageError for what does not belong.

    One judge may send several files, say a half and the whole; where they contradict each other, none is taken.
    """
    items = {item["item"] for item in key["items"]}
    votes: dict[str, dict[str, Vote]] = {}
    for file in sorted(files):
        for row in _rows(file):
            judge, item, vote = _checked(row, file, key, items)
            earlier = votes.setdefault(judge, {}).setdefault(item, vote)
            if earlier.choice != vote.choice:
                raise StageError(
                    f"{judge} chose {earlier.choice!r} for item {item} in {earlier.file}, and {vote.choice!r} in "
                    f"{file}. Keep the file that counts; if these are two people, give them two names"
                )
            if vote.note and not earlier.note:
                votes[judge][item] = vote
    return dict(sorted(votes.items()))


def _rows(file: str) -> Iterator[dict[str, str]]:
    """The rows of one file, each with the COLUMNS as texts."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(f"{file}: not UTF-8 text (byte {error.start}). {AGAIN}") from error
    kind = Path(file).suffix.lower()
    if kind == ".json":
        yield from _json_rows(text, file)
    elif kind == ".csv":
        yield from _csv_rows(text, file)
    else:
        raise StageError(
            f"{file}: neither .json nor .csv. Move whatever is not an export of the page out of the folder"
        )


def _json_rows(text: str, file: str) -> Iterator[dict[str, str]]:
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise StageError(f"{file}: no JSON ({error}). {AGAIN}") from error
    rows = document.get("judgements") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StageError(f"{file}: no export of the page, it has no list `judgements`. {AGAIN}")
    head = {name: document.get(name) for name in ("page", "run", "judge")}
    for row in rows:
        found = head | {name: row.get(name, "") for name in ("item", "choice", "note")}
        if wrong := [name for name, value in found.items() if not isinstance(value, str)]:
            raise StageError(f"{file}: no export of the page, `{wrong[0]}` is not a text. {AGAIN}")
        yield found


def _csv_rows(text: str, file: str) -> Iterator[dict[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise StageError(f"{file}: the first line is not `{','.join(COLUMNS)}`. {AGAIN}")
        for row in reader:
            if len(row) != len(COLUMNS):
                raise StageError(
                    f"{file}, line {reader.line_num}: {len(row)} fields instead of {len(COLUMNS)}. {AGAIN}"
                )
            yield dict(zip(COLUMNS, row, strict=True))
    except csv.Error as error:
        raise StageError(f"{file}, line {reader.line_num}: no CSV ({error}). {AGAIN}") from error


def _checked(row: dict[str, str], file: str, key: dict[str, Any], items: set[str]) -> tuple[str, str, Vote]:
    judge = normalize("NFC", " ".join(_writable(row["judge"]).split()))
    if row["run"] != key["run"]:
        raise StageError(f"{file} judges the run {row['run']!r}, not {key['run']!r}. Move it to the folder of that run")
    if row["page"] != key["page"]:
        raise StageError(
            f"{file} judges another page of this run ({row['page']}, not {key['page']}): the answers have changed "
            "since. Have the new page judged, and move the file out of the folder"
        )
    if row["item"] not in items:
        raise StageError(f"{file}: the item {row['item']!r} is not on the page. {AGAIN}")
    if row["choice"] not in CHOICES:
        raise StageError(f"{file}, item {row['item']}: the choice {row['choice']!r} is none of a, b, tie. {AGAIN}")
    if not judge:
        raise StageError(f"{file}: the judge has no name. Write one into the page, and save the answers again")
    return judge, row["item"], Vote(row["choice"], _writable(row["note"]).strip(), file)


def _writable(text: str) -> str:
    """A text without half characters, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()
