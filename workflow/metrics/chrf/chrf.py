"""Corpus chrF (Popović 2015) as sacrebleu counts it, with the counts of every row laid open.

    chrf = evaluate.load("workflow/metrics/chrf")
    chrf.compute(predictions=["the cat sat"], references=["the cat sat down"])    # {"chrf": ...}, 0-100

chrF compares character n-grams (n = 1-6, white space left out, recall weighted twice), so it needs no tokenizer and
serves every script. For a corpus it is a function of 18 sums over the rows: for each n the n-grams of the answer, of
the reference, and of both. `statistics` takes them from sacrebleu; `aggregate` turns sums into scores, for any number
of resampled corpora at once. `compute` is the two, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import CHRF

ORDERS = range(1, CHRF.CHAR_ORDER + 1)
COLUMNS = tuple(f"{kind}_{n}" for n in ORDERS for kind in ("hypothesis", "reference", "match"))
RECALL_WEIGHT = CHRF.BETA**2
ROWS_AT_ONCE = 256  # sacrebleu keeps the n-grams of all references that it is given

CITATION = "Maja Popović. 2015. chrF: character n-gram F-score for automatic MT evaluation. WMT."


class Chrf(evaluate.Metric):
    """Corpus chrF2: six character orders, no words, case kept."""

    METRICS = ("chrf",)

    def __init__(self, **kwargs) -> None:
        self._scorer = CHRF()
        self._scorer.num_refs = 1
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Corpus chrF2 (0-100), equal to sacrebleu's.",
            citation=CITATION,
            inputs_description="predictions, references: texts, one reference each.",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def signature(self) -> str:
        """sacrebleu's signature: with it, another person gets the same number."""
        return str(self._scorer.get_signature())

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """The 18 counts of every row: column name -> float64 [rows]."""
        _check(predictions, references)
        counts = np.empty((len(predictions), len(COLUMNS)))
        for start in range(0, len(predictions), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            counts[part] = self._scorer._extract_corpus_statistics(predictions[part], [references[part]])
        return dict(zip(COLUMNS, counts.T, strict=True))

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """chrF of corpora whose statistics sum to `sums` (arrays of one shape); it does not depend on the rows `n`."""
        hypothesis, reference, match = (
            np.stack([np.asarray(sums[f"{kind}_{order}"], dtype=np.float64) for order in ORDERS])  # [6, ...]
            for kind in ("hypothesis", "reference", "match")
        )
        counted = (hypothesis > 0) & (reference > 0)  # effective order: only orders that both texts reach
        orders = np.maximum(counted.sum(axis=0), 1)
        precision = np.divide(match, hypothesis, out=np.zeros_like(match), where=counted).sum(axis=0) / orders
        recall = np.divide(match, reference, out=np.zeros_like(match), where=counted).sum(axis=0) / orders
        weighted = RECALL_WEIGHT * precision + recall
        product = (1 + RECALL_WEIGHT) * precision * recall
        return {"chrf": 100.0 * np.divide(product, weighted, out=np.zeros_like(weighted), where=weighted > 0)}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """chrF of each row for itself."""
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
