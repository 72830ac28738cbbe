"""A search as its page sees it: the dimensions of its space, its trials, and where a value lies on an axis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from snaketune.job import StageError
from snaketune.pages.charts import Scale, log_ticks, scientific, ticks
from snaketune.pages.pages import MINUS, clipped
from snaketune.tune import space

STATES = ("complete", "pruned", "failed")
EDGE = 0.05  # a value within this share of a range's width counts as on its edge
FEWEST_CHOICES = 3  # of a list of numbers, for its ends to be edges: of two numbers each is an end
MOST_SLOTS = 12  # so many values at most are drawn, and told, one by one
FIFTHS = 5


@dataclass(frozen=True)
class Dimension:
    """One key of the space: a range, or choices, which stand on an axis at equal distances (numbers in order).

    A range with a step is a list of choices, as in snaketune.tune.space.
    """

    key: str
    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False

    def place(self, value: Any) -> float:
        """Where a value lies on the axis: the value itself, or the place among the choices."""
        return float(self._places[_same(value)] if self.choices else value)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {_same(choice): at for at, choice in enumerate(self.choices)}

    def scale(self, start: float, end: float) -> Scale:
        """The axis from `start` to `end`."""
        if self.choices:
            return Scale(0, len(self.choices) - 1, start, end)
        return Scale(self.low, self.high, start, end, self.log)

    def marks(self, most: int) -> list[tuple[float, str]]:
        """At most about `most` places on the axis and what is written there."""
        if self.choices:
            every = math.ceil(len(self.choices) / most)
            return [(float(at), told(choice)) for at, choice in enumerate(self.choices) if at % every == 0]
        found = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, most)
        slack = 1e-9 * (self.high - self.low)
        inside = [tick for tick in found if self.low - slack <= tick <= self.high + slack]
        inside = [tick for tick in inside if not self.whole or tick == int(tick)]
        if self.log and len(inside) > most:
            powers = [tick for tick in inside if math.log10(tick) % 1 < 1e-9 or math.log10(tick) % 1 > 1 - 1e-9]
            inside = powers if len(powers) > 1 else inside
        inside = inside[:: math.ceil(len(inside) / most) or 1]
        return [(tick, told(tick)) for tick in (inside if len(inside) > 1 else [self.low, self.high])]

    def edge(self, value: Any) -> str | None:
        """`lower` or `upper` where a wider range might hold a better value; the zero of a quantity is no such edge."""
        if self.choices:
            if len(self.choices) < FEWEST_CHOICES or not self.numeric:
                return None
            at, last = self.place(value), len(self.choices) - 1
            lower, upper = at == 0, at == last
        else:
            share = self.scale(0, 1)(float(value))
            lower, upper = share <= EDGE, share >= 1 - EDGE
        natural = (self.choices[0] if self.choices else self.low) == 0
        return "lower" if lower and not natural else "upper" if upper else None

    @property
    def slots(self) -> tuple[Any, ...]:
        """All its values where they are few: the choices, or the whole numbers of a range."""
        if self.choices:
            return self.choices if len(self.choices) <= MOST_SLOTS else ()
        few = self.whole and not self.log and self.high - self.low < MOST_SLOTS
        return tuple(range(int(self.low), int(self.high) + 1)) if few else ()

    @property
    def numeric(self) -> bool:
        """Whether all its values are numbers."""
        return all(map(is_number, self.choices))

    @property
    def span(self) -> str:
        """The range or the choices in words."""
        if len(self.choices) > MOST_SLOTS and self.numeric:
            return f"{len(self.choices):,} values from {told(self.choices[0])} to {told(self.choices[-1])}"
        if self.choices:
            return clipped(", ".join(map(told, self.choices)), 200)
        return f"{told(self.low)} to {told(self.high)}{', by factors' if self.log else ''}"


@dataclass(frozen=True)
class Trial:
    """One trial. `loss` is its best validation loss, None where it has none; so is a loss that is not finite."""

    number: int
    values: Mapping[str, Any]
    state: str
    loss: float | None
    curve: tuple[float, ...]
    step: int | None
    steps: int | None
    tokens: int | None
    reason: str | None
    generation: int | None


@dataclass(frozen=True)
class Search:
    """All trials by number, the best one, and the dimensions in the order of the space."""

    dimensions: tuple[Dimension, ...]
    trials: tuple[Trial, ...]
    best: Trial

    def of(self, *states: str) -> list[Trial]:
        """The trials in these states, by number."""
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def ranked(self) -> list[Trial]:
        """The complete trials, the best first."""
        rest = sorted((trial for trial in self.of("complete") if trial is not self.best), key=_loss)
        return [self.best, *rest]

    @cached_property
    def fifths(self) -> dict[int, int]:
        """For each complete trial by number the fifth of the ranking in which it stands, 1 the best."""
        ranked = self.ranked
        return {trial.number: 1 + FIFTHS * place // len(ranked) for place, trial in enumerate(ranked)}


def read_search(trials: Sequence[str], generations: Sequence[str], best: str, given: Mapping[str, Any]) -> Search:
    """The search from its files; given: the space as it stands in the configuration.

    Raises StageError where the best trial is not among the trials, or has no loss.
    """
    belongs = {trial["number"]: found["generation"] for found in map(_json, generations) for trial in found["trials"]}
    made = sorted((_trial(_json(path), belongs) for path in trials), key=lambda trial: trial.number)
    number = _json(best)["number"]
    winner = next((trial for trial in made if trial.number == number), None)
    if winner is None or winner.state != "complete" or winner.loss is None:
        raise StageError(
            f"{best} names trial {number}, but no trial.json tells of a complete trial {number} with a loss: "
            "delete that file, and the next run writes it anew"
        )
    parsed = space.parse(given)
    last = [key.rpartition(".")[2] for key in given]
    names = [key if last.count(tail) > 1 else tail for key, tail in zip(given, last, strict=True)]
    dimensions = tuple(_dimension(key, name, parsed[key], made) for key, name in zip(given, names, strict=True))
    return Search(dimensions, tuple(made), winner)


def _trial(found: Mapping[str, Any], belongs: Mapping[int, int]) -> Trial:
    loss = found["loss"]
    return Trial(
        number=found["number"],
        values=found["values"],
        state=found["state"],
        loss=loss if loss is not None and math.isfinite(loss) else None,
        curve=tuple(value for value in found["curve"] if value is not None and math.isfinite(value)),
        step=found["step"],
        steps=found["steps"],
        tokens=found["tokens"],
        reason=found["reason"],
        generation=belongs.get(found["number"]),
    )


def _dimension(key: str, name: str, given: space.Dimension, trials: Sequence[Trial]) -> Dimension:
    if not given.listed:
        return Dimension(key, name, (), given.low, given.high, given.log, given.whole)
    every = {_same(value): value for value in (*given.values, *(trial.values[key] for trial in trials))}
    choices = tuple(every.values())
    return Dimension(key, name, tuple(sorted(choices)) if all(map(is_number, choices)) else choices)


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def told(value: Any) -> str:
    """A value of the space as people write it, with three significant digits; what is not a number is clipped."""
    if is_number(value):
        if value == 0 or 1e-3 <= abs(value) < 1000:
            text = str(value) if isinstance(value, int) else f"{value:.3g}"
        else:
            text = f"{value:,.0f}" if abs(value) >= 1000 else scientific(value)
        return text.replace("-", MINUS)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 60)


def _same(value: Any) -> str:
    """Equal for equal values, and only for those: 1 is not true, while 8 is 8.0."""
    return json.dumps(float(value) if is_number(value) else value, sort_keys=True)


def _loss(trial: Trial) -> tuple[float, int]:
    return (math.inf if trial.loss is None else trial.loss), trial.number


def _json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))
