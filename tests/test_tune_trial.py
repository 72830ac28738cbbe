"""A trial: it is given up where its bound says, goes on where it was cut off, and what fails is written down.

python tests/test_tune_trial.py trial.json    does a trial as its job, in a process that a test may signal
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train as training
import training_runs
import trial as stage
from snaketune.dag import CHECKED, PLANNED, code_of
from snaketune.job import StageError
from snaketune.model import process
from snaketune.model.loop import evaluation_steps
from snaketune.model.stopping import Bounds
from snaketune.tune.child import SCRIPTS, Order
from training_runs import SETTINGS, Run, killed, same

made, whole = training_runs.made, training_runs.whole  # fixtures
IDENTITY = {"number": 3, "generation": 1, "values": {"train.learning_rate": 0.01}}
LONG = {"max_steps": 240, "evaluations": 5, "samples": 0}  # evaluated every 48 steps


# Bounds in a training


def test_a_loss_above_its_bound_ends_it_and_one_at_the_bound_does_not() -> None:
    limits = Bounds([None, 2.0, None, 1.0])
    passed = []
    for loss in (9.0, 2.0, 9.0, 1.0, 9.0):
        limits.evaluated(loss)
        passed.append(limits.exceeded)
    assert passed == [False] * 5
    limits = Bounds([None, 2.0])
    limits.evaluated(9.0)
    resumed = Bounds([None, 2.0])
    resumed.load_state_dict(json.loads(json.dumps(limits.state_dict())))
    resumed.evaluated(2.0001)
    assert resumed.exceeded
    resumed.evaluated(0.1)
    assert resumed.exceeded, "once is enough"


def pruned_at(whole: Run, number: int) -> tuple[list[float | None], int]:
    """Bounds that the training exceeds at one evaluation and keeps at all others, and the step of that one."""
    losses = list(whole.evaluated.items())[1:]  # without the base's
    step, loss = losses[number - 1]
    limits = [kept for _, kept in losses]
    limits[number - 1] = loss - 1e-9
    return limits, step


@pytest.mark.parametrize("number", [1, 3])
def test_a_training_ends_at_the_evaluation_whose_bound_it_exceeds(made, whole, tmp_path, number) -> None:
    limits, step = pruned_at(whole, number)
    run = Run(made, tmp_path, "dropout", bounds=limits)
    run()
    assert (run.summary["stopped"], run.summary["steps"]) == ("pruned", step)
    assert sorted(evaluation_steps(whole.summary["steps"], SETTINGS["evaluations"]))[number - 1] == step
    assert run.history == [line for line in whole.history if line["step"] <= step]
    assert run.summary["best_eval_loss"] == min(loss for at, loss in run.evaluated.items() if at)


def test_bounds_that_are_kept_change_nothing_and_the_last_evaluation_ends_what_is_ended(made, whole, tmp_path) -> None:
    limits = [*list(whole.evaluated.values())[1:-1], 0.0]
    run = Run(made, tmp_path, "dropout", bounds=limits)
    run()
    same(run, whole)
    assert run.summary["stopped"] == "finished"


def test_a_cut_off_training_is_given_up_at_the_same_evaluation(made, whole, tmp_path, monkeypatch) -> None:
    limits, step = pruned_at(whole, 3)
    plain = Run(made, tmp_path / "plain", "dropout", bounds=limits)
    plain()
    run = killed(Run(made, tmp_path / "killed", "dropout", bounds=limits), monkeypatch, step - 1)
    assert 0 < run.checkpoints[-1] < step
    run()
    same(run, plain)
    late = killed(Run(made, tmp_path / "late", "dropout", bounds=limits), monkeypatch, step, before="_keep")
    late()
    same(late, plain)


# Trials


def order_of(made: dict[str, Any], folder: Path, bounds: list[float | None] | None = None, **train: Any) -> Order:
    """A trial with settings over those of the test trainings."""
    settings = SETTINGS | train
    picked = {"plan": (*PLANNED, "seed"), "preflight": (*CHECKED, "seed", "trust_remote_code"), "train": settings}
    return Order(
        run="demo-trial-003",
        settings={name: {key: settings[key] for key in keys} for name, keys in picked.items()},
        bounds=bounds or [],
        tokens={name: made[name] for name in ("train", "validation")},
        manifests={name: f"{made[name]}.json" for name in ("train", "validation")},
        base=made["base"],
        base_files=sorted(
            str(path) for path in Path(made["base"]).iterdir() if path.suffix in (".json", ".safetensors")
        ),
        store=str(folder / "store"),
        folder="",
        events=str(folder / "logs"),
        gpus=0,
        threads=1,
    )


class Trial:
    """A trial of what `made` made."""

    def __init__(self, made: dict[str, Any], folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.out = folder, folder / "results/trial.json"
        self.order = order_of(made, folder, **settings)

    def __call__(self) -> str:
        return stage.trial(self.order, IDENTITY, str(self.out))

    @property
    def found(self) -> dict[str, Any]:
        return json.loads(self.out.read_text())

    def apart(self) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        spec = {"order": asdict(self.order), "identity": IDENTITY, "out": str(self.out)}
        (self.folder / "spec.json").write_text(json.dumps(spec))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(self.folder / "spec.json")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @property
    def how(self) -> dict[str, Any]:
        """What its preflight chose."""
        (found,) = (self.folder / "store").glob("preflight-*/done/table.parquet")
        return json.loads(found.read_text())["how"]

    @property
    def trainings(self) -> list[Path]:
        return [path for path in (self.folder / "store").glob("*") if "-" not in path.name]

    def wait_for(self, steps: int, job: subprocess.Popen[str]) -> int:
        """Wait until so many steps are trained; the process that trains."""
        for _ in range(1200):
            lines = [path.read_text().count("\n") for path in (self.folder / "store").glob("*/history.jsonl")]
            if lines and lines[0] > steps:
                return int(Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0])
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        raise AssertionError("the training did not come so far")


@pytest.fixture(scope="module")
def complete(made, tmp_path_factory) -> Trial:
    trial = Trial(made, tmp_path_factory.mktemp("complete"))
    trial()
    return trial


def test_a_trial_is_the_training_that_a_run_of_its_configuration_is(made, complete, tmp_path) -> None:
    run = Run(made, tmp_path, how=complete.how)
    run()
    losses = [loss for step, loss in run.evaluated.items() if step]
    assert complete.found == {
        **IDENTITY,
        "run": "demo-trial-003",
        "state": "complete",
        "loss": min(losses),
        "step": run.summary["best_step"],
        "curve": losses,
        "steps": run.summary["steps"],
        "epochs": run.summary["epochs"],
        "tokens": sum(line["tokens"] for line in run.steps),
        "reason": None,
    }
    assert not (complete.folder / "results/model").exists()


def folder_of_run(made: dict[str, Any], complete: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the rule `train` of a run with the same settings trains."""
    order = complete.order
    run = Run(made, tmp_path / "plan")
    found: list[str] = []
    (preflight,) = (complete.folder / "store").glob("preflight-*/done/table.parquet")
    named = type("Named", (dict,), {"__getattr__": dict.__getitem__})
    inputs = {**order.manifests, "plan": run.work.plan, "about": str(tmp_path / "plan/plan.json")}
    inputs |= {"preflight": str(preflight), "base": order.base_files}
    inputs |= {"states": [f"{made[name]}/state.json" for name in ("train", "validation")]}
    inputs |= {"code": [*map(str, code_of(SCRIPTS / "train.py")), str(SCRIPTS.parents[1] / "requirements.lock")]}
    job = SimpleNamespace(
        input=named(inputs),
        output=named({name: str(tmp_path / name) for name in ("config", "history", "speed", "samples", "summary")}),
        params=SimpleNamespace(settings=order.settings["train"], base=made["base"], store=order.store),
        wildcards=SimpleNamespace(run="demo-best"),
        resources={},
        threads=1,
        log=[str(tmp_path / "logs/train.log")],
    )
    monkeypatch.setattr(training, "train", lambda work, outputs: found.append(work.folder))
    training._from_job(job)
    return Path(found[0])


