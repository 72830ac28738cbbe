"""Base beside tuned: every published number, how sure it is, and whether the difference is one.

In:  scores/base.parquet, scores/tuned.parquet, and {run, seed, score: {...}, compare: {...}}
Out: metrics.json: for each metric base, tuned, their difference, 95 % intervals of the three, p, wins/ties/losses

The paired bootstrap (Koehn 2004) draws whole families, because rows of one family are alike and not so many
independent witnesses; base and tuned are scored on the same draws, because hard rows are hard for both. A draw is a
row of a matrix that says how often each family came up, so all corpora are summed by one product:
weights [resamples, families] @ sums [families, statistics].

- An interval runs from the 2.5th to the 97.5th percentile of the resampled scores.
- p is two-sided: twice the smaller share of resampled differences on one side of 0 (0 itself counts on both), with
  one added to count and total, so that it is never 0; at most 1.
- wins, ties and losses count rows whose own score is better, equal or worse for the tuned model (for BLEU, the row's
  sentence BLEU with effective order).
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune import metrics
from snaketune.job import StageError, run
from snaketune.metrics import HEADLINE, LOWER_IS_BETTER, Likelihood, Measure, Statistics
from snaketune.rows import read_table

DIGITS = 6  # after the point, in metrics.json; sums of nats may differ in the 12th digit between processors
WEIGHTS_AT_ONCE = 4_000_000  # 32 MB
LIKELIHOOD = "likelihood"


def compare(base: str, tuned: str, report: str, settings: dict[str, Any]) -> str:
    """Write metrics.json. Raises StageError where the two files hold other rows, or a score is not a number."""
    sides = _aligned(read_table(base), read_table(tuned))
    modules = metrics.load(settings["score"])
    seed, resamples = settings["seed"], settings["compare"]["resamples"]

    results = _compared({LIKELIHOOD: Likelihood()}, sides, resamples, seed)
    results |= _compared(modules, _answered(sides, modules), resamples, seed)
    document = {
        "run": settings["run"],
        "settings": {key: value for key, value in settings.items() if key != "run"},
        "test": {"rows": sides[0].num_rows, "sha256": _identity(sides[0])},
        "signatures": _signatures(sides, metrics.signatures(modules)),
        "metrics": {name: _rounded(name, entry) for name, entry in results.items()},
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    Path(report).write_text(text, encoding="utf-8")
    return _sentence(document["metrics"])


def _identity(scores: pa.Table) -> str:
    """A hash of the test rows: runs with equal hashes can be ranked together."""
    return sha256("\n".join(scores["row_id"].to_pylist()).encode()).hexdigest()


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


def _aligned(base: pa.Table, tuned: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables by row_id; they must hold the same rows, of the same families."""
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


def _answered(sides: tuple[pa.Table, pa.Table], modules: dict[str, Any]) -> tuple[pa.Table, pa.Table]:
    """The rows that have an answer, the same on both sides."""
    prefixes = tuple(f"{module}_" for module in modules)
    masks = []
    for side, table in zip(("base", "tuned"), sides, strict=True):
        columns = [name for name in table.column_names if name.startswith(prefixes)]
        if missing := [module for module in modules if not any(name.startswith(f"{module}_") for name in columns)]:
            raise StageError(f"the scores of {side} lack {', '.join(missing)}: score again with these `score.metrics`")
        masks.append(pc.is_valid(table[columns[0]]))
    if not masks[0].equals(masks[1]):
        raise StageError("base and tuned answered different rows: generate both with the same `generate.limit`")
    if not pc.any(masks[0]).as_py():
        raise StageError("no test row has an answer: generate for at least one")
    return sides[0].filter(masks[0]), sides[1].filter(masks[1])


def _signatures(sides: tuple[pa.Table, pa.Table], expected: dict[str, str]) -> dict[str, str]:
    """The signatures that the scores were made with: those of both sides, and of the formulas here."""
    for side, table in zip(("base", "tuned"), sides, strict=True):
        found = json.loads((table.schema.metadata or {}).get(b"signatures", b"{}"))
        for name, signature in expected.items():
            if found.get(name) != signature:
                raise StageError(
                    f"the {name} of {side} was scored as `{found.get(name)}`, and is compared as `{signature}`: "
                    "score base and tuned again, with one setting of `score`"
                )
    return expected


