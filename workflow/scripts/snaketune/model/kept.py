"""The folder of a step, `<kind>-<step>/`: written whole or not at all, and read only as it was written.

It is made as `.part`, with a state.json that is written last and has sizes and SHA-256 of all files, itself included;
then it is put on the disk and renamed. A step that is kept twice gets `-2` behind its name: the folder of a name is
never replaced, so that there is no instant between the old one and the new.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from snaketune.durable import delete, publish
from snaketune.job import StageError
from snaketune.store import amount

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MARGIN = 1 << 20  # bytes for names, headers and state.json
PLACE = re.compile(r"[a-z]+-(\d{8,})(?:-(\d+))?")


class DamagedError(Exception):
    """What is wrong with a kept folder, in words."""


def keep(
    folder: Path, kind: str, step: int, state: dict[str, Any], write: Callable[[Path], None], size: int, what: str
) -> Path:
    """Make the folder of a step of what `write` puts into it; where it stands.

    kind: lower-case letters; state: JSON values, for state.json; size: the bytes that `write` will need, as far as
    they are known; what: its name in a sentence. Raises StageError where the disk is too full, and leaves nothing.
    """
    folder.mkdir(exist_ok=True)  # what is above is there, unless somebody removed the whole training
    part = folder / f"{kind}-{step:08d}.part"
    delete(part)
    try:
        with room(folder, what, size + MARGIN):
            part.mkdir()
            write(part)
            _describe(part, step, state)
            before = newest_of(folder, kind, step)
            again = f"-{_order(before)[1] + 1}" if before else ""
            place = part.with_name(f"{kind}-{step:08d}{again}")
            publish(part, place)
    except StageError:
        delete(part)
        raise
    return place


def _describe(part: Path, step: int, state: dict[str, Any]) -> None:
    """Write state.json, the last file of a folder."""
    files = {path.relative_to(part).as_posix(): _entry(path) for path in sorted(part.rglob("*")) if path.is_file()}
    about = {"step": step, "state": state, "files": files}
    text = json.dumps(about | {"sha256": _digest(about)}, indent=1, sort_keys=True, allow_nan=False)
    (part / "state.json").write_text(text + "\n", encoding="utf-8")


def places(folder: Path, kind: str) -> list[Path]:
    """The folders of a kind, the newest first."""
    return sorted((path for path in folder.glob(f"{kind}-*") if PLACE.fullmatch(path.name)), key=_order, reverse=True)


def newest_of(folder: Path, kind: str, step: int | None) -> Path | None:
    """The folder of a step, the latest where it was kept twice; None where there is none."""
    return next((place for place in places(folder, kind) if _order(place)[0] == step), None)


def _order(place: Path) -> tuple[int, int]:
    """Step, and the how-manieth time that it was kept."""
    match = PLACE.fullmatch(place.name)
    return int(match[1]), int(match[2] or 1)


def verified(place: Path) -> tuple[int, dict[str, Any]]:
    """Step and state of a folder all of whose files are as they were written. Raises DamagedError for any other."""
    try:
        about = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if about.pop("sha256") != _digest(about):
            raise DamagedError(f"{place.name}/state.json is not as it was written")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{place.name}/state.json is missing or cut off") from error
    for name, entry in about["files"].items():
        try:
            if _entry(place / name) != entry:
                raise DamagedError(f"{place.name}/{name} is not as it was written")
        except FileNotFoundError as error:
            raise DamagedError(f"{place.name}/{name} is missing") from error
    return about["step"], about["state"]


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def _digest(about: dict[str, Any]) -> str:
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@contextmanager
def room(folder: Path, what: str, need: int = 0) -> Iterator[None]:
    """Say it in a sentence where the disk has less than `need` bytes, or is full before all is written."""
    if shutil.disk_usage(folder).free < need:
        raise _full(folder, what, need, "the disk is too full")
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if (number := _errno(error)) not in FULL:
            raise
        raise _full(folder, what, need, os.strerror(number)) from error


def _full(folder: Path, what: str, need: int, reason: str) -> StageError:
    free = shutil.disk_usage(folder).free
    needed = f"{amount(need)} are needed, and " if need > free else ""
    return StageError(
        f"{what} could not be written to {folder}: {reason}; {needed}{amount(free)} are free. What was saved before is "
        "whole: make room (`workflow/scripts/snaketune/store.py` lists and prunes the store), and call snakemake again"
    )


def _errno(error: BaseException | None) -> int | None:
    """The system's number of an error: safetensors has it in its words, torch beneath an error of its own."""
    if isinstance(error, SafetensorError):
        said = re.search(r"\(os error (\d+)\)", str(error))
        return int(said[1]) if said else None
    if isinstance(error, OSError) or error is None:
        return error and error.errno
    return _errno(error.__context__)
