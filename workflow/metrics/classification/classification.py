"""Accuracy, precision, recall and F1 of answers that name a class, for anybody.

    classification = evaluate.load("workflow/metrics/classification", classes=["no", "yes"])
    classification.compute(predictions=["Yes, it is.", "no"], references=["yes", "yes"])    # {"accuracy": 50.0, ...}

What it is, and how it is computed, stands in measure.py.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure, find_classes


class Classification(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    def __init__(self, classes: Sequence[str] | None = None, **kwargs) -> None:
        self.classes = classes
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Accuracy, precision, recall and F1 (0-100) of predictions that name a class.",
            citation="",
            inputs_description="predictions: texts; references: the right class of each.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references, labels=references)
        measure = Measure(self.classes or find_classes(answers))
        sums = {name: values.sum() for name, values in measure.statistics(answers).items()}
        return {name: float(score) for name, score in measure.aggregate(sums, np.float64(len(predictions))).items()}
