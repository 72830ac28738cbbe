"""What several runs say together: every metric over seeds, and over folds.

Over seeds the test rows and the base model are the same, and the training alone is drawn anew: the base has one value
and no spread. The 95 % interval is Student's, of n - 1 degrees of freedom, around the mean of the n runs:

    mean +- t * s * sqrt(1 / n),     s: the sample standard deviation (n - 1 in the denominator)

It says how far chance in training moves a score on these test rows. It knows nothing of other test rows: those are in
the bootstrap of each run.

Over folds each run is tested on rows of its own, so that base and tuned both vary. But the runs share training rows,
their scores are not independent, and the interval above would be too narrow; no estimate of the variance is right
whatever the data (Bengio and Grandvalet 2004). `ci95` of folds is the corrected one of Nadeau and Bengio (2003):

    mean +- t * s * sqrt(1 / n + test rows / training rows)

With k folds, one is the test split, the next one the validation split and k - 2 are trained on (snaketune.split), so
that the ratio is 1 / (k - 2). The correction is a rule of thumb, made for test sets that are drawn at random.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from snaketune.job import StageError
from snaketune.scoring.bootstrap import DIGITS
from snaketune.scoring.student import quantile

FEWEST_FOLDS = 3  # with fewer, nothing would be left to train on

Runs = Mapping[str, Mapping[str, Any]]  # name -> what stands in its metrics.json
Base = Callable[[str, Mapping[str, float]], dict[str, Any]]  # (metric, run -> score of the base) -> what is said of it


def over_seeds(runs: Runs) -> dict[str, Any] | None:
    """The metrics over seeds; None without runs.

    Raises StageError where the runs have other test data, or another base.
    """
    names = list(runs)
    for name in names[1:]:
        if _test(runs[name]) != _test(runs[names[0]]):
            raise StageError(
                f"seeds: {name} was tested on other rows than {names[0]}, so that their scores have no common mean: "
                "seeds must share `source`, `split` and all that stands before it"
            )
    return _together(runs, 0.0, _constant)


def over_folds(runs: Runs) -> dict[str, Any] | None:
    """The metrics over folds; None without runs. Fewer than 3 have no interval: see `FEWEST_FOLDS`.

    Raises StageError where two runs have the same test data.
    """
    seen: dict[str, str] = {}
    for name, run in runs.items():
        if (other := seen.setdefault(_test(run), name)) != name:
            raise StageError(
                f"folds: {name} was tested on the very rows of {other}, and would count twice: give each fold a "
                "`split.fold` of its own, and `split.method: k-fold`"
            )
    ratio = 1 / (len(runs) - 2) if len(runs) >= FEWEST_FOLDS else None
    return _together(runs, ratio, lambda _, values: summary(list(values.values()), ratio))


def summary(values: Sequence[float], ratio: float | None = 0.0) -> dict[str, Any]:
    """Mean, spread and 95 % interval of the values of some runs, in their order.

    ratio: test rows to training rows of runs that share training rows, 0 for independent runs; None: no interval.
    One value has neither standard deviation nor interval.
    """
    n, mean = len(values), statistics.fmean(values)
    spread = statistics.stdev(values) if n > 1 else None
    bounds = None
    if spread is not None and ratio is not None:
        reach = quantile(n - 1) * spread * math.sqrt(1 / n + ratio)
        bounds = [_rounded(mean - reach), _rounded(mean + reach)]
    return {
        "mean": _rounded(mean),
        "sd": None if spread is None else _rounded(spread),
        "min": min(values),
        "max": max(values),
        "ci95": bounds,
        "values": list(values),
    }


def _together(runs: Runs, ratio: float | None, base: Base) -> dict[str, Any] | None:
    """All metrics that all runs have; of the others, how many runs have them."""
    if not runs:
        return None
    having: dict[str, int] = {}
    for run in runs.values():
        for metric in run["metrics"]:
            having[metric] = having.get(metric, 0) + 1
    found = {}
    for metric in sorted(metric for metric, count in having.items() if count == len(runs)):
        entries = {name: run["metrics"][metric] for name, run in runs.items()}
        higher = next(iter(entries.values()))["higher_is_better"]
        deltas = [entry["delta"] for entry in entries.values()]
        found[metric] = {
            "base": base(metric, {name: entry["base"] for name, entry in entries.items()}),
            "tuned": summary([entry["tuned"] for entry in entries.values()], ratio),
            "delta": summary(deltas, ratio),
            "n": len(entries),
            "better": None if higher is None else sum((delta > 0) if higher else (delta < 0) for delta in deltas),
            "higher_is_better": higher,
        }
    left_out = {metric: count for metric, count in sorted(having.items()) if count < len(runs)}
    return {"runs": list(runs), "metrics": found, "left_out": left_out}


def _constant(metric: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The base over seeds: one value, of all runs. Raises StageError where there are several."""
    (first, value), *others = values.items()
    for name, other in others:
        if not math.isclose(value, other, rel_tol=1e-6, abs_tol=10**-DIGITS):
            raise StageError(
                f"seeds: {metric} of the base is {value:g} in {first} and {other:g} in {name}, on the same rows: seeds "
                "may change the training alone, and must share `model`, `score` and all else"
            )
    return {"mean": value}


def _test(run: Mapping[str, Any]) -> str:
    return run["test"]["sha256"]


def _rounded(value: float) -> float:
    return round(value, DIGITS) + 0.0  # + 0.0 makes -0.0 a plain 0
