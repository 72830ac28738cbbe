"""A search as a whole, on the micro example: what decides it, and what does not."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import micro
from snaketune import config

SPACE = {
    "train.learning_rate": {"low": 0.001, "high": 0.05, "log": True},
    "train.epochs": [1, 2],
}
TUNE = {"method": "tpe", "trials": 3, "generation": 2, "pruning": "median", "space": SPACE}
BEST = "results/micro/tune/best.json"
# A model that is loaded once less: what probes are made of is tested elsewhere.
CONFIG = micro.CONFIG | {"probes": {"bias": "off", "general": "off"}}


def searching(folder: Path, **changes: object) -> Path:
    """A workspace whose configuration is a search."""
    micro.write_config(folder, CONFIG | {"tune": TUNE | changes})
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """What a search has found, by file; to the last digit where a trial has as many threads, which add up otherwise."""
    files = [*folder.glob("results/micro-trial-*/trial.json"), *folder.glob("results/micro/tune/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_one_core_and_two_cores_and_a_search_that_was_stopped_find_the_same(workspace: Callable[[], Path]) -> None:
    alone, stopped = (searching(workspace()) for _ in range(2))
    micro.snakemake(alone, BEST, "--cores", "1")
    found = results(alone)
    trials = [json.loads(content) for name, content in found.items() if name.endswith("trial.json")]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}

    beside = ("--resources", "gpu=2", "--set-threads", "trial=1")  # the two trials of a generation at once
    command = [sys.executable, "-m", "snakemake", BEST, "--cores", "2", *beside]
    process = subprocess.Popen(command, cwd=stopped, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not list(stopped.glob("results/micro-trial-*/trial.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()  # Snakemake waits for the jobs that run, and starts no other
    process.wait(120)
    done = len(list(stopped.glob("results/micro-trial-*/trial.json")))
    assert 0 < done < 3, "it was stopped halfway"
    micro.snakemake(stopped, BEST, "--cores", "2", *beside)
    assert results(stopped) == found


@pytest.fixture(scope="module")
def searched(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A search as a whole run, and what it said: one trial fails, of adapters on 4-bit weights, which a CPU has not."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    shutil.copytree(built, folder, symlinks=True)
    space = {"train.learning_rate": [0.02], "train.method": ["full", "qlora"]}
    return folder, micro.snakemake(searching(folder, method="grid", space=space)).stdout


def test_a_trial_that_fails_is_written_down_and_stops_no_other(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    found = [read(path) for path in sorted(folder.glob("results/micro-trial-*/trial.json"))]
    states = {trial["values"]["train.method"]: trial for trial in found}
    assert states["qlora"]["state"] == "failed"
    assert "qlora" in states["qlora"]["reason"]
    assert states["full"]["state"] == "complete"
    assert read(folder / BEST)["values"] == {"train.learning_rate": 0.02, "train.method": "full"}


def test_the_best_configuration_is_a_run_that_stands_alone_and_is_scored_once(
    searched: tuple[Path, str], tmp_path: Path
) -> None:
    built, said = searched
    assert "results/micro-best/report.html" in said
    (trained,) = [line for line in said.splitlines() if line.startswith("micro-best  train")]
    assert "from the store" in trained, "the trial has trained it already"
    assert not list(built.glob("results/micro-trial-*/scores")), "trials see no test row"
    folder = tmp_path / "run"
    shutil.copytree(built, folder, symlinks=True)
    best = read(folder / BEST)
    assert read(folder / "results/micro-best/train/summary.json")["best_eval_loss"] == best["loss"]
    written = yaml.safe_load((folder / "results/micro/tune/best.yaml").read_text(encoding="utf-8"))
    (name,) = config.load(written)
    assert name == "micro-best"
    assert written["train"]["learning_rate"] == best["values"]["train.learning_rate"]
    assert "Nothing to be done" in micro.snakemake(folder).stdout
    os.remove(folder / "results/micro-trial-000/trial.json")
    again = micro.snakemake(folder, "--dry-run", "--quiet", "rules").stdout
    assert "trial " in again
    assert "train " not in again, "what a trial is made of was not touched"
