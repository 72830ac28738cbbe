"""Base beside tuned: every published number, how sure it is, and whether the difference is one.

In:  scores/{base,tuned}.parquet, probes/{base,tuned}.parquet (none where nothing is probed), and
     {run, seed, score: {...}, compare: {...}}
Out: metrics.json

    metrics      for each metric base, tuned, their difference, 95 % intervals of the three, p, wins/ties/losses: the
                 paired bootstrap of snaketune.scoring.bootstrap, which says how; of a user's own metrics that are no
                 sums over rows, the jackknife of snaketune.scoring.own
    signatures   how each metric was computed, in a line; equal for base and tuned
    calibration  how often the likeliest token was right, by how sure the model was of it
    classes      of `classification`: who was taken for whom, and the scores of each class; null without it
    bias         the probes of bias by axis and group; null without them
    probes       what was probed
    test         rows and hash of the test split: runs with equal hashes can be ranked together
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import read_table
from snaketune.scoring import bootstrap, classes, likelihood, measures, own
from snaketune.scoring import probes as probing
from snaketune.scoring.bootstrap import LIKELIHOOD, Entry, codes_of, entries, rounded, statistics_of
from snaketune.scoring.measures import HEADLINE, Measure, Statistics

SIDES = ("base", "tuned")
CLASSIFICATION = classes.MEASURE
PER_CLASS = ("precision", "recall", "f1")

Sides = Sequence[pa.Table]  # of base and tuned


def compare(base: str, tuned: str, report: str, settings: dict[str, Any], probes: tuple[str, str] | None = None) -> str:
    """Write metrics.json; `probes`: the tables of the probes of base and tuned.

    Raises StageError where base and tuned hold other rows or were scored otherwise, or a score is not a number.
    """
    sides = bootstrap.paired(read_table(base), read_table(tuned))
    draws = {"resamples": settings["compare"]["resamples"], "seed": settings["seed"]}
    loaded = measures.load(settings["score"], _classes(sides))
    _lacks_nothing(sides, loaded)
    signatures = _signatures(sides, loaded)
    results, by_class = _own(sides), None
    for group, *rows in bootstrap.groups(*sides, {LIKELIHOOD: likelihood.Likelihood(), **loaded}):
        if not rows[0].num_rows:
            raise StageError("no test row has an answer: generate for at least one")
        results |= _compared(group, rows, draws)
        if CLASSIFICATION in group:
            by_class = _by_class(group[CLASSIFICATION], rows, draws)
    document = {
        "run": settings["run"],
        "settings": {key: value for key, value in settings.items() if key != "run"},
        "test": {"rows": sides[0].num_rows, "sha256": _identity(sides[0])},
        "calibration": _calibration(sides),
        "classes": by_class,
        "bias": None,
        "probes": {"general": None, "bias": None},
    }
    if probes:
        tables = [read_table(path) for path in probes]
        compared = partial(bootstrap.compared, **draws)
        for measure, *rows in probing.sections(*tables):
            results |= compared(measure, *rows)
            signatures |= measure.signature()
        document["bias"] = _rounded_bias(probing.bias(*tables, compared))
        document["probes"] = probing.facts(tables[0])
    document["signatures"] = {name: signatures[name] for name in results}
    document["metrics"] = {name: rounded(name, entry) for name, entry in results.items()}
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    Path(report).write_text(text, encoding="utf-8")
    return _sentence(document["metrics"])


def _identity(scores: pa.Table) -> str:
    """A hash of the test rows: runs with equal hashes can be ranked together."""
    return sha256("\n".join(scores["row_id"].to_pylist()).encode()).hexdigest()


def _stamp(table: pa.Table, key: str, empty: Any) -> Any:
    """What stands under a key in the metadata of a table of scores."""
    found = (table.schema.metadata or {}).get(key.encode())
    return empty if found is None else json.loads(found)


def _classes(sides: Sides) -> list[str] | None:
    """The classes that both sides were scored with."""
    base, tuned = (_stamp(side, "classes", None) for side in sides)
    if base != tuned:
        raise StageError(
            f"the answers of base were sorted into the classes {base}, and those of tuned into {tuned}: score both "
            "again, with one setting of `score.classes`"
        )
    return base


def _lacks_nothing(sides: Sides, loaded: Mapping[str, Measure]) -> None:
    """Raise StageError unless both sides have the statistics of all measures."""
    for side, table in zip(SIDES, sides, strict=True):
        if missing := [name for name in loaded if not any(c.startswith(f"{name}_") for c in table.column_names)]:
            raise StageError(f"the scores of {side} lack {', '.join(missing)}: score again with these `score.metrics`")


def _signatures(sides: Sides, loaded: Mapping[str, Measure]) -> dict[str, str]:
    """The signatures that the scores were made with: those of both sides, and of the formulas here."""
    base, tuned = (_stamp(side, "signatures", {}) for side in sides)
    for metric, signature in measures.signatures(loaded).items():
        for side, found in zip(SIDES, (base, tuned), strict=True):
            if found.get(metric) != signature:
                raise StageError(
                    f"the {metric} of {side} was scored as `{found.get(metric)}`, and is compared as `{signature}`: "
                    "score base and tuned again, with one setting of `score`"
                )
    for metric in sorted(base.keys() | tuned.keys()):
        if base.get(metric) != tuned.get(metric):
            section = "likelihood" if metric in likelihood.Likelihood.METRICS else "score"
            raise StageError(
                f"the {metric} of base was scored as `{base.get(metric)}`, and that of tuned as `{tuned.get(metric)}`: "
                f"compute both again, with one setting of `{section}`"
            )
    return base


def _compared(loaded: Mapping[str, Measure], sides: Sides, draws: Mapping[str, int]) -> dict[str, Entry]:
    """All metrics of measures that are defined on the same rows, compared on the same draws: metric -> entry."""
    found = [{name: statistics_of(side, name) for name in loaded} for side in sides]
    return entries(loaded, *found, codes_of(sides[0]["family"]), **draws)


def _own(sides: Sides) -> dict[str, Entry]:
    """A user's own metrics that are no sums over rows: metric -> entry."""
    base, tuned = (_stamp(side, "own", {}) for side in sides)
    return {metric: own.entry(base[metric], tuned[metric]) for metric in base}


