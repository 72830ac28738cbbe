"""Checkpoints under kills at every file operation and on full disks: what was saved before is whole, and is found."""

import builtins
import io
import itertools
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_runs import fill, names, same, weights, writer
from snaketune.job import StageError
from snaketune.model import checkpoints
from snaketune.model.checkpoints import HistoryFile, best, keep_best, last, save


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the terminal shows."""
    lines: list[str] = []
    monkeypatch.setattr(checkpoints, "say", lines.append)
    return lines


def test_a_disk_that_cannot_hold_a_checkpoint_is_known_before_anything_is_written(tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 2)
    vast = {"a": torch.zeros(1).expand(10**15)}  # 4 PB that take no memory
    for state, tensors in (({"optimizer": {"state": {0: [vast]}}}, {}), ({}, vast)):
        message = (
            r"step 4 could not be written to .*/c: the disk is too full; 4,000,000.0 GB are needed, and [\d,.]+ GB are"
        )
        with pytest.raises(StageError, match=message):
            save(folder, 4, state, tensors)
    assert names(folder) == ["step-00000002"]


@pytest.mark.parametrize("file", ["learnt", "optimizer", "best", "history"])
def test_a_disk_that_is_full_in_the_middle_leaves_what_was_saved_before(file: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 2, best_step=1)
    big = torch.ones(100_000)
    history = HistoryFile(tmp_path / "history.jsonl")
    writes: dict[str, Callable[[], Any]] = {
        "learnt": lambda: save(folder, 4, {"best_step": 1}, {"a": big}),
        "optimizer": lambda: save(folder, 4, {"best_step": 1, "a": big}, {}),
        "best": lambda: keep_best(folder, lambda part: save_file({"a": big}, part / "model"), {"step": 3}),
        "history": lambda: history.append([{"step": step} for step in range(20_000)]),
    }
    reader, writer_end = os.pipe()
    if (child := os.fork()) == 0:  # a limit of the system on the size of files stands for the end of the disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            writes[file]()
        except StageError as error:
            os.write(writer_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer_end)
    with open(reader, encoding="utf-8") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert "could not be written" in told
    assert "File too large" in told
    assert "are free. What was saved before is whole" in told
    assert names(folder) == ["best-00000001", "step-00000002"]
    assert last(folder).best.step == 1


def test_a_model_that_cannot_be_written_leaves_the_best_before_it(tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 2, best_step=1)

    def fail(part: Path) -> None:
        (part / "half").touch()
        raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        keep_best(folder, fail, {"step": 3})
    assert best(folder).step == 1
    keep_best(folder, writer(3), {"step": 3})
    assert names(best(folder).folder) == ["model", "state.json"], "nothing is left of the one that failed"


def test_nothing_is_removed_before_what_follows_it_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    folder = fill(tmp_path / "c", 2, best_step=1)
    keep_best(folder, writer(3), {"step": 3})
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_sync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(f"sync {os.path.relpath(os.readlink(f'/proc/self/fd/{descriptor}'), folder)}")

    def recorded_rename(*paths: Path) -> None:
        rename(*paths)
        events.append(" to ".join(path.name.partition("-0000")[0] + path.suffix for path in paths))

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    save(folder, 4, {"best_step": 3, "moments": torch.ones(2)}, weights(4))
    written = [f"sync step-00000004.part{name}" for name in ("/learnt.safetensors", "/optimizer.pt", "/state.json", "")]
    assert set(events[:4]) == set(written)
    assert events[3:] == [written[3], "step.part to step", "sync .", "step to .trash-step", "best to .trash-best"]


def toy(folder: Path, losses: dict[int, float], saved: Callable[[int], None]) -> None:
    """A training of 4 steps: a line and a loss for each, a checkpoint after every second, and it goes on from there."""
    history = HistoryFile(folder / "history.jsonl")
    found = last(folder / "c")
    state = found.facts if found else {"history": 0, "best_step": None, "best_loss": 99.0}
    history.cut(state["history"])
    for step in range(found.step + 1 if found else 1, 5):
        history.append([{"step": step, "loss": losses[step]}])
        if losses[step] < state["best_loss"]:
            keep_best(folder / "c", writer(step), {"step": step, "loss": losses[step]})
            state = state | {"best_step": step, "best_loss": losses[step]}
        if step % 2 == 0:
            state = state | {"history": history.bytes}
            save(folder / "c", step, state | {"moments": torch.tensor([float(step)])}, weights(step))
            saved(step)


def killed_at(k: int, folder: Path, losses: dict[int, float]) -> tuple[bool, int]:
    """Run the toy in a process that kills itself before its k-th change to a file: whether it did, what it saved."""
    reader, writer_end = os.pipe()
    if (child := os.fork()) == 0:
        remaining = iter(range(k))

        def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(remaining, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **options)

            return call

        for name in ("rename", "mkdir", "unlink", "rmdir", "truncate"):
            setattr(os, name, counted(getattr(os, name)))
        read, write = io.open, counted(io.open)
        builtins.open = io.open = lambda path, mode="r", *rest, **options: (read if "r" in mode else write)(
            path, mode, *rest, **options
        )
        toy(folder, losses, lambda step: os.write(writer_end, bytes([step])))
        os._exit(0)
    os.close(writer_end)
    with open(reader, "rb") as pipe:
        steps = pipe.read()
    return os.waitpid(child, 0)[1] == signal.SIGKILL, max(steps, default=0)


# A new best model at 1, 2 and 3; checkpoints at 2 and 4.
FIRST = {1: 9.0, 2: 8.0, 3: 7.0, 4: 7.5}
SECOND = {1: 9.5, 2: 8.4, 3: 8.3, 4: 8.2}  # sums in another order: what was best need not be it again


@pytest.mark.parametrize("then", [FIRST, SECOND], ids=["the same losses again", "other losses"])
def test_a_training_killed_at_any_file_operation_twice_ends_as_its_history_says(then, tmp_path, said, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # for speed: a kill does not empty the system's cache
    for k in itertools.count():
        folder = tmp_path / str(k)
        folder.mkdir()
        killed, step = killed_at(k, folder, FIRST)
        if not killed:
            break
        later = killed_at(k * 7 % 40, folder, then)[1] if then is SECOND else 0
        found = last(folder / "c")
        assert (found.step if found else 0) >= max(step, later), f"what was saved is there (operation {k})"
        toy(folder, then, lambda step: None)
        lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4], f"operation {k}"
        expected = min(lines, key=lambda line: line["loss"])
        kept = best(folder / "c")
        assert kept.facts == expected, f"operation {k}"
        assert same(load_file(kept.folder / "model/model.safetensors"), weights(expected["step"]))
        end = last(folder / "c")
        assert same(end.tensors(), weights(4))
        assert end.state()["moments"].item() == 4
        assert names(folder / "c") == [f"best-0000000{expected['step']}", "step-00000004"], f"operation {k}"
    assert k > 40
    assert said == [], "nothing that a kill leaves passes for damaged"
