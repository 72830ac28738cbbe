"""Searches as their stages write them, and the pages made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runs import HOSTILE, TEMPLATES
from snaketune.pages.tune_trials import Search, read_search
from tune_report import tune_report

RATE, BATCH, KIND = "train.learning_rate", "train.batch_size", "train.scheduler"
SPACE: dict[str, Any] = {
    RATE: {"values": None, "low": 1e-5, "high": 1e-3, "step": None, "log": True},
    BATCH: {"values": [8, 16, 32], "low": None, "high": None, "step": None, "log": False},
    KIND: {"values": ["linear", "cosine", HOSTILE], "low": None, "high": None, "step": None, "log": False},
}


def tune(space: dict[str, Any] = SPACE, **changes: Any) -> dict[str, Any]:
    section = {"method": "tpe", "space": space, "trials": 12, "generation": 4, "pruning": "median", "final": True}
    return section | changes


def trial(number: int, loss: float | None, state: str = "complete", **changes: Any) -> dict[str, Any]:
    """A trial.json; its curve falls to its loss, and its values depend on its number alone."""
    values = {
        RATE: 1e-5 * 10 ** (number % 20 / 10),
        BATCH: (8, 16, 32)[number % 3],
        KIND: ("linear", "cosine")[number % 2],
    }
    found = {"run": "demo", "number": number, "values": values, "state": state, "loss": loss}
    curve = [] if loss is None else [loss + 1.0, loss + 0.25, loss]
    found |= {"curve": curve, "step": 30, "steps": 40, "epochs": 2.0, "tokens": 12_345, "reason": None}
    return found | changes


def write(folder: Path, trials: list[dict[str, Any]], generation: int = 4, best: int | None = None) -> dict[str, Any]:
    """The files of a search, as the stages write them; returns the inputs of its page."""
    folder.mkdir(parents=True, exist_ok=True)
    files, generations = [], []
    for found in trials:
        files.append(folder / f"{found['number']}.json")
        files[-1].write_text(json.dumps(found), encoding="utf-8")
    for place, start in enumerate(range(0, len(trials), generation)):
        proposed = [
            {"number": found["number"], "values": found["values"]} for found in trials[start : start + generation]
        ]
        generations.append(folder / f"generation-{place:02d}.json")
        generations[-1].write_text(json.dumps({"generation": place, "trials": proposed, "bounds": []}))
    complete = [found for found in trials if found["state"] == "complete"]
    winner = min(complete, key=lambda found: found["loss"])["number"] if best is None else best
    (folder / "best.json").write_text(json.dumps({"number": winner}))
    # Snakemake gives the files in its own order, not in that of the trials.
    return {"trials": [str(path) for path in files[::-1]], "generations": [str(path) for path in generations]} | {
        "best": str(folder / "best.json")
    }


def searched(folder: Path, trials: list[dict[str, Any]], space: dict[str, Any] = SPACE, **places: Any) -> Search:
    return read_search(**write(folder, trials, **places), given=space)


def made(folder: Path, trials: list[dict[str, Any]], space: dict[str, Any] = SPACE, **changes: Any) -> tuple[str, str]:
    """The sentence and the page of a search."""
    settings = {"run": "demo", "tune": tune(space, **changes), "seed": 0}
    files = write(folder, trials)
    said = tune_report(
        **files, page=str(folder / "p.html"), settings=settings, template=str(TEMPLATES / "tune.html.j2")
    )
    return said, (folder / "p.html").read_text(encoding="utf-8")


def many(count: int, space: int = 4) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trials of a bowl: the learning rate counts most, best at 2e-4, the batch size a little, the rest nothing."""
    generator = np.random.default_rng(7)
    dimensions = {
        RATE: SPACE[RATE],
        BATCH: {"values": [8, 16, 32, 64]},
        "train.warmup": {"low": 0.0, "high": 0.1},
        "train.epochs": {"low": 3, "high": 5},
        KIND: {"values": ["linear", "cosine", "inverse_sqrt"]},
        "train.weight_decay": {"low": 0.0, "high": 0.3, "step": 0.05},
        "train.lora.rank": {"low": 4, "high": 64, "log": True},
        "train.freeze.gradual": {"values": [None, 0.5, 1.0]},
        "train.average.kind": {"values": ["none", "ema", "swa"]},
    }
    dimensions = dict(list(dimensions.items())[:space])
    trials = []
    for number in range(count):
        values = {
            RATE: float(10 ** generator.uniform(-5, -3)),
            BATCH: int(generator.choice([8, 16, 32, 64])),
            "train.warmup": float(generator.uniform(0, 0.1)),
            "train.epochs": int(generator.integers(3, 6)),
            KIND: str(generator.choice(["linear", "cosine", "inverse_sqrt"])),
            "train.weight_decay": round(0.05 * int(generator.integers(0, 7)), 2),
            "train.lora.rank": int(generator.integers(4, 65)),
            "train.freeze.gradual": [None, 0.5, 1.0][generator.integers(3)],
            "train.average.kind": str(generator.choice(["none", "ema", "swa"])),
        }
        far = np.log10(values[RATE] / 2e-4)
        loss = float(2.3 + 0.4 * far**2 + 0.02 * np.log2(values[BATCH]) + 0.03 * generator.normal())
        loss += 9.0 * (number % 41 == 7)
        curve = [loss + 1.5 * float(np.exp(-step / 2)) for step in range(6)]
        found = trial(number, loss, values=dict(list(values.items())[:space]), curve=curve)
        if number % 7 == 5:
            found |= {
                "state": "pruned",
                "loss": curve[2],
                "curve": curve[:3],
                "reason": "above the median at evaluation 3",
            }
        if number % 23 == 11:
            found |= {
                "state": "failed",
                "loss": None,
                "curve": curve[:1],
                "reason": "the loss is not a number at step 12",
            }
        trials.append(found)
    return trials, dimensions


def hostile(folder: Path) -> str:
    """A page whose trials hold markup, control characters and 100 kB without a space wherever they hold a text."""
    key = f"train.optimizer_args.{HOSTILE}"
    values = {RATE: 1e-4, BATCH: 8, KIND: HOSTILE, key: HOSTILE}
    trials = [trial(number, 2.0 + number / 9, values=values) for number in range(9)]
    trials += [
        trial(9 + n, None, "failed", values=values, reason=text) for n, text in enumerate((HOSTILE, "x" * 100_000))
    ]
    return made(folder, trials, SPACE | {key: {"values": [1, "x" * 100_000, HOSTILE]}})[1]
