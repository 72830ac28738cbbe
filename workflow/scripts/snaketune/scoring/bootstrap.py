"""The paired bootstrap: every metric of base and tuned, how sure each is, and whether the difference is one.

The bootstrap (Koehn 2004) draws whole families, because rows of one family are alike and not so many independent
witnesses; base and tuned are scored on the same draws, because hard rows are hard for both. A draw is a row of a matrix
that says how often each family came up, so all corpora are summed by one product:
weights [resamples, families] @ sums [families, statistics].

- An interval runs from the 2.5th to the 97.5th percentile of the resampled scores.
- p is two-sided: twice the smaller share of resampled differences on one side of 0 (0 itself counts on both), with
  one added to count and total, so that it is never 0; at most 1.
- wins, ties and losses count rows whose own score is better, equal or worse for the tuned model (for BLEU, the row's
  sentence BLEU with effective order). Where neither direction is better, a win is a row where tuned has the larger
  score. A row whose score is no number on a side is a tie.
- A draw in which a score is no number (the recall of a label that was not drawn) is left out of interval and p.
- Rows of a single family are one witness: every draw is the same, the interval has no width, and p is the smallest
  there is. Such an interval says nothing of how sure a number is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.measures import Measure, Statistics

LIKELIHOOD = "likelihood"  # the measure whose columns have no prefix
DIGITS = 6  # after the point, in files; sums of nats may differ in the 12th digit between processors
WEIGHTS_AT_ONCE = 4_000_000  # 32 MB

Entry = dict[str, Any]


def bootstrap_sums(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums over resampled families: [families, statistics] -> [resamples, statistics].

    The draws depend on the seed and the number of families alone, not on how many are held in memory at once.
    """
    families = len(sums)
    rng = np.random.default_rng(seed)
    even = np.full(families, 1 / families)
    step = max(1, WEIGHTS_AT_ONCE // families)
    parts = []
    for start in range(0, resamples, step):
        weights = rng.multinomial(families, even, size=min(step, resamples - start))  # [step, families]
        parts.append(weights.astype(np.float64) @ sums)
    return np.concatenate(parts)


def p_value(differences: np.ndarray) -> float:
    """Two-sided p of a bootstrap: how rarely the resampled difference falls on the other side of 0."""
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def interval(values: np.ndarray) -> list[float]:
    """The 2.5th and the 97.5th percentile."""
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]


