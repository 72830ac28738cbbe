"""The course of a training: how train/history.jsonl is read, and what it says in words.

A history has two kinds of lines: training lines (`loss`, a mean over the steps since the line before) and evaluation
lines (`eval_loss`, over the whole validation split). A resumed run may write a step twice; the later line counts.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A validation loss that moves by less than this share of itself has, for a reader, stood still.
STILL = 0.005
# Above its lowest point by more than this share, the validation loss has turned.
TURNED = 0.01

Point = tuple[int, float]


@dataclass(frozen=True)
class History:
    """The finite values of each quantity, as (step, value), by step; and whether any value was not finite."""

    training: list[Point]
    validation: list[Point]
    learning_rate: list[Point]
    epochs: float
    broken: bool

    @property
    def best(self) -> Point | None:
        """The evaluation with the lowest loss; the earlier of two equal ones."""
        return min(self.validation, key=lambda point: (point[1], point[0]), default=None)


def read_history(path: str | Path) -> History:
    """Read train/history.jsonl."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    series: dict[str, dict[int, float]] = {"loss": {}, "eval_loss": {}, "learning_rate": {}}
    broken = False
    for line in lines:
        for name, points in series.items():
            value = _number(line, name)
            if value is not None and math.isfinite(value):
                points[int(line["step"])] = value
            elif value is not None:
                broken = True
    training, validation, rate = (sorted(points.items()) for points in series.values())
    epochs = max((float(line.get("epoch") or 0) for line in lines), default=0.0)
    return History(training, validation, rate, epochs, broken)


def verdict(history: History) -> str:
    """What the curves say about under- and overfitting, with the numbers that say it."""
    if history.broken:
        return (
            "A loss was not a finite number: the training diverged. Lower `train.learning_rate`, raise `train.warmup`, "
            "or train in bf16 or fp32."
        )
    if history.best is None:
        return "No validation loss was recorded, so nothing can be said about over- or underfitting."
    if len(history.validation) == 1:
        step, loss = history.best
        return f"Validation loss was measured once ({loss:.3f} at step {step:,}): one point shows no course."
    return _at_the_end(history, *history.best) if history.best[0] == history.validation[-1][0] else _turned(history)


def _turned(history: History) -> str:
    """The best evaluation is not the last one: has the curve stood still since, or turned?"""
    assert history.best is not None
    (step, lowest), (last_step, last) = history.best, history.validation[-1]
    if step == history.validation[0][0] and last > lowest * (1 + TURNED):
        return (
            f"Validation loss was lowest at its first evaluation ({lowest:.3f} at step {step:,}) and ended at "
            f"{last:.3f}: the training made the model worse after that. A lower `train.learning_rate` or fewer epochs "
            "may help."
        )
    best = f"Validation loss was lowest at step {step:,} of {last_step:,} ({lowest:.3f})"
    if last <= lowest * (1 + TURNED):
        return f"{best} and has stood still since ({last:.3f} at the end): more epochs would bring little."
    rise = f"{100 * (last / lowest - 1):.1f}\u00a0%"
    return f"{best}, then rose by {rise} to {last:.3f}{_while(history, step)}; the checkpoint of step {step:,} is kept."


def _at_the_end(history: History, step: int, lowest: float) -> str:
    """The best evaluation is the last one: has the curve levelled off, or was the training cut short?"""
    before = history.validation[-2][1]
    gain = f"{100 * (before - lowest) / before if before else 0:.1f}\u00a0%"
    best = f"Validation loss was lowest at the last evaluation ({lowest:.3f} at step {step:,})"
    if before - lowest > STILL * before:
        return (
            f"{best} and had fallen by {gain} since the one before: the model was still learning (underfitting). "
            "More epochs may help."
        )
    return f"{best} and had all but levelled off ({gain} below the one before): no sign of overfitting."


def _while(history: History, step: int) -> str:
    """Rising validation loss is overfitting only where the training loss kept falling."""
    after = [value for at, value in history.training if at > step]
    around = [value for at, value in history.training if at <= step][-max(len(after), 1) :]
    if not after or not around:
        return ": a sign of overfitting"
    falling = sum(after) / len(after) < sum(around) / len(around)
    return (
        " while training loss kept falling: the model began to overfit"
        if falling
        else ", and so did training loss: the training became unstable rather than overfitted"
    )


def _number(line: dict[str, Any], name: str) -> float | None:
    """A value of a line; strings such as "NaN" (JSON has no such number) count as what they say."""
    value = line.get(name)
    return None if value is None else float(value)
