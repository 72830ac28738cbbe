"""Exact match: the share of answers (0-100) that equal their reference, runs of white space taken as one space.

    exact_match = evaluate.load("workflow/metrics/exact_match")
    exact_match.compute(predictions=["the  cat\n"], references=["the cat"])    # {"exact_match": 100.0}

Case and punctuation count. `statistics` says 1 or 0 for every row; `aggregate` is their mean, for any number of
resampled corpora at once. `compute` is the two, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np


class ExactMatch(evaluate.Metric):
    """Share of equal texts, white space normalised."""

    METRICS = ("exact_match",)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Share (0-100) of predictions that equal their reference, white space normalised.",
            citation="",
            inputs_description="predictions, references: texts, one reference each.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def signature(self) -> str:
        """What another person must set to get the same number."""
        return "nrefs:1|case:mixed|space:collapsed|agg:mean"

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """1 where the answer equals its reference, else 0: column name -> float64 [rows]."""
        _check(predictions, references)
        pairs = zip(predictions, references, strict=True)
        return {"match": np.array([a.split() == b.split() for a, b in pairs], dtype=np.float64)}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Share x 100 in corpora of `n` rows with so many matches (arrays of one shape)."""
        return {"exact_match": 100.0 * sums["match"] / n}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """100 or 0 for each row."""
        return self.aggregate(statistics, np.float64(1))

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        statistics = self.statistics(predictions, references)
        sums = {name: values.sum() for name, values in statistics.items()}
        return {name: float(value) for name, value in self.aggregate(sums, np.float64(len(predictions))).items()}


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} references: each needs its own")
    if not len(predictions):
        raise ValueError("there is nothing to score: no predictions")
