"""Corpus chrF (Popović 2015) as sacrebleu counts it, with the counts of every row laid open.

chrF compares character n-grams (n = 1-6, white space left out, recall weighted twice), so it needs no tokenizer and
serves every script. For a corpus it is a function of 18 sums over the rows: for each n the n-grams of the answer, of
the reference, and of both. `statistics` takes them from sacrebleu; `aggregate` turns sums into scores, for any number
of resampled corpora at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sacrebleu.metrics import CHRF

ORDERS = range(1, CHRF.CHAR_ORDER + 1)
COLUMNS = tuple(f"{kind}_{n}" for n in ORDERS for kind in ("hypothesis", "reference", "match"))
RECALL_WEIGHT = CHRF.BETA**2
ROWS_AT_ONCE = 256  # sacrebleu keeps the n-grams of all references that it is given


class Measure:
    """Corpus chrF2: six character orders, no words, case kept."""

    METRICS = ("chrf",)
    HIGHER_IS_BETTER: ClassVar = {"chrf": True}

    def __init__(self) -> None:
        self._scorer = CHRF()
        self._scorer.num_refs = 1

    def signature(self) -> dict[str, str]:
        """sacrebleu's signature: with it, another person gets the same number."""
        return {"chrf": str(self._scorer.get_signature())}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """The 18 counts of every row, from `outputs` and `references`: column -> float64 [rows]."""
        outputs, references = answers.outputs, answers.references
        counts = np.empty((len(outputs), len(COLUMNS)))
        for start in range(0, len(outputs), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            counts[part] = self._scorer._extract_corpus_statistics(outputs[part], [references[part]])
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
