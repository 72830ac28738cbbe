"""Raw files to raw rows, one reader a format, each good row kept whatever stands around it.

A reader yields `Raw` (the line on which the row starts, 1-based, and its fields) or `Bad` (the line, the reason and
the beginning of what stood there). Nothing is skipped: what cannot be read is a `Bad`. The readers stand in modules of
their own, and what they have in common in `formats` and `pieces`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from snaketune.ingest.formats import COMPRESSED, Bad, Items, format_of
from snaketune.ingest.pieces import FAULTS, Place, broken
from snaketune.ingest.readers_csv import delimited
from snaketune.ingest.readers_json import json_items
from snaketune.ingest.readers_tables import arrow, parquet
from snaketune.ingest.readers_text import jsonl, text


def read(path: str | Path, name: str, kind: str, text_unit: str = "file", max_line_mb: int = 64) -> Items:
    """The rows of one whole file; `kind` is a value of FORMATS, `name` is what the file is called in messages.

    Of a zip archive the rows of all its members, one member after another.
    """
    file = {"path": str(path), "name": name, "format": kind}
    for _, items in opened(file, {"format": "auto", "text_unit": text_unit, "max_line_mb": max_line_mb}):
        yield from items


def opened(file: dict[str, Any], settings: dict[str, Any], wanted: Collection[str] = ()) -> Iterator[tuple[str, Items]]:
    """The rows of a file of shards.shards, or of its part from `start` to `end`: its name, and the rows.

    An archive gives a pair for each member, whose rows must be taken before the next. `settings` is the section
    `source`: format (of the members of an archive), text_unit, max_line_mb. Of a table with columns only the `wanted`
    ones need be read.
    """
    path, limit = file["path"], settings["max_line_mb"] * 1_000_000
    if file["format"] == "zip":
        yield from _members(path, file["name"], settings, wanted)
        return
    packed = _packed(path)
    place = Place(partial(open, path, "rb"), path, packed, limit, file.get("start") or 0, file.get("end"))
    yield file["name"], _reader(place, file["name"], file["format"], settings["text_unit"], wanted)


def _packed(name: str) -> str | None:
    suffix = PurePosixPath(name).suffix
    return suffix if suffix in COMPRESSED else None


def _reader(place: Place, name: str, kind: str, text_unit: str, wanted: Collection[str]) -> Items:
    """The rows of one place."""
    if kind in ("csv", "tsv"):
        return delimited(place, "," if kind == "csv" else "\t")
    if kind in ("parquet", "arrow"):
        return (parquet if kind == "parquet" else arrow)(place, partial(_columns, wanted))
    if kind == "json":
        return json_items(place)
    if kind == "jsonl":
        return jsonl(place)
    about = {"file": name, "stem": PurePosixPath(name).stem}
    return text(place, "file" if kind == "html" else text_unit, about)


def _columns(wanted: Collection[str], names: list[str]) -> list[str]:
    """Which columns of a table are read: the wanted ones, or all where none of them is there, to name them."""
    return [name for name in names if name in wanted] or names


def _members(path: str, name: str, settings: dict[str, Any], wanted: Collection[str]) -> Iterator[tuple[str, Items]]:
    """The members of a zip archive in the order of their names; hidden ones are left out, as in a folder."""
    try:
        archive = zipfile.ZipFile(path)
    except FAULTS as error:
        yield name, iter([Bad(1, broken(error), "")])
        return
    with archive:
        last = {info.filename: number for number, info in enumerate(archive.infolist())}
        for number, info in sorted(enumerate(archive.infolist()), key=lambda pair: (pair[1].filename, pair[0])):
            if info.is_dir() or _hidden(info.filename):
                continue
            called = f"{name}/{info.filename}"
            kind = format_of(info.filename) if settings["format"] == "auto" else settings["format"]
            reason = _unreadable(info, kind)
            if last[info.filename] != number:
                reason = "a later member of the archive has the same name, and takes its place"
            if reason:
                yield called, iter([Bad(1, reason, "")])
                continue
            limit = settings["max_line_mb"] * 1_000_000
            place = Place(partial(archive.open, info), None, _packed(info.filename), limit)
            yield called, _reader(place, called, str(kind), settings["text_unit"], wanted)


def _hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _unreadable(info: zipfile.ZipInfo, kind: str | None) -> str | None:
    if info.flag_bits & 1:
        return "the member of the archive is encrypted: unpack it"
    if kind is None:
        return "the format of the member cannot be told by its name; set `source.format`"
    if kind == "zip":
        return "an archive in an archive is not read: unpack it"
    return None
