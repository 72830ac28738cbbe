"""Exact match: the share of answers (0-100) that equal their reference, runs of white space taken as one space.

Case and punctuation count. `statistics` says 1 or 0 for every row; `aggregate` is their mean, for any number of
resampled corpora at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class Measure:
    """Share of equal texts, white space normalised."""

    METRICS = ("exact_match",)
    HIGHER_IS_BETTER: ClassVar = {"exact_match": True}

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        return {"exact_match": "nrefs:1|case:mixed|space:collapsed|agg:mean"}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """1 where an answer of `outputs` equals that of `references`, else 0: column -> float64 [rows]."""
        pairs = zip(answers.outputs, answers.references, strict=True)
        return {"match": np.array([a == b or a.split() == b.split() for a, b in pairs], dtype=np.float64)}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Share x 100 in corpora of `n` rows with so many matches (arrays of one shape)."""
        return {"exact_match": 100.0 * sums["match"] / n}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """100 or 0 for each row."""
        return self.aggregate(statistics, np.float64(1))
