"""The course of a training: how train/history.jsonl is read, and what it says in words.

A history has a line for each optimiser step (`loss` in nats per trained token, with dropout on and before the step)
and one for each evaluation (`eval_loss`, over the whole validation split, dropout off). The evaluation at step 0 is
the base model's. Where a step stands twice, the later line counts.

A single step is too noisy to say anything. What the words below say of the training loss compares means over many
steps, each step with the weight of its tokens, and calls a difference one only beyond twice its standard error.
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
# At the best checkpoint, validation and training loss lie close together up to the first share, far apart beyond the
# second.
CLOSE, WIDE = 0.03, 0.1
# The last part of a training, by steps, over which it is asked whether the model was still learning.
LATE = 0.2

Point = tuple[int, float]


@dataclass(frozen=True)
class History:
    """The finite values of each quantity, as (step, value), by step; and where a value was first not finite."""

    training: list[Point]
    weights: list[float]  # trained tokens of each training step; 1 where a history does not tell
    validation: list[Point]  # with the base model's, at step 0, where it was measured
    accuracy: list[Point]  # share of the trained tokens of the validation split that the model would have chosen
    learning_rate: list[Point]
    epochs: float
    broken: int | None  # the step

    @property
    def base(self) -> Point | None:
        """The evaluation of the base model, before the first step."""
        return self.validation[0] if self.validation and self.validation[0][0] == 0 else None

    @property
    def trained(self) -> list[Point]:
        """The evaluations after the first step."""
        return self.validation[1:] if self.base else self.validation

    @property
    def best(self) -> Point | None:
        """The evaluation of the trained model with the lowest loss; the earlier of two equal ones."""
        return min(self.trained, key=lambda point: (point[1], point[0]), default=None)

    def window(self, after: int, until: int) -> list[tuple[float, float]]:
        """(loss, weight) of the training steps after `after` and up to `until`."""
        both = zip(self.training, self.weights, strict=True)
        return [(loss, weight) for (step, loss), weight in both if after < step <= until]

    @property
    def gap(self) -> tuple[float, float] | None:
        """Validation loss at the best checkpoint, and training loss over the steps since the evaluation before it."""
        if self.best is None:
            return None
        step, loss = self.best
        before = max((at for at, _ in self.validation if at < step), default=0)
        steps = self.window(before, step)
        return (loss, mean(steps)[0]) if steps else None


def read_history(path: str | Path) -> History:
    """Read train/history.jsonl."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    names = ("loss", "eval_loss", "eval_accuracy", "learning_rate", "trained_tokens")
    series: dict[str, dict[int, float]] = {name: {} for name in names}
    broken: list[int] = []
    for line in lines:
        step = int(line["step"])
        for name, points in series.items():
            value = _number(line, name)
            if value is not None and math.isfinite(value):
                points[step] = value
            elif value is not None:
                broken.append(step)
    training, validation, accuracy, rate = (sorted(series[name].items()) for name in names[:-1])
    weights = [series["trained_tokens"].get(step, 1.0) for step, _ in training]
    epochs = max((float(line.get("epoch") or 0) for line in lines), default=0.0)
    return History(training, weights, validation, accuracy, rate, epochs, min(broken, default=None))


def mean(steps: list[tuple[float, float]]) -> tuple[float, float]:
    """The mean of (loss, weight) steps and its standard error; one step has no error that could be told."""
    whole = sum(weight for _, weight in steps) or 1.0
    middle = sum(loss * weight for loss, weight in steps) / whole
    if len(steps) < 2:
        return middle, 0.0
    spread = sum((weight * (loss - middle)) ** 2 for loss, weight in steps) / whole**2
    return middle, math.sqrt(spread * len(steps) / (len(steps) - 1))


def verdict(history: History) -> str:
    """What the curves say about under- and overfitting, with the numbers that say it."""
    if history.broken is not None:
        return (
            f"A loss was not a finite number at step {history.broken:,}: the training diverged. Lower "
            "`train.learning_rate`, raise `train.warmup`, or train in bf16 or fp32."
        )
    if not history.validation:
        return "No validation loss was recorded, so nothing can be said about over- or underfitting."
    if history.best is None:
        return f"Validation loss was measured for the base model only ({history.validation[0][1]:.3f})."
    return " ".join(part for part in (_course(history, *history.best), _from_base(history), _gap(history)) if part)