def _calibration(sides: Sides) -> dict[str, Any]:
    """The reliability of both models by bins of confidence."""
    found: dict[str, Any] = {"edges": [float(edge) for edge in likelihood.EDGES]}
    for side, table in zip(SIDES, sides, strict=True):
        sums = {name: values.sum() for name, values in statistics_of(table, LIKELIHOOD).items()}
        found[side] = [rounded("calibration", bar) for bar in likelihood.calibration(sums)]
    return found


class _PerClass:
    """Precision, recall and F1 of each class as metrics, under the names (class, score)."""

    def __init__(self, measure: Any) -> None:
        self._measure = measure
        self.METRICS = tuple((label, score) for label in measure.classes for score in PER_CLASS)
        self.HIGHER_IS_BETTER = dict.fromkeys(self.METRICS, True)

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
        found = classes.per_class(self._measure, sums)
        return {(label, score): found[label][score] for label, score in self.METRICS}

    def row_scores(self, statistics: Statistics) -> dict[tuple[str, str], np.ndarray]:
        return {}


def _by_class(measure: Any, sides: Sides, draws: Mapping[str, int]) -> dict[str, Any]:
    """The confusion matrices, and the scores of each class: the section `classes`."""
    confusion = {}
    for side, table in zip(SIDES, sides, strict=True):
        sums = {name: values.sum() for name, values in statistics_of(table, CLASSIFICATION).items()}
        confusion[side] = classes.confusion(measure, sums)
    labels = measure.classes
    found = _compared({CLASSIFICATION: _PerClass(measure)}, sides, draws)
    support = confusion["base"].sum(axis=1).tolist()
    return {
        "labels": labels,
        "confusion": {side: matrix.tolist() for side, matrix in confusion.items()},
        "per_class": {
            label: {"support": rows}
            | {score: rounded(f"{score} of {label}", found[label, score]) for score in PER_CLASS}
            for label, rows in zip(labels, support, strict=True)
        },
    }


def _rounded_bias(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The section `bias` with its entries rounded."""
    return found and {
        axis: {name: part[name] and rounded(f"{name} of {axis}", part[name]) for name in ("gap", "output_difference")}
        | {"groups": {group: rounded(f"{axis}: {group}", entry) for group, entry in part["groups"].items()}}
        for axis, part in found.items()
    }


def _sentence(results: dict[str, Entry]) -> str:
    parts = [
        f"{label} {results[name]['base']:.2f} -> {results[name]['tuned']:.2f}"
        for name, label in HEADLINE.items()
        if name in results
    ]
    return f"{', '.join(parts)} ({results['perplexity']['n']:,} rows)"


if __name__ == "__main__":
    run(
        lambda job: compare(
            job.input.base,
            job.input.tuned,
            job.output.metrics,
            job.params.settings,
            tuple(job.input.probes) or None,
        ),
        snakemake,
        light=not snakemake.params.settings["score"]["own"],  # evaluate, which they may need, brings pandas
    )
