"""Corpus BLEU (Papineni et al. 2002) as sacrebleu counts it (Post 2018), with the counts of every row laid open.

BLEU of a corpus is a function of ten sums over its rows: two lengths, and for n = 1-4 the n-grams that match and the
n-grams there are. `statistics` takes the ten numbers of every row from sacrebleu; `aggregate` turns sums into scores,
for any number of resampled corpora at once. An empty answer counts as an answer of length 0. Corpus BLEU is not the
mean of the rows' BLEU.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sacrebleu.metrics import BLEU

ORDERS = range(1, 5)
COLUMNS = (
    "hypothesis_length",
    "reference_length",
    *(f"correct_{n}" for n in ORDERS),
    *(f"total_{n}" for n in ORDERS),
)
ROWS_AT_ONCE = 256  # sacrebleu keeps the n-grams of all references that it is given


class Measure:
    """Corpus BLEU, exponential smoothing, case kept; `tokenizer` is one of sacrebleu's: 13a, intl, char, zh, none."""

    METRICS = ("bleu",)
    HIGHER_IS_BETTER: ClassVar = {"bleu": True}

    def __init__(self, tokenizer: str = "13a") -> None:
        self._scorer = BLEU(tokenize=tokenizer)
        self._scorer.num_refs = 1

    def signature(self) -> dict[str, str]:
        """sacrebleu's signature: with it, another person gets the same number."""
        return {"bleu": str(self._scorer.get_signature())}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """The ten counts of every row, from `outputs` and `references`: column -> float64 [rows]."""
        outputs, references = answers.outputs, answers.references
        counts = np.empty((len(outputs), len(COLUMNS)))
        for start in range(0, len(outputs), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            counts[part] = self._scorer._extract_corpus_statistics(outputs[part], [references[part]])
        return dict(zip(COLUMNS, counts.T, strict=True))

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """BLEU of corpora whose statistics sum to `sums` (arrays of one shape); it does not depend on the rows `n`."""
        return {"bleu": _bleu(sums)}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """BLEU of each row for itself, with effective order (a row of two words is judged by 1- and 2-grams)."""
        return {"bleu": _bleu(statistics, effective_order=True)}


def _bleu(sums: dict[str, np.ndarray], effective_order: bool = False) -> np.ndarray:
    """sacrebleu's `compute_bleu` with `smooth_method="exp"`, for arrays of any one shape."""
    correct = np.stack([np.asarray(sums[f"correct_{n}"], dtype=np.float64) for n in ORDERS])  # [4, ...]
    total = np.stack([np.asarray(sums[f"total_{n}"], dtype=np.float64) for n in ORDERS])
    length = np.asarray(sums["hypothesis_length"], dtype=np.float64)
    missing = (correct == 0) & (total > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=0), correct)  # the k-th order without a hit: 1 / 2^k
    precision = np.divide(smoothed, total, out=np.ones_like(total), where=total > 0)
    orders = (total > 0).sum(axis=0)
    mean_log = np.log(precision).sum(axis=0) / np.maximum(orders, 1)
    shortfall = np.divide(sums["reference_length"], length, out=np.ones_like(length), where=length > 0)
    brevity = np.exp(np.minimum(0.0, 1.0 - shortfall))
    defined = (correct > 0).any(axis=0) & (effective_order | (orders == len(ORDERS)))
    return np.where(defined, 100.0 * brevity * np.exp(mean_log), 0.0)
