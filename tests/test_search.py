"""A search as a whole, on the micro example: what decides it, and what does not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

import micro
from snaketune import config

SPACE = {
    "train.learning_rate": {"low": 0.001, "high": 0.05, "log": True},
    "train.epochs": [1, 2],
}
TUNE = {"method": "tpe", "trials": 4, "generation": 2, "pruning": "median", "space": SPACE}
BEST = "results/micro/tune/best.json"


def searching(folder: Path, **changes: object) -> Path:
    """A workspace whose configuration is a search."""
    micro.write_config(folder, micro.CONFIG | {"tune": TUNE | changes})
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """What a search has found, by file; to the last digit where a trial has as many threads, which add up otherwise."""
    files = [*folder.glob("results/micro-trial-*/trial.json"), *folder.glob("results/micro/tune/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}


def test_one_core_two_cores_and_a_search_that_was_killed_find_the_same(workspace: Callable[[], Path]) -> None:
    alone, beside, killed = (searching(workspace()) for _ in range(3))
    micro.snakemake(alone, BEST, "--cores", "1")
    found = results(alone)
    trials = [json.loads(content) for name, content in found.items() if name.endswith("trial.json")]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}

    micro.snakemake(beside, BEST, "--cores", "2", "--resources", "gpu=2", "--set-threads", "trial=1")
    assert results(beside) == found

    command = [sys.executable, "-m", "snakemake", BEST, "--cores", "2", "--set-threads", "trial=1"]
    process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not list(killed.glob("results/micro-trial-*/trial.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    done = len(list(killed.glob("results/micro-trial-*/trial.json")))
    assert 0 < done < 4, "it was killed halfway"
    micro.snakemake(killed, BEST, "--set-threads", "trial=1")
    assert results(killed) == found


def test_a_trial_that_fails_is_written_down_and_stops_no_other(workspace: Callable[[], Path]) -> None:
    # Of adapters on 4-bit weights, which a CPU has not.
    folder = searching(workspace(), method="grid", trials=2, space={"train.method": ["full", "qlora"]})
    micro.snakemake(folder, BEST)
    states = {
        trial["values"]["train.method"]: trial
        for path in folder.glob("results/micro-trial-*/trial.json")
        for trial in [json.loads(path.read_text(encoding="utf-8"))]
    }
    assert states["qlora"]["state"] == "failed"
    assert "qlora" in states["qlora"]["reason"]
    assert states["full"]["state"] == "complete"
    assert json.loads((folder / BEST).read_text(encoding="utf-8"))["values"] == {"train.method": "full"}


def test_the_best_configuration_is_a_run_that_stands_alone_and_is_scored_once(workspace: Callable[[], Path]) -> None:
    folder = searching(workspace(), method="grid", trials=2, space={"train.learning_rate": [0.001, 0.02]})
    said = micro.snakemake(folder).stdout
    assert "results/micro-best/report.html" in said
    (trained,) = [line for line in said.splitlines() if line.startswith("micro-best  train")]
    assert "from the store" in trained, "the trial has trained it already"
    assert not list(folder.glob("results/micro-trial-*/scores")), "trials see no test row"
    best = json.loads((folder / BEST).read_text(encoding="utf-8"))
    summary = json.loads((folder / "results/micro-best/train/summary.json").read_text(encoding="utf-8"))
    assert summary["best_eval_loss"] == best["loss"]
    written = yaml.safe_load((folder / "results/micro/tune/best.yaml").read_text(encoding="utf-8"))
    (name,) = config.load(written)
    assert name == "micro-best"
    assert written["train"]["learning_rate"] == best["values"]["train.learning_rate"]
    assert "Nothing to be done" in micro.snakemake(folder).stdout
    os.remove(folder / "results/micro-trial-000/trial.json")
    again = micro.snakemake(folder, "--dry-run", "--quiet", "rules").stdout
    assert "trial " in again
    assert "train " not in again, "what a trial is made of was not touched"
