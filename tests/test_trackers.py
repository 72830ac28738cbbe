"""What trackers are told: each number once, the settings and no secret, and never at the price of a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snaketune.job import StageError
from snaketune.model import trackers
from snaketune.model.trackers import Entry, Run, Trackers

SETTINGS = {"learning_rate": 5e-5, "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}, "max_steps": None}


def opened(folder: Path, *names: str, **options: Any) -> Trackers:
    return Trackers(list(names) or ["tensorboard"], folder, "demo", SETTINGS, **({"identity": "abc"} | options))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads of the event files."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, round(event.value, 4)) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def steps(tracked: Trackers, numbers: range, times: float = 1.0) -> None:
    """Log training steps, and an evaluation at each fifth."""
    for step in numbers:
        tracked.log("train", step, {"loss": times * step, "grad_norm": None})
        if step % 5 == 0:
            tracked.log("validation", step, {"loss": times * step + 1})


def test_tensorboard_reads_back_each_number_at_its_step(tmp_path: Path) -> None:
    tracked = opened(tmp_path)
    tracked.log("validation", 0, {"loss": 4.5, "accuracy": 0.25})
    steps(tracked, range(1, 4))
    tracked.close()
    assert scalars(tmp_path) == {
        "validation/loss": [(0, 4.5)],
        "validation/accuracy": [(0, 0.25)],
        "train/loss": [(1, 1.0), (2, 2.0), (3, 3.0)],
    }


def test_tensorboard_has_the_settings_and_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open-sesame")
    tracked = opened(tmp_path)
    steps(tracked, range(1, 4))
    tracked.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [text] = events.Tensors("settings/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert "| learning_rate | 5e-05 |" in table
    assert "| lora.rank | 8 |" in table
    assert '["q_proj", "v_proj"]' in table
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"open-sesame" not in file.read_bytes()


def test_a_resumed_training_has_no_step_twice_in_tensorboard(tmp_path: Path) -> None:
    interrupted = opened(tmp_path)
    steps(interrupted, range(1, 14))
    interrupted.deliver()  # and never closed
    resumed = opened(tmp_path, resumed_at=10)
    steps(resumed, range(11, 17), times=2.0)
    resumed.close()
    read = scalars(tmp_path)
    assert read["train/loss"] == [(step, float(step)) for step in range(1, 11)] + [(s, 2.0 * s) for s in range(11, 17)]
    assert [step for step, _ in read["validation/loss"]] == [5, 10, 15]


@pytest.mark.parametrize("resumed_at", [0, 10])
def test_another_training_in_the_same_folder_does_not_mix_with_the_first(tmp_path: Path, resumed_at: int) -> None:
    first = opened(tmp_path)
    steps(first, range(1, 21))
    first.close()
    other = opened(tmp_path, identity="other", resumed_at=resumed_at)
    steps(other, range(resumed_at + 1, resumed_at + 4))
    other.close()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [resumed_at + 1, resumed_at + 2, resumed_at + 3]


class Server:
    """A tracker that keeps what it is sent, as a server would over resumes; it can be made to fail."""

    def __init__(self, run: Run) -> None:
        self.run = run
        RUNS.append(run)

    def send(self, entries: list[Entry]) -> None:
        if FAULTS:
            raise FAULTS[0]
        KEPT.extend((self.run.id, entry.kind, entry.step) for entry in entries)

    def close(self) -> None:
        CLOSED.append(self.run.id)


KEPT: list[tuple[str, str, int]] = []
RUNS: list[Run] = []
CLOSED: list[str] = []
FAULTS: list[Exception] = []


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.STARTED, "wandb", Server)
    for kept in (KEPT, RUNS, CLOSED, FAULTS):
        kept.clear()


def test_a_server_that_cannot_forget_is_told_no_step_twice(tmp_path: Path) -> None:
    interrupted = opened(tmp_path, "wandb")
    steps(interrupted, range(1, 16))
    interrupted.waiting.pop()  # the process dies before the evaluation of step 15
    interrupted.deliver()
    resumed = opened(tmp_path, "wandb", resumed_at=10)
    steps(resumed, range(11, 19))
    resumed.close()
    assert len({run.id for run in RUNS}) == 1
    assert [step for _, kind, step in KEPT if kind == "train"] == list(range(1, 19))
    assert [step for _, kind, step in KEPT if kind == "validation"] == [5, 10, 15]


def test_a_training_from_its_beginning_is_a_run_of_its_own(tmp_path: Path) -> None:
    for options in ({}, {}, {"identity": "other", "resumed_at": 2}):
        tracked = opened(tmp_path, "wandb", **options)
        steps(tracked, range(1, 4))
        tracked.close()
    assert len({run.id for run in RUNS}) == len(set(CLOSED)) == 3
    assert len(KEPT) == 9
    assert RUNS[0].settings["lora.targets"] == '["q_proj", "v_proj"]'


def test_the_bookmark_is_moved_before_numbers_are_sent(tmp_path: Path) -> None:
    tracked = opened(tmp_path, "wandb")
    steps(tracked, range(1, 4))
    FAULTS.append(ConnectionError("gone while it was told"))
    tracked.deliver()
    assert json.loads((tmp_path / "trackers.json").read_text())["sent"] == {"wandb": {"train": 3}}


def test_numbers_are_delivered_every_five_seconds(tmp_path: Path) -> None:
    now = [0.0]
    tracked = opened(tmp_path, "wandb", clock=lambda: now[0])
    for step in range(1, 49):
        now[0] += 0.25
        tracked.log("train", step, {"loss": 1.0})
        assert len(KEPT) == step // 20 * 20
    tracked.close()
    assert len(KEPT) == 48


def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(trackers, "say", told.append)
    tracked = opened(tmp_path, "wandb", "tensorboard")
    steps(tracked, range(1, 3))
    tracked.deliver()
    FAULTS.append(OSError("no answer from https://me:hunter2@host.example/api"))
    for step in (3, 4):
        steps(tracked, range(step, step + 1))
        tracked.deliver()
    tracked.close()
    assert len(told) == 1
    assert "wandb failed and gets nothing more (no answer from https://" in told[0]
    assert "hunter2" not in told[0] + (log := capsys.readouterr().err)
    assert "Traceback" in log
    assert [step for _, _, step in KEPT] == [1, 2]
    assert not CLOSED
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4]


def test_an_interrupt_is_no_failure_of_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    tracked = opened(tmp_path, "wandb")
    steps(tracked, range(1, 3))
    monkeypatch.setattr(Server, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tracked.deliver()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(trackers.STARTED, "wandb", trackers._Wandb)
    monkeypatch.setitem(sys.modules, name, None)  # what Python does for a module that is not there
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(StageError, match=f"`pip install {name}`, or remove it from `train.trackers`"):
        opened(tmp_path, name)


def test_a_tracker_that_cannot_be_started_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Run) -> None:
        raise ValueError("no key for http://me:hunter2@host.example")

    monkeypatch.setitem(trackers.STARTED, "wandb", refused)
    with pytest.raises(StageError, match="the tracker wandb could not be started") as caught:
        opened(tmp_path, "wandb")
    assert "hunter2" not in str(caught.value)


def test_no_trackers_are_a_setting_too(tmp_path: Path) -> None:
    tracked = Trackers([], tmp_path / "logs", "demo", SETTINGS, "abc")
    steps(tracked, range(1, 9))
    tracked.close()
    assert not list((tmp_path / "logs").iterdir())
