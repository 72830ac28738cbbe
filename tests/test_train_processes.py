"""Several processes train what one trains: the same steps, the same losses, the same weights up to rounding."""

import json
import signal
import time

import pytest
import torch

import training_runs
from snaketune.job import StageError
from train import folder_of
from training_runs import Run

made = training_runs.made  # a fixture

SETTINGS = {"max_steps": 6, "evaluations": 2, "batch_size": 5, "batching": "padded", "optimizer": "sgd"}
SETTINGS |= {"learning_rate": 0.5, "max_grad_norm": 0.5}


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory) -> Run:
    run = Run(made, tmp_path_factory.mktemp("alone"), **SETTINGS)
    run()
    return run


def alike(one: Run, other: Run) -> None:
    assert len(one.steps) == len(other.steps)
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        assert {key: mine[key] for key in ("step", "tokens", "trained_tokens")} == {
            key: theirs[key] for key in ("step", "tokens", "trained_tokens")
        }
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert one.evaluated == pytest.approx(other.evaluated, rel=1e-5)
    for name, tensor in one.weights.items():
        torch.testing.assert_close(tensor, other.weights[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("passes", [1, 3], ids=["one sequence a pass", "three sequences a pass"])
def test_two_processes_train_what_one_trains(made, tmp_path, alone, parallel, passes):
    # Five sequences a step: one process has three of them, the other two, and at one a pass an empty one.
    run = Run(made, tmp_path, how={"pass_blocks": passes}, devices=2, parallel=parallel, **SETTINGS)
    run()
    alike(run, alone)
    assert (run.summary["processes"], run.summary["parallel"]) == (2, parallel)


@pytest.mark.parametrize(
    ("parallel", "more"),
    [("ddp", {"method": "lora"}), ("fsdp", {"average": {"kind": "ema", "decay": 0.8, "start": 0.5}})],
    ids=["ddp-lora", "fsdp-ema"],
)
def test_two_processes_that_are_told_to_stop_go_on_as_if_nothing_had_been(made, tmp_path, parallel, more):
    settings = SETTINGS | {"optimizer": "adamw_torch_fused", "learning_rate": 0.01, "max_steps": 30} | more
    plain = Run(made, tmp_path / "plain", "dropout", devices=2, parallel=parallel, **settings)
    plain()
    run = Run(made, tmp_path / "stopped", "dropout", devices=2, parallel=parallel, **settings)
    child = run.apart()
    history = run.store / "history.jsonl"
    while not (history.exists() and len(history.read_text().splitlines()) > 12):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=120)
    assert "stopped by a signal after step" in said
    assert 12 <= run.checkpoints[-1] < 30
    run()
    assert run.files() == plain.files()


@pytest.mark.parametrize(
    ("first", "then"),
    [({"devices": 2, "parallel": "fsdp"}, {}), ({}, {"devices": 2}), ({"devices": 2}, {"devices": 3})],
    ids=["fsdp to one", "one to ddp", "two to three"],
)
def test_a_training_goes_on_with_another_number_of_processes(made, tmp_path, alone, first, then):
    run = Run(made, tmp_path, **SETTINGS | first)
    history = run.store / "history.jsonl"
    child = run.apart()
    while not (history.exists() and len(history.read_text().splitlines()) > 3):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=120)
    assert 0 < run.checkpoints[-1] < SETTINGS["max_steps"]
    before = history.read_bytes()
    again = Run(made, tmp_path, how={"pass_blocks": 1}, **SETTINGS | then)
    again()
    alike(again, alone)
    assert (tmp_path / "history.jsonl").read_bytes().startswith(before), "steps were computed twice"
    assert again.summary["processes"] == then.get("devices", 1)


def test_the_store_does_not_ask_how_many_compute(tmp_path):
    def folder(how=None, **settings):
        given = training_runs.SETTINGS | settings
        return folder_of(
            str(tmp_path), given, {"train": "a"}, {"precision": "fp32", "pass_blocks": 4} | (how or {}), []
        )

    same = [{"devices": 4}, {"nodes": 2}, {"parallel": "fsdp"}, {"gradient_accumulation": 2}, {"trackers": ["wandb"]}]
    assert {folder(), folder({"pass_blocks": 1}), *(folder(**each) for each in same)} == {folder()}
    assert len({folder(), folder({"precision": "bf16"}), folder(batch_size=4), folder(learning_rate=1.0)}) == 4


def test_gradual_unfreezing_goes_with_ddp(made, tmp_path):
    freeze = {"first": 0, "last": None, "embeddings": False, "patterns": [], "gradual": 0.6}
    settings = SETTINGS | {"method": "freeze", "freeze": freeze}
    alone = Run(made, tmp_path / "one", **settings)
    run = Run(made, tmp_path / "two", devices=2, **settings)
    alone()
    run()
    alike(run, alone)


def test_a_failure_of_a_process_is_told_in_its_own_words(made, tmp_path):
    run = Run(made, tmp_path, devices=2, **SETTINGS | {"optimizer_args": {"mass": 3}})
    with pytest.raises(StageError, match=r"`train.optimizer_args` has `mass`, which sgd does not take"):
        run()
    assert json.loads((run.store / "work.json").read_text())["run"] == "demo"