def codes_of(families: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The family of each row as a number [rows] int64: 0, 1, ... in the order of their names."""
    return pc.rank(families, tiebreaker="dense").to_numpy().astype(np.int64) - 1


def statistics_of(scores: pa.Table, measure: str) -> Statistics:
    """The statistics of one measure in a table of `scores`: column -> float64 [rows]."""
    prefix = "" if measure == LIKELIHOOD else f"{measure}_"
    names = Likelihood.COLUMNS if measure == LIKELIHOOD else scores.column_names
    found = [name for name in names if name.startswith(prefix)]
    return {name.removeprefix(prefix): scores[name].to_numpy().astype(np.float64) for name in found}


def paired(base: pa.Table, tuned: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables of `scores` by row_id. Raises StageError where they hold other rows, or rows of other families."""
    base, tuned = base.sort_by("row_id"), tuned.sort_by("row_id")
    if not base["row_id"].equals(tuned["row_id"]):
        lone = set(base["row_id"].to_pylist()) ^ set(tuned["row_id"].to_pylist())
        first = f", such as {min(lone)}" if lone else ""
        raise StageError(
            f"base ({base.num_rows:,} rows) and tuned ({tuned.num_rows:,} rows) were scored on different rows; "
            f"{len(lone):,} stand on one side only{first}. Score both on one test split"
        )
    if not base["family"].equals(tuned["family"]):
        raise StageError("base and tuned give one row different families: score both on one test split")
    return base, tuned


Group = tuple[dict[str, Measure], pa.Table, pa.Table]


def groups(base: pa.Table, tuned: pa.Table, measures: Mapping[str, Measure]) -> list[Group]:
    """Measures with the rows that have their statistics; those of equal rows together, so that they share the draws.

    base, tuned: the same rows of `scores`. The likelihood has all rows; a measure of answers those with an answer.
    Raises StageError where base and tuned have other answers.
    """
    found: dict[bytes, Group] = {}
    for name, measure in measures.items():
        masks = [_answered(table, name) for table in (base, tuned)]
        if not np.array_equal(*masks):
            raise StageError("base and tuned answered different rows: generate both with the same `generate.limit`")
        key = masks[0].tobytes()
        if key not in found:
            found[key] = {}, base.filter(pa.array(masks[0])), tuned.filter(pa.array(masks[0]))
        found[key][0][name] = measure
    return list(found.values())


def _answered(scores: pa.Table, measure: str) -> np.ndarray:
    """Which rows have the statistics of a measure, [rows] bool."""
    if measure == LIKELIHOOD:
        return np.ones(scores.num_rows, dtype=bool)
    column = next(name for name in scores.column_names if name.startswith(f"{measure}_"))
    return scores[column].is_valid().to_numpy()


def entries(
    measures: Mapping[str, Measure],
    base: Mapping[str, Statistics],
    tuned: Mapping[str, Statistics],
    families: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Entry]:
    """All metrics of measures that are defined on the same rows, compared on the same draws: metric -> entry.

    base, tuned: the statistics of each measure, column -> float64 [rows]; families: of `codes_of`, [rows].
    An entry: base, tuned, delta, ci95 (of the difference), base_ci95, tuned_ci95, p, n, wins, ties, losses (null where
    the metric is none of a row), higher_is_better (null where neither is better).
    """
    rows, count = len(families), int(families.max()) + 1
    found = {(name, side): given[name] for name in measures for side, given in enumerate((base, tuned))}
    columns = [np.ones(rows), *(values for statistics in found.values() for values in statistics.values())]
    by_family = np.stack([np.bincount(families, weights=values, minlength=count) for values in columns], axis=1)
    drawn = iter(bootstrap_sums(by_family, resamples, seed).T)
    sizes = next(drawn)
    sums = {key: {name: next(drawn) for name in statistics} for key, statistics in found.items()}
    made = {}
    for name, measure in measures.items():
        pair = [
            (
                measure.aggregate({key: values.sum() for key, values in found[name, i].items()}, np.float64(rows)),
                measure.aggregate(sums[name, i], sizes),
                measure.row_scores(found[name, i]),
            )
            for i in range(2)
        ]
        for metric in measure.METRICS:
            sides = [[part.get(metric) for part in side] for side in pair]
            made[metric] = _entry(*sides, rows, measure.HIGHER_IS_BETTER[metric])
    return made


def compared(measure: Measure, base: pa.Table, tuned: pa.Table, resamples: int, seed: int) -> dict[str, Entry]:
    """The metrics of one measure: metric -> entry. base, tuned: the same rows: `family`, and a column a statistic."""
    sides = (base, tuned)
    found = [
        {name: side[name].to_numpy().astype(np.float64) for name in side.column_names if name != "family"}
        for side in sides
    ]
    return entries({"": measure}, *({"": side} for side in found), codes_of(base["family"]), resamples, seed)


@np.errstate(invalid="ignore")  # between infinite scores; `rounded` refuses what comes of it
def _entry(base: list[Any], tuned: list[Any], rows: int, higher_is_better: bool | None) -> Entry:
    """One metric: each side is [its score, its resampled scores, the scores of its rows or None]."""
    defined = ~(np.isnan(base[1]) | np.isnan(tuned[1]))
    drawn = [side[1][defined] if defined.any() else side[1] for side in (base, tuned)]
    entry = {
        "base": float(base[0]),
        "tuned": float(tuned[0]),
        "delta": float(tuned[0] - base[0]),
        "ci95": interval(drawn[1] - drawn[0]),
        "base_ci95": interval(drawn[0]),
        "tuned_ci95": interval(drawn[1]),
        "p": p_value(drawn[1] - drawn[0]),
        "n": rows,
        **dict.fromkeys(("wins", "ties", "losses")),
        "higher_is_better": higher_is_better,
    }
    return entry if base[2] is None else entry | counts(base[2], tuned[2], higher_is_better)


@np.errstate(invalid="ignore")  # a hopeless row may have an infinite perplexity on both sides: a tie
def counts(base: np.ndarray, tuned: np.ndarray, higher_is_better: bool | None) -> dict[str, int]:
    """wins, ties and losses of rows [n] with these scores; together they are all rows."""
    gains = (tuned - base) * (-1 if higher_is_better is False else 1)
    even = np.isclose(tuned, base, rtol=1e-9, atol=1e-12, equal_nan=True)
    won, lost = int((~even & (gains > 0)).sum()), int((~even & (gains < 0)).sum())
    return {"wins": won, "ties": len(gains) - won - lost, "losses": lost}


def rounded(metric: str, entry: Entry) -> Entry:
    """The entry with DIGITS digits after the point; what is not a number is refused."""
    made = {}
    for key, value in entry.items():
        if value is None:
            made[key] = None
            continue
        numbers = value if isinstance(value, list) else [value]
        if not np.isfinite(numbers).all():
            raise StageError(
                f"{metric}: `{key}` is {value}, which is no number. Look for rows without tokens or bytes, or with "
                "huge losses, in the scores"
            )
        # + 0.0 makes -0.0 a plain 0
        digits = [round(number, DIGITS) + 0.0 if isinstance(number, float) else number for number in numbers]
        made[key] = digits if isinstance(value, list) else digits[0]
    return made