def test_the_best_run_finds_the_model_of_its_trial_in_the_store(made, complete, monkeypatch, tmp_path) -> None:
    assert folder_of_run(made, complete, monkeypatch, tmp_path) == complete.trainings[0]
    assert (complete.trainings[0] / "done/model/model.safetensors").exists()


def test_a_trial_that_was_trained_before_is_had_from_the_store_and_a_bound_makes_another_of_it(complete) -> None:
    before, files = complete.out.read_bytes(), {path: path.stat().st_mtime_ns for path in complete.trainings}
    complete.out.unlink()
    complete()
    assert complete.out.read_bytes() == before
    assert [path.name for path in complete.trainings] == [path.name for path in files]
    loss = complete.found["curve"][1]
    complete.order = replace(complete.order, bounds=[None, loss - 1e-9])
    complete()
    assert len(complete.trainings) == 2
    found = complete.found
    assert (found["state"], len(found["curve"]), found["reason"]) == ("pruned", 2, None)
    assert found["steps"] < json.loads(before)["steps"]
    assert len(list((complete.folder / "store").glob("preflight-*"))) == 1, "checked once for both"


def test_a_configuration_that_diverges_is_a_result_with_the_sentence_of_the_guard(made, tmp_path) -> None:
    trial = Trial(made, tmp_path, learning_rate=1e6, max_grad_norm=1e9, max_steps=40, evaluations=2)
    said = trial()
    found = trial.found
    assert (found["state"], found["loss"], found["step"]) == ("failed", None, None)
    assert "Lower `train.learning_rate`" in found["reason"]
    assert said == f"failed with train.learning_rate 0.01: {found['reason']}"
    assert 0 < found["steps"] < 40
    assert found["tokens"] > 0


