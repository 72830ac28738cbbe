"""A user's own metrics: files, folders and names of the Hub that `evaluate.load` takes, listed under `score.own`.

A file whose metric has `METRICS`, `HIGHER_IS_BETTER`, `statistics`, `aggregate`, `row_scores` and `signature` (itself,
or its attribute `measure`, as those of `workflow/metrics/` have) is a measure like ours: it is resampled with them, and
its rows are won and lost.

Of any other metric only the score of a whole corpus is known. How sure that is, is found with the delete-a-group
jackknife (Kott 2001): whole families, in the order of a hash, are dealt to GROUPS groups, or one each where there are
fewer; and the metric is computed of all rows, and of all rows but those of one group, for each group in turn. So such a
metric runs GROUPS + 1 times. The groups are the same for base and tuned, so that differences are taken group by group.
With d_g the difference without group g, of k:

    variance = (k - 1) / k * sum over g of (d_g - mean d)^2,     interval = difference +- t * sqrt(variance)

with Student's t of k - 1 degrees of freedom, for 95 %; p is two-sided, of the same t. Which way is better is known
where the metric has a mapping `HIGHER_IS_BETTER` of its names.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.job import StageError
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.measures import MODULES, Answers, Measure
from snaketune.scoring.student import quantile as _quantile
from snaketune.scoring.student import student

GROUPS = 20
SEED = 0  # of a metric that draws


def measures(entries: Sequence[str], ours: Mapping[str, Measure]) -> dict[str, Measure]:
    """The files and folders that hold measures like `ours`: name -> measure.

    Raises StageError like `corpus_scores`, and for names that ours have.
    """
    found: dict[str, Measure] = {}
    taken = {metric for measure in ours.values() for metric in measure.METRICS} | set(Likelihood.METRICS)
    for entry in entries:
        if _local(entry) and (measure := _measure(_load(entry))) is not None:
            name = _name(entry)
            # columns of scores are <measure>_<statistic>
            rivals = [*found, *(path.name for path in MODULES.iterdir() if path.is_dir())]
            if any(f"{name}_".startswith(f"{rival}_") or f"{rival}_".startswith(f"{name}_") for rival in rivals):
                raise StageError(f"`score.own`: the name of `{entry}` begins like another metric's: rename the file")
            if twice := taken.intersection(measure.METRICS):
                raise StageError(f"`score.own`: `{entry}` has a metric `{min(twice)}`, as another has: rename it there")
            found[name] = measure
            taken |= set(measure.METRICS)
    return found


def corpus_scores(
    entries: Sequence[str], answers: Answers, families: Sequence[str], taken: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The scores of all metrics of `entries` that are no measures like ours, as scores/*.parquet keeps them.

    Returns {metric: {"value", "groups": [the value without each group of families], "higher_is_better", "signature",
    "n"}}. What a metric gives beside plain numbers is left out. A name among `taken` gets its module's before it.
    Raises StageError where a metric cannot be had, cannot be computed, or gives no number.
    """
    groups = _groups(families)
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        metric = _load(entry)
        if _local(entry) and _measure(metric) is not None:
            continue
        whole = _compute(entry, metric, answers, np.arange(len(groups)))
        kept = np.unique(groups)
        parts = [_compute(entry, metric, answers, np.flatnonzero(groups != group)) for group in kept if len(kept) > 1]
        if any(part.keys() != whole.keys() for part in parts):
            raise StageError(f"`score.own`: `{entry}` gives other numbers for some of the rows than for all of them")
        for key, value in whole.items():
            name = f"{_name(entry)}_{key}" if key in found or key in taken else key
            found[name] = {
                "value": value,
                "groups": [part[key] for part in parts],
                "higher_is_better": getattr(metric, "HIGHER_IS_BETTER", {}).get(key),
                "signature": f"evaluate.load|{_name(entry)}|code:{str(metric._hash)[:8]}|jackknife:{len(parts)} groups",
                "n": len(groups),
            }
    return found


def entry(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, Any]:
    """One metric of `corpus_scores`, base beside tuned, with the intervals of the jackknife.

    With a single family nothing is known of how sure a score is: the intervals are as narrow as its value, and p is 1.
    """
    sides = [(side["value"], np.array(side["groups"], dtype=np.float64)) for side in (base, tuned)]
    delta = tuned["value"] - base["value"]
    spread = _deviation(sides[1][1] - sides[0][1])
    freedom = len(sides[0][1]) - 1
    p = 1.0 if freedom < 1 or delta == 0 else 0.0 if spread == 0 else 1.0 - student(abs(delta) / spread, freedom)
    intervals = [_interval(value, _deviation(groups), freedom) for value, groups in sides]
    return {
        "base": base["value"],
        "tuned": tuned["value"],
        "delta": delta,
        "ci95": _interval(delta, spread, freedom),
        "base_ci95": intervals[0],
        "tuned_ci95": intervals[1],
        "p": p,
        "n": base["n"],
        **dict.fromkeys(("wins", "ties", "losses")),
        "higher_is_better": base["higher_is_better"],
    }


