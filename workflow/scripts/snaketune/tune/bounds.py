"""When a trial is given up: what its validation loss must not exceed at each of its evaluations.

A bound is made of the trials of EARLIER generations alone, and handed to a trial before it begins. Those that run
beside it do not count: which of them gets where first depends on the number of cores and on their load, and so would
what is given up, what is proposed next, and which configuration is the best. A search must come to the same on one core
and on a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

MEDIAN_FROM = 4  # trials: the median of fewer says little
ETA = 2  # of `asha`: one of so many goes on at a rung; and a rung is at so many times the evaluation of the one before


def bounds(trials: Sequence[Mapping[str, Any]], pruning: str) -> list[float | None]:
    """The largest validation loss (nats) with which a trial goes on, by the number of the evaluation, from the first.

    trials: what was found in earlier generations. None: no bound there; []: none anywhere. Pruning is "none", or

    - "median": the median of the losses of the trials that got to this evaluation, where there are four of them at
      least; not at the first evaluation, at which a high learning rate looks worse than it will be (Golovin et al.
      2017, Google Vizier); or
    - "asha": at evaluations 1, 2, 4, ... the loss that the best half of the trials that got there reached (successive
      halving; Li et al. 2020, https://arxiv.org/abs/1810.05934).

    A trial that failed gives no bound. Evaluations are spread evenly over a training, so those of equal number stand at
    equal shares of two trainings that evaluate equally often.
    """
    curves = [trial["curve"] for trial in trials if trial["state"] != "failed"]
    longest = max(map(len, curves), default=0)
    if pruning == "none":
        return []
    rule = {"median": _median, "asha": _rung}[pruning]
    found = [
        rule(number, sorted(curve[number - 1] for curve in curves if len(curve) >= number))
        for number in range(1, longest + 1)
    ]
    while found and found[-1] is None:
        found.pop()
    return found


def _median(number: int, losses: list[float]) -> float | None:
    return median(losses) if number > 1 and len(losses) >= MEDIAN_FROM else None


def _rung(number: int, losses: list[float]) -> float | None:
    rung = 1
    while rung < number:
        rung *= ETA
    return losses[len(losses) // ETA - 1] if rung == number and len(losses) >= ETA else None