def test_a_configuration_that_the_checks_refuse_or_that_breaks_is_a_result(made, tmp_path) -> None:
    trial = Trial(made, tmp_path, optimizer="sgd", optimizer_args={"mass": 3})
    trial()
    assert (trial.found["state"], trial.found["curve"], trial.found["steps"]) == ("failed", [], 0)
    assert "`train.optimizer_args` has `mass`, which sgd does not take" in trial.found["reason"]
    broken = Trial(made, tmp_path / "broken")
    del broken.order.settings["plan"]["batch_size"]
    broken()
    assert broken.found["reason"] == "KeyError: 'batch_size'"


def test_a_process_that_is_killed_is_a_result_and_one_that_is_told_to_stop_is_none(made, tmp_path) -> None:
    trial = Trial(made, tmp_path / "cut", **LONG)
    job = trial.apart()
    os.kill(trial.wait_for(30, job), signal.SIGKILL)
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, trial.found["state"]) == (0, "failed"), said
    assert trial.found["reason"].startswith("the process was killed by SIGKILL (exit code -9), as a system does")
    trial.out.unlink()

    def told(to_child: bool, steps: int) -> int:
        """The step of the checkpoint that a signal leaves, to the job or to the process that it has started."""
        job = trial.apart()
        child = trial.wait_for(steps, job)
        os.kill(child if to_child else job.pid, signal.SIGTERM)
        said, _ = job.communicate(timeout=60)
        assert job.returncode != 0
        assert "stopped by a signal; the same command goes on from the last checkpoint" in said
        assert not trial.out.exists()
        return max(int(path.name[5:]) for path in trial.trainings[0].glob("checkpoints/step-????????"))

    first = told(to_child=False, steps=70)
    assert first % 48, "a checkpoint of its own, between two evaluations"
    assert told(to_child=True, steps=130) > first
    trial()
    run = Run(made, tmp_path / "plain", how=trial.how, **LONG)
    run()
    assert trial.found["curve"] == [loss for step, loss in run.evaluated.items() if step]
    assert (trial.found["steps"], trial.found["tokens"]) == (240, sum(line["tokens"] for line in run.steps))


def test_signals_that_come_together_count_once_and_a_later_one_ends_the_process(monkeypatch) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(process.os, "kill", lambda *given: ended.append(given))
    with process.asked_to_stop() as asked:
        assert asked() == process.GO_ON
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a scheduler tells every process, and a job passes it on
        assert (asked(), ended) == (process.STOP, [])
        monkeypatch.setattr(process, "TOGETHER", 0)
        signal.raise_signal(signal.SIGTERM)
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_a_crash_is_told_by_its_signal_or_exit_code_and_the_last_line() -> None:
    words = ["Fatal Python error: Segmentation fault\n", "  \n"]
    assert stage._death(-11, words) == (
        "the process was ended by SIGSEGV (exit code -11); its last line: Fatal Python error: Segmentation fault"
    )
    assert stage._death(3, []) == "the process ended with exit code 3"


def test_the_job_reads_its_values_and_bounds_from_its_generation(made, tmp_path, monkeypatch) -> None:
    tried = [{"number": number, "values": {"train.learning_rate": number / 100}} for number in (2, 3)]
    generation = {"generation": 1, "trials": tried, "bounds": [None, 2.5]}
    (tmp_path / "generation-01.json").write_text(json.dumps(generation))
    expected = order_of(made, tmp_path, bounds=[None, 2.5])
    named = type("Named", (dict,), {"__getattr__": dict.__getitem__})
    states = [f"{made[name]}/state.json" for name in ("train", "validation")]
    inputs = {"states": states, "generation": str(tmp_path / "generation-01.json"), "base": expected.base_files}
    job = SimpleNamespace(
        input=named(expected.manifests | inputs),
        output=named(trial="results/trial.json"),
        params=SimpleNamespace(
            settings=expected.settings | {"number": 3, "generation": 1}, base=made["base"], store=expected.store
        ),
        wildcards=SimpleNamespace(run="demo-trial-003"),
        resources={},
        threads=1,
        log=[str(tmp_path / "logs/trial.log")],
    )
    found: list[Any] = []
    monkeypatch.setattr(stage, "trial", lambda *given: found.append(given))
    stage._from_job(job)
    identity = {"number": 3, "generation": 1, "values": {"train.learning_rate": 0.03}}
    assert found == [(expected, identity, "results/trial.json")]


def main(path: str) -> None:
    """Do a trial, as its job would."""
    given = json.loads(Path(path).read_text())
    try:
        print(stage.trial(Order(**given["order"]), given["identity"], given["out"]))
    except StageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
