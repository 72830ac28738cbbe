"""The store: what trainings have made and are at, in results/.store/<fingerprint>/, out of Snakemake's hands.

python workflow/scripts/snaketune/store.py list                 what is there
python workflow/scripts/snaketune/store.py prune --limit-gb 20  removes what was used least recently
python workflow/scripts/snaketune/store.py clear [--force]      empties it; only by force where a training is unfinished

A training's folder holds `lock`, `last_used`, `checkpoints/` while it is under way, and `done/` once it is finished.
Two jobs with one fingerprint train the same, so the first holds the lock and the second waits for its result. The
kernel gives the lock back when a process ends, however it ends. Whoever removes a folder holds its lock too. Beside
the trainings stand tables that a model made (snaketune.reuse), in folders named <stage>-<fingerprint>.

The Snakefile imports this module: it is light, and as a program it needs no package but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from snaketune.durable import NO_LOCKS, aside, delete, lock, publish, sweep, sync, unlock
from snaketune.job import StageError, say

__all__ = ["Training", "amount", "claim", "clear", "fingerprint", "listing", "main", "prune", "publish", "trainings"]

STORE = Path("results/.store")
# What computes: another version of it may give other numbers.
LIBRARIES = ("torch", "triton", "transformers", "peft", "accelerate", "bitsandbytes", "flash-attn", "numpy")
QUIET_S = 24 * 3600  # without locks, a training that wrote nothing for a day is taken for dead


def fingerprint(parts: dict[str, Any], files: Iterable[str]) -> str:
    """32 hex digits for everything that decides the result: settings and counts, contents of files, libraries.

    A file counts by its name and content, whatever its folder and the order that the files are named in.
    """
    digest = sha256(json.dumps(parts, sort_keys=True).encode())
    for name in LIBRARIES:
        digest.update(f"{name}={_version(name)}\n".encode())
    for name, content in sorted((Path(path).name, _digest(path)) for path in files):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").digest()


@contextmanager
def claim(folder: Path, run: str = "") -> Iterator[None]:
    """Have a training's folder for this process alone: make it, or wait, in words, for the job that has it.

    run: who uses the training, for `list`. To be called by the process that writes: what it forks or starts does not
    hold the lock. Where the file system has no locks, the log says so and nobody waits.
    """
    held = _take(folder)
    try:
        _note_use(folder, run)
        yield
        os.utime(folder / "last_used")
    finally:
        unlock(held)


def _take(folder: Path) -> int | None:
    """The lock of a folder, waited for; None where the file system has none."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
            if (held := lock(folder)) is None:
                say(f"  waits for another job that trains the same ({folder})")
                held = lock(folder, wait=True)
            return held
        except (FileNotFoundError, FileExistsError):  # removed since it was made, or while mkdir looked at it
            if folder.is_file():
                raise
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder}: {error.strerror}; nothing keeps jobs that train the same apart here", flush=True)
            return None


