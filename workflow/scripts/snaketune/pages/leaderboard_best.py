"""Which runs are not surely worse than the best: the paired bootstrap of snaketune.scoring.bootstrap, run against run.

All runs of a group were scored on the same test rows, and are resampled by the same draws of families, so that the
difference of two runs is that of the same corpora. Only the leading metrics that are sums over rows are compared, each
with the best run of its own column. A few runs are in memory at a time, and their scores are kept by draw
([resamples] numbers a metric).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from snaketune.job import StageError
from snaketune.pages.leaderboard_groups import Group
from snaketune.pages.leaderboard_runs import Run
from snaketune.scoring import measures
from snaketune.scoring.bootstrap import (
    LIKELIHOOD,
    bootstrap_sums,
    codes_of,
    interval,
    p_value,
    paired,
    rounded,
    statistics_of,
)
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.measures import Measure

MOST_RUNS = 50  # of a group that are compared, the first by rank
NUMBERS_AT_ONCE = 4_000_000  # of statistics; 32 MB, of which a few copies are made
# The metrics that are compared, with the measure that each is one of.
MEASURE_OF = {
    "perplexity": LIKELIHOOD,
    "bits_per_byte": LIKELIHOOD,
    "token_accuracy": LIKELIHOOD,
    "bleu": "bleu",
    "chrf": "chrf",
    "rougeL": "rouge",
    "exact_match": "exact_match",
}
LIKELIHOOD_COLUMNS = ("n_tokens", "nll", "n_bytes", "nll_text", "n_correct")

Statistics = dict[str, np.ndarray]  # column -> [rows] float64
Drawn = tuple[float, np.ndarray]  # the score of a run, and its scores of the resampled corpora [resamples]


@dataclass
class Comparison:
    """The runs of a group beside the best of each column."""

    best: dict[str, str] = field(default_factory=dict)  # metric -> the run that the others are held against
    # metric -> run -> {delta, ci95, p, higher_is_better}: the run less the best one
    entries: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # run -> why it is not compared, or not in everything


def against_best(group: Group, settings: Mapping[str, int]) -> Comparison:
    """Compare the runs of a group with the best of each column; settings: `resamples` and `seed`."""
    found = Comparison()
    wanted = [metric for metric in MEASURE_OF if metric in group.best]
    if not wanted:
        return found
    order = [*group.candidates, *(run for run in group.runs if run.name in group.parents)]
    for run in order[MOST_RUNS:]:
        found.notes[run.name] = f"is not compared: {MOST_RUNS} runs are"
    chosen = []
    for run in order[:MOST_RUNS]:
        if run.scores:
            chosen.append(run)
        else:
            found.notes[run.name] = "is not compared: its scores are not at hand"
    loaded = _measures({MEASURE_OF[metric] for metric in wanted})
    drawn = {run: scores for batch in _batches(chosen, found.notes) for run, scores in _drawn(batch, loaded, settings)}
    for metric in wanted:
        best = next((name for name in group.best[metric] if metric in drawn.get(name, {})), None)
        if best is None:
            continue
        found.best[metric] = best
        found.entries[metric] = {
            run: _entry(metric, scores[metric], drawn[best][metric], loaded[MEASURE_OF[metric]])
            for run, scores in drawn.items()
            if run != best and metric in scores and not group.apart(run, metric)
        }
    return found


def _measures(names: set[str]) -> dict[str, Measure]:
    """The measures by their names. Their options are those of scoring; the sums that it left are added up alike."""
    texts = sorted(names - {LIKELIHOOD})
    loaded = measures.load({"metrics": texts, "bleu_tokenizer": "13a", "rouge_stemmer": False})
    return {LIKELIHOOD: Likelihood(), **loaded}


@dataclass(frozen=True)
class _Scored:
    """The statistics of a run, by measure, each with its rows: [rows] bool."""

    run: str
    table: pa.Table
    answered: dict[str, np.ndarray]


def _batches(runs: list[Run], notes: dict[str, str]) -> Iterator[list[_Scored]]:
    """The scores of the runs, a few runs at a time, all of the same rows in the same order.

    Runs of other rows or families, and measures of answers to other rows, than those of the first are left out.
    """
    first: pa.Table | None = None
    masks: dict[str, np.ndarray] = {}
    batch: list[_Scored] = []
    held = 0
    for run in runs:
        table = _read(run)
        try:
            first, table = paired(table if first is None else first, table)
        except StageError:
            notes[run.name] = "is not compared: its scores stand on other rows, or on other families of them"
            continue
        first = first.select(["row_id", "family"])
        answered = {name: mask for name, mask in _answered(table).items() if mask.any()}
        for name in list(answered):
            if not np.array_equal(masks.setdefault(name, answered[name]), answered[name]):
                notes[run.name] = "is not compared by its answers: it answered other rows"
                del answered[name]
        batch.append(_Scored(run.name, table, answered))
        held += table.num_rows * table.num_columns
        if held > NUMBERS_AT_ONCE:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _read(run: Run) -> pa.Table:
    """The columns of the scores that the compared metrics need; a measure that was not asked for has none."""
    prefixes = tuple(f"{name}_" for name in {*MEASURE_OF.values()} - {LIKELIHOOD})
    there = pq.read_schema(run.scores).names
    keys = ("row_id", "family", *LIKELIHOOD_COLUMNS)
    return pq.read_table(run.scores, columns=[name for name in there if name in keys or name.startswith(prefixes)])


def _answered(table: pa.Table) -> dict[str, np.ndarray]:
    """Which rows have the statistics of each measure that the table holds."""
    found = {LIKELIHOOD: np.ones(table.num_rows, dtype=bool)}
    for name in {*MEASURE_OF.values()} - {LIKELIHOOD}:
        column = next((column for column in table.column_names if column.startswith(f"{name}_")), None)
        if column:
            found[name] = table[column].is_valid().to_numpy()
    return found


def _drawn(
    batch: list[_Scored], loaded: Mapping[str, Measure], settings: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, Drawn]]]:
    """For each run its score and its resampled scores, by metric.

    Measures of the same rows share their draws, which depend on the seed and the number of families alone: those of
    one batch are those of the next.
    """
    found: dict[str, dict[str, Drawn]] = {scored.run: {} for scored in batch}
    masks = {mask.tobytes(): mask for scored in batch for name, mask in scored.answered.items() if name in loaded}
    for key, mask in masks.items():
        chosen = pa.array(mask)
        statistics = {
            (scored.run, name): _statistics(rows, name)
            for scored in batch
            for rows in [scored.table.filter(chosen)]
            for name, answered in scored.answered.items()
            if name in loaded and answered.tobytes() == key
        }
        families = codes_of(batch[0].table["family"].filter(chosen))
        for (run, name), scores in _resampled(statistics, families, loaded, settings):
            found[run] |= {metric: scores[metric] for metric in scores if MEASURE_OF.get(metric) == name}
    yield from found.items()


def _statistics(rows: pa.Table, name: str) -> Statistics:
    if name != LIKELIHOOD:
        return dict(statistics_of(rows, name))
    return {column: rows[column].to_numpy().astype(np.float64) for column in LIKELIHOOD_COLUMNS}


def _resampled(
    statistics: Mapping[tuple[str, str], Statistics],
    families: np.ndarray,
    loaded: Mapping[str, Measure],
    settings: Mapping[str, int],
) -> Iterator[tuple[tuple[str, str], dict[str, Drawn]]]:
    """The scores of statistics of the same rows: (run, measure) -> metric -> the score, and the resampled scores."""
    rows, count = len(families), int(families.max()) + 1
    columns = [np.ones(rows), *(values for given in statistics.values() for values in given.values())]
    by_family = np.stack([np.bincount(families, weights=values, minlength=count) for values in columns], axis=1)
    drawn = iter(bootstrap_sums(by_family, settings["resamples"], settings["seed"]).T)
    sizes = next(drawn)
    for (run, name), given in statistics.items():
        lacking = dict.fromkeys(Likelihood.COLUMNS, np.zeros(())) if name == LIKELIHOOD else {}
        measure = loaded[name]
        scores = measure.aggregate(lacking | {key: v.sum() for key, v in given.items()}, np.float64(rows))
        resampled = measure.aggregate(lacking | {key: next(drawn) for key in given}, sizes)
        yield (run, name), {metric: (float(scores[metric]), resampled[metric]) for metric in measure.METRICS}


def _entry(metric: str, run: Drawn, best: Drawn, measure: Measure) -> dict[str, Any]:
    """A run less the best one; what differs by a rounding error alone does not differ."""
    differences = np.where(np.isclose(run[1], best[1], rtol=1e-9, atol=1e-12), 0.0, run[1] - best[1])
    entry = {"delta": run[0] - best[0], "ci95": interval(differences), "p": p_value(differences)}
    return rounded(metric, entry) | {"higher_is_better": measure.HIGHER_IS_BETTER[metric]}
