"""Checkpoints of a training, and the best model so far, such that a kill at any instant shows in nothing.

The folder of a training's checkpoints holds, between any two file operations and from the first `save` on, one whole
checkpoint and the best model that it knew:

    step-00000120/   learnt.safetensors   the learnt tensors
                     optimizer.pt         what of the state JSON cannot hold: optimizer, scheduler, random numbers
                     state.json           the rest of the state; sizes and SHA-256 of all files
    best-00000080/   what `write` wrote   the best model so far; its state.json holds the facts given with it

A training keeps a new best model first, and then saves the checkpoint that names it by `best_step`. Until then the
best model of the checkpoint before stays: whoever goes on from that one may not find the newer one again, as sums on a
GPU differ from run to run. Older steps go once the new one stands, and after them the best models that it does not
name. The training's history is cut back to what the checkpoint knew of it.

One process writes, the one that has the claim on the training (snaketune.store). Reading runs no code of a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.serialization import get_unsafe_globals_in_checkpoint

from snaketune.durable import delete, discard, sweep, sync
from snaketune.job import StageError, say
from snaketune.model.kept import DamagedError, keep, newest_of, places, room, verified


@dataclass(frozen=True)
class Best:
    """The best model so far: what `write` wrote stands in its folder, `facts` are those given with it."""

    folder: Path
    step: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, and the best model that it names. `facts`: the part of the state that is JSON."""

    folder: Path
    step: int
    facts: dict[str, Any]
    best: Best | None

    def state(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The state that was saved, with its tensors on the CPU: load_state_dict moves them.

        device: where they will be used. What is bound for a GPU is read from the mapped file as it is moved. On the
        CPU it is read into memory: an optimizer there would work on the mapped file, and keep it on the disk for good.
        """
        path = self.folder / "optimizer.pt"
        if not path.exists():
            return dict(self.facts)
        mapped = torch.device(device).type != "cpu"
        return self.facts | torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The learnt tensors, on the mapped file: to be copied into the model's own, and let go."""
        return load_file(self.folder / "learnt.safetensors")


def save(folder: Path, step: int, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Save the checkpoint of a step, then remove the older ones; where it stands.

    state: plain values, and dicts, lists and tuples of them and of tensors, as torch's state_dicts are. `best_step`
    names the best model so far, None while there is none; `planned_steps` is shown by the store's list. tensors: the
    learnt ones by name, any shape, in fp32 (any type is kept as it is), no two on the same memory.

    Raises StageError where the disk is too full, and the checkpoint before stays as it is; TypeError for a state that
    could not be read back without running code of the file; ValueError for a best model that was not kept.
    """
    if (best_step := state.get("best_step")) is None:
        named = None
    elif (named := newest_of(folder, "best", best_step)) is None:
        raise ValueError(f"{folder} has no best model of step {best_step}: it is kept before the checkpoint")
    plain = {name: value for name, value in state.items() if _is_json(value)}
    rest = {name: value for name, value in state.items() if name not in plain}

    def write(part: Path) -> None:
        learnt = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(learnt, part / "learnt.safetensors")
        if rest:
            _save_torch(rest, part / "optimizer.pt")

    place = keep(folder, "step", step, plain, write, _bytes_of([tensors, rest]), f"the checkpoint of step {step:,}")
    for older in places(folder, "step"):
        if older != place:
            discard(older)
    for other in places(folder, "best"):
        if other != named:
            discard(other)
    return place


def keep_best(folder: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> Path:
    """Keep the best model so far, which `write` puts into the folder that it is given; where it stands.

    facts: JSON values, with the model's `step`. To be called before the `save` that names it; the best model before it
    stays as long as a checkpoint names that. Raises StageError where the disk is too full.
    """
    size = max((_bytes_in(place) for place in places(folder, "best")), default=0)
    what = f"the best model so far, of step {facts['step']:,},"
    place = keep(folder, "best", facts["step"], facts, write, size, what)
    named = {newest_of(folder, "best", _best_step(step)) for step in places(folder, "step")}
    for other in places(folder, "best"):
        if other != place and other not in named:
            discard(other)
    return place


def last(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, to go on from; None where there is none, and the training starts afresh.

    Whole is one whose files, and those of the best model that it names, are as they were written. A damaged one is told
    of, and removed. So is what a kill left: parts, older checkpoints, and best models that the checkpoint does not
    name, as a training that goes on from it has not seen them yet.
    """
    if not folder.is_dir():
        return None
    sweep(folder)
    for part in folder.glob("*.part"):
        delete(part)
    found: Checkpoint | None = None
    for place in places(folder, "step"):
        if found is None:
            found = _whole(place)
        if found is None or place != found.folder:
            discard(place)
    named = found.best.folder if found and found.best else None
    for place in places(folder, "best"):
        if place != named:
            discard(place)
    return found


def best(folder: Path) -> Best | None:
    """The newest whole best model. A damaged one is told of, and the one before it taken where that still stands."""
    for place in places(folder, "best"):
        try:
            return Best(place, *verified(place))
        except DamagedError as damage:
            say(f"  {place} cannot be used: {damage}")
    return None


def _whole(place: Path) -> Checkpoint | None:
    """A checkpoint with its best model; None, and a line at the terminal, where one of them is damaged."""
    try:
        step, facts = verified(place)
        if (best_step := facts.get("best_step")) is None:
            return Checkpoint(place, step, facts, None)
        if (named := newest_of(place.parent, "best", best_step)) is None:
            raise DamagedError(f"the best model that it names, of step {best_step:,}, is missing")
        return Checkpoint(place, step, facts, Best(named, *verified(named)))
    except DamagedError as damage:
        say(f"  {place} cannot be gone on from: {damage}")
        return None


def _best_step(place: Path) -> int | None:
    """The best model that a checkpoint names; None for a damaged one, which nobody will go on from."""
    try:
        return json.loads((place / "state.json").read_text(encoding="utf-8"))["state"].get("best_step")
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _save_torch(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
    if unsafe := get_unsafe_globals_in_checkpoint(path):
        raise TypeError(f"{', '.join(state)}: tensors and plain values can be kept, and not {', '.join(unsafe)}")


def _is_json(value: Any) -> bool:
    """Whether JSON gives a value back as it was: it has no tuples, no NaN, no keys but strings."""
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def _bytes_of(value: Any) -> int:
    """The bytes of all tensors in dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return _bytes_of(list(value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


class HistoryFile:
    """JSON lines that a training adds to, and that are cut back to its last checkpoint when it goes on from there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Add lines. A kill of this process does not lose them; a power cut may, until `bytes` has been asked for."""
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        with room(self.path.parent, self.path.name), self.path.open("ab") as file:
            file.write(text.encode())

    @property
    def bytes(self) -> int:
        """The length of the file, all of which is on the disk now: what a checkpoint records of it."""
        if not self.path.exists():
            return 0
        sync(self.path)
        sync(self.path.parent)
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Cut the file back to what a checkpoint recorded; to 0 bytes for a training that starts afresh.

        Raises StageError where the file is shorter than that.
        """
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            raise StageError(
                f"{self.path} has {there:,} bytes, and its training's checkpoint knows of {size:,}: somebody changed "
                f"it. Remove {self.path.parent}, and call snakemake again: it trains from the start"
            )
        if there:
            os.truncate(self.path, size)
            sync(self.path)