def _note_use(folder: Path, run: str) -> None:
    """`last_used`: its time stamp says when, its lines which runs."""
    path = folder / "last_used"
    path.touch()
    runs = path.read_text(encoding="utf-8").splitlines()
    if run and run not in runs:
        path.write_text("\n".join([*runs, run]) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Training:
    """A folder of the store as `list` shows it: a training or a table. `used`: seconds since 1970, `size`: bytes."""

    folder: Path
    finished: bool
    step: int | None
    planned: int | None
    size: int
    used: float
    runs: list[str]
    running: bool

    @property
    def under_way(self) -> bool:
        """Whether removing it loses more than a stored result."""
        return self.running or (self.step is not None and not self.finished)

    @property
    def is_table(self) -> bool:
        """Whether it is no training, but a table that a model made."""
        return "-" in self.folder.name

    @property
    def state(self) -> str:
        """The state in words."""
        begun = "begun" if self.step is None else f"step {self.step:,}"
        begun += f" of {self.planned:,}" if self.planned else ""
        return ("finished" if self.finished else begun) + (", a job has it" if self.running else "")


def trainings(stores: Path) -> list[Training]:
    """All trainings of a store, least recently used first. One that vanishes meanwhile is left out."""
    found = []
    for folder in stores.glob("[!.]*/") if stores.is_dir() else ():
        with suppress(FileNotFoundError):
            found.append(_training(folder))
    return sorted(found, key=lambda training: (training.used, training.folder))


def _training(folder: Path) -> Training:
    noted, planned = folder / "last_used", None
    steps = sorted(folder.glob("checkpoints/step-*[0-9]"))
    if steps:
        with suppress(FileNotFoundError, ValueError):  # shown, not relied on
            planned = json.loads((steps[-1] / "state.json").read_text(encoding="utf-8"))["state"].get("planned_steps")
    with _idle(folder) as idle:
        running = not idle
    return Training(
        folder=folder,
        finished=(folder / "done").exists(),
        step=int(steps[-1].name.split("-")[1]) if steps else None,
        planned=planned,
        size=_size(folder),
        used=_used(folder),
        runs=noted.read_text(encoding="utf-8").splitlines() if noted.exists() else [],
        running=running,
    )


def _used(folder: Path) -> float:
    """When a training was last used, or last wrote a checkpoint."""
    signs = [path for path in (folder / "last_used", folder / "checkpoints") if path.exists()]
    return max(path.stat().st_mtime for path in signs or [folder])


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


@contextmanager
def _idle(folder: Path) -> Iterator[bool]:
    """Whether no job has a folder; inside, none can take it. FileNotFoundError where it has vanished."""
    held = None
    try:
        held = lock(folder)
        idle = held is not None
    except PermissionError:  # another user's
        idle = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        idle = time.time() - _used(folder) > QUIET_S
    try:
        yield idle
    finally:
        unlock(held)


def _remove(training: Training, force: bool = False) -> bool:
    """Remove a training, unless a job has it or has used it since it was listed; whether it is gone."""
    try:
        with _idle(training.folder) as idle:
            if not force and (not idle or _used(training.folder) > training.used):
                return False
            trash = aside(training.folder)
        delete(trash)  # without the lock: on NFS an open file keeps its folder
    except FileNotFoundError:  # another job was faster
        pass
    return True


def prune(stores: Path, limit_gb: float) -> str | None:
    """Bring a store within its limit (GB of 10^9 bytes), least recently used first; what went, in a sentence.

    The latest training stays, and so does whatever a job has at the moment. Unfinished trainings go like finished ones.
    """
    if not stores.is_dir():
        return None
    sweep(stores)
    found = trainings(stores)
    total = sum(training.size for training in found)
    gone, told = [], []
    latest = next((training for training in reversed(found) if not training.is_table), None)
    for training in found:
        if total <= limit_gb * 1e9:
            break
        if training is latest:
            continue
        try:
            if _remove(training):
                gone.append(training)
                total -= training.size
        except OSError as error:
            told.append(f"{training.folder} could not be removed from the store: {error.strerror}")
    if gone:
        told.append(f"removed {_all(gone)}, used least recently: {stores} may hold {limit_gb:g} GB")
    return "\n".join(told) or None


def clear(stores: Path, force: bool = False) -> str:
    """Empty a store; what went, in a sentence. Raises StageError, and removes nothing, where work would be lost."""
    found = trainings(stores)
    if lost := [training for training in found if training.under_way and not force]:
        named = "\n".join(f"  {training.folder}  {training.state}" for training in lost)
        raise StageError(f"under way, and lost if removed:\n{named}\nNothing was removed; `clear --force` removes all")
    sweep(stores)
    gone = [training for training in found if _remove(training, force)]
    taken = len(found) - len(gone)
    return f"removed {_all(gone)}, from {stores}" + (f"; {taken:,} stay, which a job has just taken" if taken else "")


def listing(stores: Path) -> str:
    """The trainings of a store as a table, the latest first."""
    found = trainings(stores)
    rows = [("fingerprint", "state", "size", "last used", "runs")]
    for training in reversed(found):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(training.used))
        rows.append((training.folder.name, training.state, amount(training.size), used, ", ".join(training.runs)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] + [_all(found)])


def _all(found: list[Training]) -> str:
    tables = sum(training.is_table for training in found)
    counts = {"training": len(found) - tables, "table": tables}
    said = [f"{count:,} {thing}{'s' * (count != 1)}" for thing, count in counts.items() if count] or ["0 trainings"]
    return f"{' and '.join(said)}, {amount(sum(training.size for training in found))}"


def amount(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def main(arguments: list[str]) -> int:
    """The command line; exit code 1 where `clear` refuses."""
    parser = argparse.ArgumentParser(description="What trainings have made and what they are at.")
    parser.add_argument("--store", type=Path, default=STORE, help=f"default: {STORE}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="what is there")
    limited = verbs.add_parser("prune", help="remove what was used least recently")
    limited.add_argument("--limit-gb", type=float, required=True)
    emptied = verbs.add_parser("clear", help="remove everything")
    emptied.add_argument("--force", action="store_true", help="unfinished trainings too, even those of running jobs")
    given = parser.parse_args(arguments)
    try:
        if given.verb == "clear":
            print(clear(given.store, given.force))
        elif given.verb == "prune":
            print(
                prune(given.store, given.limit_gb) or f"{given.store} holds no more than it may, or only what is used"
            )
        else:
            print(listing(given.store))
    except StageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
