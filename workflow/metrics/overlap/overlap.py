"""Overlap with the prompt and with the training split for anybody.

    overlap = evaluate.load("workflow/metrics/overlap", ngram=8)
    overlap.compute(predictions=["one two three four"], prompts=["zero one two three four"], train=["train.parquet"])
    # {"prompt_overlap": 100.0, "train_overlap": ...}

What it is, and how it is computed, stands in measure.py.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class Overlap(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    def __init__(self, ngram: int = 8, **kwargs) -> None:
        self.measure = Measure(ngram)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Word n-grams (0-100) of the predictions that stand in their prompt, or that were trained on.",
            citation="",
            inputs_description="predictions, prompts: texts; train: Parquet files with a column `completion`.",
            features=datasets.Features({"predictions": text, "prompts": text}),
        )

    def _compute(self, predictions: list[str], prompts: list[str], train: Sequence[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, prompts=prompts, train=tuple(train))
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
