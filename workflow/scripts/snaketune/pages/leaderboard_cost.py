"""What a training cost: read from train/summary.json, and from train/speed.jsonl, which is a measurement.

The seconds are those of the whole training, evaluations included, as its own clock counted them; they depend on the
machine and on what else ran there. Tokens do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from snaketune.pages.pages import NONE, number, short


@dataclass(frozen=True)
class Cost:
    """What a training cost; the names are those of the columns of the table. None: not known."""

    seconds: float | None = None
    tokens_per_second: float | None = None  # the median of the lines of speed.jsonl
    tokens: int | None = None  # no padding; the mean of a step times the steps
    peak_memory_mb: float | None = None
    energy_j: float | None = None
    parameters: int | None = None
    trainable_parameters: int | None = None
    steps: int | None = None
    epochs: float | None = None
    device: str | None = None
    processes: int | None = None


COSTS = tuple(field.name for field in fields(Cost))


def cost_of(summary: str | None, speed: str | None) -> Cost:
    """The cost as the two files tell it. Each line of speed.jsonl counts from the beginning, as its seconds do."""
    facts = json.loads(Path(summary).read_text(encoding="utf-8")) if summary else {}
    most: dict[str, float] = {}
    rates = []
    if speed:
        with Path(speed).open(encoding="utf-8") as file:
            for line in file:
                told = json.loads(line)
                for name in ("seconds", "memory_mb", "energy_j"):
                    if told.get(name) is not None:
                        most[name] = max(told[name], most.get(name, 0.0))
                if told.get("tokens_per_second") is not None:
                    rates.append(told["tokens_per_second"])
    each, steps = facts.get("tokens_per_step"), facts.get("steps")
    return Cost(
        seconds=most.get("seconds"),
        tokens_per_second=round(median(rates), 1) if rates else None,
        tokens=round(each * steps) if each is not None and steps is not None else None,
        peak_memory_mb=most.get("memory_mb"),
        energy_j=most.get("energy_j"),
        **{name: facts.get(name) for name in COSTS[COSTS.index("parameters") :]},
    )


def duration(seconds: float) -> str:
    """Seconds in words, with two units at most."""
    if seconds < 99.95:
        return f"{seconds:.1f}\u00a0s" if seconds < 9.95 else f"{seconds:.0f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}\u00a0h {minutes:02d}\u00a0min"


def amount(value: float) -> str:
    """A large number with three digits and its unit."""
    for size, unit in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            digits = 2 if value < 9.995 * size else 1 if value < 99.95 * size else 0
            return f"{number(value / size, digits)}\u00a0{unit}"
    return number(value, 0)


# The columns of the page: field, heading, note below the heading, how a value is written.
SHOWN: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("seconds", "Training time", "with evaluations", duration),
    ("tokens_per_second", "Tokens per second", "median", lambda rate: number(rate, 0)),
    ("tokens", "Tokens trained", "no padding", amount),
    ("peak_memory_mb", "Peak memory", "", lambda size: f"{short(size / 1000)}\u00a0GB"),
    ("energy_j", "Energy", "", lambda joules: f"{short(joules / 3600)}\u00a0Wh"),
    ("parameters", "Parameters", "", amount),
    ("trainable_parameters", "Trained parameters", "", amount),
    ("steps", "Steps", "", lambda steps: number(steps, 0)),
    ("device", "Device", "", str),
)


def table(costs: Sequence[tuple[str, Cost]]) -> dict[str, Any] | None:
    """The costs of runs as the page shows them: the columns of which any run knows a value. None where none does."""
    known = [column for column in SHOWN if any(getattr(cost, column[0]) is not None for _, cost in costs)]
    if not known:
        return None
    return {
        "columns": [{"title": title, "note": note, "number": name != "device"} for name, title, note, _ in known],
        "rows": [(run, [_cell(cost, name, written) for name, _, _, written in known]) for run, cost in costs],
    }


def _cell(cost: Cost, name: str, written: Callable[[Any], str]) -> dict[str, Any]:
    value = getattr(cost, name)
    if value is None:
        return {"text": NONE, "value": None}
    many = name == "device" and (cost.processes or 1) > 1
    return {"text": f"{cost.processes} × {value}" if many else written(value), "value": value}