def _compared(
    measures: dict[str, Measure], sides: tuple[pa.Table, pa.Table], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """All metrics of measures that are defined on the same rows, compared on the same draws: metric -> entry."""
    codes = pc.rank(sides[0]["family"], tiebreaker="dense").to_numpy().astype(np.int64) - 1
    rows, families = len(codes), int(codes.max()) + 1
    found = {(name, i): _statistics(side, name) for name in measures for i, side in enumerate(sides)}
    columns = [np.ones(rows), *(values for statistics in found.values() for values in statistics.values())]
    by_family = np.stack([np.bincount(codes, weights=values, minlength=families) for values in columns], axis=1)
    drawn = iter(bootstrap_sums(by_family, resamples, seed).T)
    sizes = next(drawn)
    sums = {key: {name: next(drawn) for name in statistics} for key, statistics in found.items()}
    entries = {}
    for name, measure in measures.items():
        pair = [
            (
                measure.aggregate({key: values.sum() for key, values in found[name, i].items()}, np.float64(rows)),
                measure.aggregate(sums[name, i], sizes),
                measure.row_scores(found[name, i]),
            )
            for i in range(2)
        ]
        entries |= {
            metric: _entry(metric, *([part[metric] for part in side] for side in pair)) for metric in measure.METRICS
        }
    return entries


def _statistics(table: pa.Table, module: str) -> Statistics:
    """The statistics of one measure: name -> float64 [rows]. Those of the likelihood have no prefix."""
    prefix = "" if module == LIKELIHOOD else f"{module}_"
    names = Likelihood.COLUMNS if module == LIKELIHOOD else [n for n in table.column_names if n.startswith(prefix)]
    return {name.removeprefix(prefix): table[name].to_numpy().astype(np.float64) for name in names}


@np.errstate(invalid="ignore")  # a hopeless row may have an infinite perplexity on both sides: a tie
def _entry(metric: str, base: list[np.ndarray], tuned: list[np.ndarray]) -> dict[str, Any]:
    """One metric: each side is [its score, its resampled scores, the scores of its rows]."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    even = np.isclose(tuned[2], base[2], rtol=1e-9, atol=1e-12, equal_nan=True)
    gains = np.where(even, 0, sign * (tuned[2] - base[2]))
    return {
        "base": float(base[0]),
        "tuned": float(tuned[0]),
        "delta": float(tuned[0] - base[0]),
        "ci95": _interval(tuned[1] - base[1]),
        "base_ci95": _interval(base[1]),
        "tuned_ci95": _interval(tuned[1]),
        "p": p_value(tuned[1] - base[1]),
        "n": len(gains),
        "wins": int((gains > 0).sum()),
        "ties": int((gains == 0).sum()),
        "losses": int((gains < 0).sum()),
        "higher_is_better": sign > 0,
    }


def _interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, (2.5, 97.5))]


def _rounded(metric: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with DIGITS digits after the point; what is not a number is refused."""
    rounded = {}
    for key, value in entry.items():
        numbers = value if isinstance(value, list) else [value]
        if not np.isfinite(numbers).all():
            raise StageError(
                f"{metric}: `{key}` is {value}, which is no number. Look for rows without tokens or bytes, or with "
                "huge losses, in the scores"
            )
        # + 0.0 makes -0.0 a plain 0
        digits = [round(number, DIGITS) + 0.0 if isinstance(number, float) else number for number in numbers]
        rounded[key] = digits if isinstance(value, list) else digits[0]
    return rounded


def _sentence(results: dict[str, dict[str, Any]]) -> str:
    parts = [
        f"{label} {results[name]['base']:.2f} -> {results[name]['tuned']:.2f}"
        for name, label in HEADLINE.items()
        if name in results
    ]
    return f"{', '.join(parts)} ({results['perplexity']['n']:,} rows)"


if __name__ == "__main__":
    run(lambda job: compare(job.input.base, job.input.tuned, job.output.metrics, job.params.settings), snakemake)
