"""A chain of two trainings in one call: what plain texts have taught a model is the base of the training on pairs."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import micro
from planned_jobs import planned
from training_runs import losses

TRAIN = micro.CONFIG["train"] | {"epochs": 1, "evaluations": 1, "samples": 0}
ENDS = [f"results/{name}/train/summary.json" for name in ("field", "micro")]


def chained(folder: Path, first: float = 0.01, second: float = 0.01) -> None:
    """Write the configuration of a chain, with the learning rates of its trainings."""
    field = {
        "model": {"base": "base"},
        "source": {"files": "texts/*.txt", "columns": {"prompt": "prompt", "completion": "completion", "group": None}},
        "train": TRAIN | {"learning_rate": first, "loss_on": "all"},
    }
    pairs = {
        "model": {"base": {"run": "field"}},
        "train": TRAIN | {"learning_rate": second},
        "variants": {"field": field},
    }
    micro.write_config(folder, micro.CONFIG | pairs)


@pytest.fixture
def chain(workspace: Callable[[], Path]) -> Path:
    """A workspace with plain texts, and the configuration of a chain."""
    folder, draw = workspace(), random.Random(0)
    (folder / "texts").mkdir()
    for number in range(24):
        words = " ".join(draw.choices(micro.WORDS, k=30))
        (folder / f"texts/{number:02d}.txt").write_text(f"{words}.\n", encoding="utf-8")
    chained(folder)
    return folder


def base_loss(folder: Path) -> float:
    """The validation loss of the base that the pairs are trained from, before the first step; nats per token."""
    lines = (folder / "results/micro/train/history.jsonl").read_text(encoding="utf-8").splitlines()
    return next(line["eval_loss"] for line in map(json.loads, lines) if line["step"] == 0)


def loss_of(folder: Path, model: str) -> float:
    """The same of any model, by the plain model row by row."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder / model).eval()
    with torch.no_grad():
        return losses(loaded, str(folder / "results/micro/tokens/validation")).mean().item()


@pytest.mark.slow
def test_the_second_starts_from_what_the_first_has_learnt_and_reruns_with_it_alone(chain: Path) -> None:
    micro.snakemake(chain, *ENDS)
    told = json.loads((chain / ENDS[1]).read_text(encoding="utf-8"))
    assert base_loss(chain) == pytest.approx(loss_of(chain, "results/field/model"), abs=1e-4)
    assert abs(base_loss(chain) - loss_of(chain, "base")) > 0.01, "the first has learnt something"
    assert told["best_eval_loss"] != base_loss(chain)
    assert planned(chain, *ENDS) == {}

    chained(chain, second=0.02)
    assert planned(chain, *ENDS) == {"train": 1}
    chained(chain, first=0.02)
    jobs = planned(chain, *ENDS)
    assert jobs["train"] == 2
    assert "preflight" in jobs, "of the pairs: its base is another"
