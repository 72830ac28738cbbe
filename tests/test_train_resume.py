"""No interruption shows in the result of a training: kills, signals, damaged checkpoints, another job beside."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train as stage
import training_runs
from snaketune.job import StageError
from snaketune.model import process
from snaketune.model.loop import Loop
from training_runs import Killed, Run, killed, same

made, whole = training_runs.made, training_runs.whole  # fixtures

STATEFUL = {
    "plain": {},
    "plateau": {"scheduler": "reduce_on_plateau", "plateau": {"factor": 0.5, "patience": 0, "threshold": 0.5}},
    "swa": {"average": {"kind": "swa", "decay": 0.9, "start": 0.3}},
    "ema": {"average": {"kind": "ema", "decay": 0.9, "start": 0.3}},
    "noise": {"neftune_alpha": 5.0, "label_smoothing": 0.1},
    "lora": {"method": "lora"},
    "gradual": {
        "method": "freeze",
        "freeze": {"first": 0, "last": None, "embeddings": False, "patterns": [], "gradual": 0.8},
    },
    "adafactor": {"optimizer": "adafactor"},
}
OVERFIT = {"learning_rate": 0.05, "warmup": 0, "max_steps": 90, "evaluations": 30, "scheduler": "constant"}


@pytest.mark.parametrize("step", [0, 1, 4, 7, 9, 12, 13])
def test_a_training_that_was_killed_ends_as_if_nothing_had_been(made, tmp_path, monkeypatch, whole, step):
    assert whole.summary["steps"] > 13
    run = killed(Run(made, tmp_path, "dropout"), monkeypatch, step)
    assert run.checkpoints == [at for at in whole.evaluated if 0 < at <= step][-1:], (
        "one at each evaluation, the last kept"
    )
    run()
    same(run, whole)


@pytest.mark.parametrize("name", STATEFUL)
def test_whatever_remembers_something_remembers_it_across_two_kills(made, tmp_path, monkeypatch, name):
    plain = Run(made, tmp_path / "plain", "dropout", **STATEFUL[name])
    plain()
    run = Run(made, tmp_path / "killed", "dropout", **STATEFUL[name])
    killed(run, monkeypatch, 4)
    killed(run, monkeypatch, 10)
    run()
    same(run, plain)
    if name == "plateau":
        rates = [line["learning_rate"] for line in plain.steps]
        assert rates[-1] < max(rates) / 2, "the plateau was met"


@pytest.mark.parametrize("before", ["_keep", "_evaluate", "_keep_best"])
@pytest.mark.parametrize("step", [3, 14])
def test_a_kill_between_an_evaluation_and_its_checkpoint_shows_in_nothing(
    made, tmp_path, monkeypatch, whole, before, step
):
    run = killed(Run(made, tmp_path, "dropout"), monkeypatch, step, before)
    run()
    same(run, whole)


def test_a_training_that_was_killed_when_it_was_done_takes_no_other_step(made, tmp_path, monkeypatch, whole):
    run = Run(made, tmp_path, "dropout")

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(process, "_finish", die)
        with pytest.raises(Killed):
            run()
    monkeypatch.setattr(Loop, "_take_step", die)
    run()
    same(run, whole)


@pytest.mark.parametrize("file", ["learnt.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_not_gone_on_from(made, tmp_path, monkeypatch, whole, file):
    run = killed(Run(made, tmp_path, "dropout"), monkeypatch, 7)
    path = next(run.store.glob(f"checkpoints/step-*/{file}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run()
    same(run, whole)


@pytest.mark.parametrize("killed_at", ["between two evaluations", "after the decision to stop"])
def test_the_patience_of_early_stopping_survives_a_kill(made, tmp_path, monkeypatch, killed_at):
    settings = OVERFIT | {"early_stopping": 2}
    plain = Run(made, tmp_path / "plain", **settings)
    plain()
    assert plain.summary["stopped"] == "early"
    last = max(plain.evaluated)
    assert last - plain.summary["best_step"] == 6, "two evaluations of three steps without a better loss"
    run = Run(made, tmp_path / "killed", **settings)
    if killed_at == "between two evaluations":
        killed(run, monkeypatch, plain.summary["best_step"] + 4)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(process, "_finish", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                run()
    run()
    same(run, plain)


def wait_for(run: Run, step: int, child: Any) -> None:
    """Until a training in a process of its own has noted a step."""
    history = run.store / "history.jsonl"
    for _ in range(600):
        if history.exists() and any(json.loads(line)["step"] >= step for line in history.read_text().splitlines()):
            return
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    raise AssertionError("the training did not come so far")


LONG = {"max_steps": 400, "evaluations": 20}


def test_kill_9_and_sigterm_of_the_process_show_in_nothing(made, tmp_path):
    plain = Run(made, tmp_path / "plain", "dropout", **LONG)
    plain()
    run = Run(made, tmp_path / "killed", "dropout", **LONG)
    child = run.apart()
    wait_for(run, 50, child)
    child.kill()
    child.wait()
    assert not (run.store / "done").exists()
    child = run.apart()
    wait_for(run, 120, child)
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "stopped by a signal after step" in said
    assert not (run.store / "done").exists()
    stopped = run.checkpoints[-1]
    assert stopped % 20, "a checkpoint of its own, between two evaluations"
    run()
    same(run, plain)


def test_two_jobs_that_train_the_same_at_once_train_it_once(made, tmp_path):
    run = Run(made, tmp_path, **LONG)
    children = [run.apart(), run.apart()]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert sum("waits for another job" in words for words in said) == 1
    assert [line["step"] for line in run.steps] == list(range(1, 401))


def test_a_finished_training_is_handed_back_and_not_repeated(made, tmp_path):
    run = Run(made, tmp_path, max_steps=2)
    first = run()
    before = {path: path.stat().st_mtime_ns for path in (run.store / "done").rglob("*")}
    files = run.files()
    shutil.rmtree(tmp_path / "model")
    away = Path(made["train"] + "-away")
    shutil.move(made["train"], away)  # whoever trained now would miss it
    try:
        again = run()
    finally:
        shutil.move(away, made["train"])
    assert again == f"{first} (from the store: trained before)"
    assert {path: path.stat().st_mtime_ns for path in (run.store / "done").rglob("*")} == before
    assert run.files() == files


def test_handing_back_imports_no_torch(made, tmp_path):
    run = Run(made, tmp_path, max_steps=1)
    run()
    child = run.apart()
    child.communicate(timeout=60)
    assert child.returncode == 0
    program = (
        "import json, sys; from pathlib import Path; from snaketune.work import Work; from train import train\n"
        "work, outputs = (json.loads(Path(path).read_text()) for path in sys.argv[1:])\n"
        "print(train(Work(**work), outputs), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "work.json"), str(tmp_path / "outputs.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip().endswith("(from the store: trained before) False")


def test_a_full_memory_is_told_in_words_and_the_checkpoint_stays(made, tmp_path, monkeypatch, whole):
    run = Run(made, tmp_path, "dropout")
    step = Loop._take_step

    def burst(self: Loop) -> None:
        if self.step == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_take_step", burst)
        with pytest.raises(
            StageError, match=r"memory of the device was full at step 8, with 2 sequences in a pass\. Set"
        ):
            run()
    assert run.checkpoints == [max(at for at in whole.evaluated if at <= 7)]
    run()
    same(run, whole)


def test_without_new_checkpoints_for_long_one_is_written_between_evaluations(made, tmp_path, monkeypatch, whole):
    run = Run(made, tmp_path, "dropout", checkpoint_minutes=1e-9)
    killed(run, monkeypatch, 5)
    assert run.checkpoints == [5]
    run()
    assert run.files() == whole.files()


CHANGES = ["a setting", "the base", "the data", "the plan", "the code", "what the preflight chose"]
NO_CHANGES = ["a tracker", "code without effect", "a touch"]


@pytest.mark.parametrize("change", CHANGES + NO_CHANGES)
def test_a_checkpoint_is_found_again_by_what_decides_the_result_and_by_nothing_else(
    made, tmp_path, monkeypatch, change
):
    """The folder that the rule's job would train in: another one leaves old checkpoints alone."""
    run = Run(made, tmp_path / "run")
    files = {name: tmp_path / name for name in ("train", "validation", "preflight", "loop.py", "watch.py", "weights")}
    for name in ("train", "validation"):
        shutil.copy(f"{made[name]}.json", files[name])
    files["preflight"].write_text(json.dumps({"how": run.work.how}))
    for name in ("loop.py", "watch.py", "weights"):
        files[name].write_text(name)

    def folder(settings: dict[str, Any]) -> str:
        inputs = {name: str(files[name]) for name in ("train", "validation", "preflight")}
        inputs |= {"plan": run.work.plan, "about": str(tmp_path / "run/plan.json"), "base": [str(files["weights"])]}
        inputs |= {"states": [f"{made[name]}/state.json" for name in ("train", "validation")]}
        named = type("Named", (dict,), {"__getattr__": dict.__getitem__})
        outputs = named({name: str(tmp_path / name) for name in ("config", "history", "speed", "samples", "summary")})
        job = SimpleNamespace(
            input=named(inputs | {"code": [str(files["loop.py"]), str(files["watch.py"])]}),
            output=outputs,
            params=SimpleNamespace(settings=settings, base=made["base"], store=str(tmp_path / "store")),
            wildcards=SimpleNamespace(run="demo"),
            resources={},
            threads=1,
            log=[str(tmp_path / "logs/train.log")],
        )
        found = []
        monkeypatch.setattr(stage, "train", lambda work, outputs: found.append(work.folder))
        stage._from_job(job)
        return found[0]

    before = folder(run.settings)
    changed = dict(run.settings)
    if change == "a setting":
        changed["learning_rate"] = 0.02
    elif change == "a tracker":
        changed["trackers"] = ["tensorboard"]
    elif change == "the data":
        about = json.loads(files["train"].read_text())
        files["train"].write_text(json.dumps(about | {"sha256": "0" * 64}))
    elif change == "the plan":
        Run(made, tmp_path / "run", batching="padded")
    elif change == "what the preflight chose":
        files["preflight"].write_text(json.dumps({"how": run.work.how | {"attention": "eager"}}))
    else:
        path = files[
            {"the base": "weights", "the code": "loop.py", "code without effect": "watch.py"}.get(change, "loop.py")
        ]
        path.write_text(path.read_text() + ("" if change == "a touch" else "edited"))
    assert (folder(changed) != before) == (change in CHANGES)