def _local(entry: str) -> bool:
    return entry.endswith(".py") or Path(entry).exists()


def _name(entry: str) -> str:
    return Path(entry).stem


def _measure(metric: Any) -> Measure | None:
    """What of a loaded metric is a measure like ours: itself, its attribute `measure`, or nothing."""
    return next((part for part in (metric, getattr(metric, "measure", None)) if isinstance(part, Measure)), None)


@functools.cache
def _load(entry: str) -> Any:
    """What `evaluate.load` makes of a path or of a name of the Hub.

    Nothing is kept but what the Hub sends: evaluate copies a module into a cache before it imports it, under a hash
    that overlooks what stands behind a `#`; our cache is a folder of this process alone, so that an edited file is
    never served stale, two jobs never meet, and nobody's home is written to.
    """
    import evaluate

    cache = Path(_cache().name)
    evaluate.config.HF_MODULES_CACHE = cache / "modules"
    try:
        metric = evaluate.load(entry, keep_in_memory=True, cache_dir=str(cache / "data"))
    except ImportError as error:
        raise StageError(
            f"`score.own`: `{entry}` needs a package: {_short(error)}. Install it where the workflow is installed"
        ) from error
    except Exception as error:  # the code of others, and the network
        hint = "" if _local(entry) else "; it is no file or folder here, so it was looked for on the Hub"
        raise StageError(
            f"`score.own`: `{entry}` cannot be loaded{hint}: {type(error).__name__}: {_short(error)}. Give the path of "
            "a file, or of a folder with a file of its name, from where snakemake is called; or the name of a metric "
            "of the Hub, where there is a network"
        ) from error
    metric.seed = SEED
    return metric


@functools.cache
def _cache() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="snaketune-metrics-")


def _groups(families: Sequence[str]) -> np.ndarray:
    """The group of each row, whatever the order of the rows: [rows] int64."""
    dealt = sorted(set(families), key=lambda family: blake2b(family.encode(), digest_size=8).digest())
    number = {family: place % GROUPS for place, family in enumerate(dealt)}
    return np.array([number[family] for family in families], dtype=np.int64)


def _compute(entry: str, metric: Any, answers: Answers, rows: np.ndarray) -> dict[str, float]:
    """The numbers that a metric gives of some of the rows."""
    try:
        inputs = dict(_inputs(metric, answers, rows.tolist()))
        given = metric.compute(**inputs)
    except Exception as error:  # the code of others
        raise StageError(
            f"`score.own`: `{entry}` was loaded, but fails on {len(rows):,} answers: {type(error).__name__}: "
            f"{_short(error)}. It must take texts, without further arguments; to set some, or to score less or more "
            "than texts, wrap it in a file of your own"
        ) from error
    numbers = {
        key: float(value) for key, value in given.items() if isinstance(value, Real) and not isinstance(value, bool)
    }
    if not numbers or not all(map(math.isfinite, numbers.values())):
        raise StageError(f"`score.own`: `{entry}` gives no plain number, or one that is none: {_short(given)}")
    return numbers


def _inputs(metric: Any, answers: Answers, rows: list[int]) -> Iterator[tuple[str, list[Any]]]:
    """What a metric asks for, by the names that evaluate's metrics use; references as lists where it wants several."""
    import datasets

    options = metric.features if isinstance(metric.features, list) else [metric.features]
    plain = [option for option in options if all(isinstance(kind, datasets.Value) for kind in option.values())]
    wanted = (plain or options)[0]
    has = {
        "predictions": answers.outputs,
        "references": answers.references,
        "prompts": answers.prompts,
        "sources": answers.prompts,
        "data": answers.outputs,
    }
    for name, kind in wanted.items():
        if name not in has:
            raise ValueError(f"it asks for `{name}`, and there are {', '.join(has)}")
        texts = [has[name][row] for row in rows]
        yield name, texts if isinstance(kind, datasets.Value) else [[text] for text in texts]


def _deviation(groups: np.ndarray) -> float:
    """The standard error of a score by its values without each of k groups; 0 for fewer than two."""
    k = len(groups)
    return math.sqrt((k - 1) / k * float(((groups - groups.mean()) ** 2).sum())) if k > 1 else 0.0


def _interval(value: float, spread: float, freedom: int) -> list[float]:
    reach = spread * _quantile(freedom) if freedom > 0 else 0.0
    return [value - reach, value + reach]


def _short(what: Any) -> str:
    text = " ".join(str(what).split())
    return text if len(text) < 300 else f"{text[:300]}..."