def _course(history: History, step: int, lowest: float) -> str:
    """How the validation loss went, over the whole training."""
    if history.base and lowest >= history.base[1]:
        return (
            f"Validation loss never fell below the base model's {history.base[1]:.3f} (lowest: {lowest:.3f} at step "
            f"{step:,}): the training did not help on unseen rows. Lower `train.learning_rate`, or see whether "
            "training and validation rows are of one kind."
        )
    if len(history.trained) == 1:
        return (
            f"Validation loss was measured once ({lowest:.3f} at step {step:,}): one point shows no course. "
            "Raise `train.evaluations` to see one."
        )
    return _at_the_end(history, step, lowest) if step == history.trained[-1][0] else _turned(history, step, lowest)


def _turned(history: History, step: int, lowest: float) -> str:
    """The best evaluation is not the last one: has the curve stood still since, or turned?"""
    last_step, last = history.trained[-1]
    best = f"Validation loss was lowest at step {step:,} of {last_step:,} ({lowest:.3f})"
    if last <= lowest * (1 + TURNED):
        return f"{best} and has stood still since ({last:.3f} at the end): more epochs would bring little."
    rise = f"{100 * (last / lowest - 1):.1f}\u00a0%"
    return f"{best}, then rose by {rise} to {last:.3f}{_while(history, step)}; the checkpoint of step {step:,} is kept."


def _at_the_end(history: History, step: int, lowest: float) -> str:
    """The best evaluation is the last one: has the curve levelled off, or was the training cut short?"""
    early = [point for point in history.validation[:-1] if point[0] <= step * (1 - LATE)]
    since, before = early[-1] if early else history.validation[-2]
    gain = f"{100 * (before - lowest) / before if before else 0:.1f}\u00a0%"
    best = f"Validation loss was lowest at the last evaluation ({lowest:.3f} at step {step:,})"
    if before - lowest > STILL * before:
        return (
            f"{best} and had fallen by {gain} since step {since:,}: the model was still learning (underfitting). "
            "More epochs may help."
        )
    return f"{best} and had all but levelled off ({gain} below step {since:,}): no sign of overfitting."


def _while(history: History, step: int) -> str:
    """Rising validation loss is overfitting only where the training loss kept falling."""
    last = history.trained[-1][0]
    after = history.window(step, last)
    around = history.window(step - (last - step), step)
    if not after or not around:
        return ": a sign of overfitting"
    (then, then_error), (now, now_error) = mean(around), mean(after)
    noise = 2 * math.hypot(then_error, now_error)
    change = f"{then:.3f} to {now:.3f}"
    if now < then - noise:
        return f" while training loss kept falling ({change}): the model began to overfit"
    if now > then + noise:
        return f", and so did training loss ({change}): the training became unstable rather than overfitted"
    return f" while training loss stood still ({change}): the model drifted from the validation rows"


def _from_base(history: History) -> str:
    """How far the best checkpoint came from the base model."""
    if history.base is None or history.best is None or history.best[1] >= history.base[1]:
        return ""
    base, best = history.base[1], history.best[1]
    return f"The best is {100 * (base - best) / base:.1f}\u00a0% below the base model's {base:.3f}."


def _gap(history: History) -> str:
    """The generalisation gap: how much better the model knows the rows that it learns from."""
    if history.gap is None or (history.base and history.gap[0] >= history.base[1]):
        return ""
    validation, training = history.gap
    share = (validation - training) / validation if validation else 0.0
    between = f"validation and training loss at that point: {validation:.3f} and {training:.3f}"
    if share > WIDE:
        return (
            f"The model knows the rows that it learns from much better than new ones ({between}): more rows, or more "
            "regularisation, would help most."
        )
    if share > CLOSE:
        return f"The model knows the rows that it learns from somewhat better than new ones ({between})."
    if share < -CLOSE:
        return f"There is no generalisation gap: training loss, with dropout on, is the higher one ({between})."
    return f"There is hardly a generalisation gap ({between})."


def _number(line: dict[str, Any], name: str) -> float | None:
    """A value of a line; strings such as "NaN" (JSON has no such number) count as what they say."""
    value = line.get(name)
    return None if value is None else float(value)
