"""One training in a folder of its own: planned, computed and published as the rules do it, on a small real model.

python tests/training_runs.py work.json outputs.json    trains in a process that a test may kill
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import builders
import models
from plan import plan
from snaketune.model.batches import Rows
from snaketune.model.loop import Loop
from snaketune.model.passes import How
from snaketune.work import KINDS, Work
from train import train

SETTINGS: dict[str, Any] = builders.settings(
    "train",
    epochs=2,
    learning_rate=0.01,
    warmup=0.1,
    batch_size=2,
    precision="fp32",
    evaluations=5,
    early_stopping=None,
    samples=2,
    trackers=[],
) | {"seed": 5, "trust_remote_code": False, "save_dtype": "float32", "base_name": "base"}


class Killed(BaseException):
    """What a test raises in the middle of a training."""


def make(folder: Path) -> dict[str, Any]:
    """A base model without and one with dropout, and the tokens of both splits."""
    base = models.base(folder / "base")
    return {
        "base": base,
        "dropout": models.base(folder / "dropout", dropout=0.2),
        "train": models.tokens(models.pairs(22), base, folder / "tokens", "train"),
        "validation": models.tokens(models.pairs(7, seed=9), base, folder / "tokens", "validation"),
    }


class Run:
    """A training of what `make` made; settings over SETTINGS, `how` over what the preflight would choose."""

    def __init__(
        self, made: dict[str, Any], folder: Path, base: str = "base", how: Any = None, **settings: Any
    ) -> None:
        self.folder, self.store = folder, folder / "store/one"
        self.settings = SETTINGS | settings
        tokens = {name: made[name] for name in ("train", "validation")}
        order, about = str(folder / "plan.arrow"), str(folder / "plan.json")
        plan(tokens, {name: f"{path}.json" for name, path in tokens.items()}, order, about, self.settings)
        self.facts = json.loads(Path(about).read_text())
        names = {"config": "model/config.json", "summary": "summary.json"} | {kind: f"{kind}.jsonl" for kind in KINDS}
        self.outputs = {name: str(folder / path) for name, path in names.items()}
        self.work = Work(
            run="demo",
            tokens=tokens,
            plan=order,
            base=made.get(base, base),
            folder=str(self.store),
            events=str(folder / "logs"),
            settings=self.settings,
            how=self._how() | (how or {}),
            facts={"plan": self.facts, "preflight": {"peak_flops": 1e12, "device": "cpu"}},
            gpus=0,
            threads=1,
        )

    def _how(self) -> dict[str, Any]:
        facts = self.facts
        return asdict(
            How(
                precision=self.settings["precision"],
                attention="varlen",
                compile=False,
                pass_blocks=self.settings["batch_size"],
                width=facts["width"],
                longest=facts["longest"],
                most_rows=facts["most_rows_in_a_step"],
                packed=self.settings["batching"] == "packed",
                loss_on=self.settings["loss_on"],
                pad=0,
            )
        )

    def __call__(self) -> str:
        return train(self.work, self.outputs)

    def apart(self) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        for name, content in {"work": asdict(self.work), "outputs": self.outputs}.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content))
        command = [sys.executable, __file__, str(self.folder / "work.json"), str(self.folder / "outputs.json")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model/model.safetensors")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def history(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]

    @property
    def steps(self) -> list[dict[str, float]]:
        return [line for line in self.history if "loss" in line]

    @property
    def evaluated(self) -> dict[int, float]:
        """The validation loss by step; 0 is the base model."""
        return {int(line["step"]): line["eval_loss"] for line in self.history if "eval_loss" in line}

    @property
    def checkpoints(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in self.store.glob("checkpoints/step-????????"))

    def files(self) -> dict[str, bytes]:
        """What does not depend on a clock."""
        kept = {f"{kind}.jsonl": (self.folder / f"{kind}.jsonl").read_bytes() for kind in ("history", "samples")}
        model = self.folder / "model"
        return kept | {str(p.relative_to(model)): p.read_bytes() for p in model.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a module's trainings start from."""
    return make(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def whole(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training with dropout that nothing interrupted."""
    run = Run(made, tmp_path_factory.mktemp("whole"), "dropout")
    run()
    return run


def same(one: Run, other: Run) -> None:
    """Two trainings ended with the same bytes: weights, history, samples, summary."""
    mine, theirs = one.files(), other.files()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    assert one.summary == other.summary


def killed(run: Run, monkeypatch: pytest.MonkeyPatch, step: int, before: str = "_take_step") -> Run:
    """A training that died in front of a method of its loop, once a step was done."""
    method = getattr(Loop, before)

    def die(self: Loop, *arguments: Any) -> Any:
        if self.step >= step:
            raise Killed
        return method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, before, die)
        with pytest.raises(Killed):
            run()
    return run


def losses(model: torch.nn.Module, folder: str, loss_on: str = "completion") -> torch.Tensor:
    """The losses of all trained tokens of a split, document by document."""
    rows = Rows(folder)
    skip = [max(1, prompt) if loss_on == "completion" else 1 for prompt in rows.prompt_lengths.tolist()]
    return torch.cat([models.document_losses(model, rows[n].tolist())[skip[n] - 1 :] for n in range(len(rows))])


if __name__ == "__main__":
    given = [json.loads(Path(path).read_text()) for path in sys.argv[1:3]]
    train(Work(**given[0]), given[1])
