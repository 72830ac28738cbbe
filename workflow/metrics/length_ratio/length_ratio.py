"""Length ratio for anybody.

    length_ratio = evaluate.load("workflow/metrics/length_ratio")
    length_ratio.compute(predictions=["the cat sat"], references=["the cat sat on a mat"])    # {"length_ratio": 0.5}

What it is, and how it is computed, stands in measure.py.
"""

from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class LengthRatio(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    measure = Measure()

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Words of all predictions over words of all references.",
            citation="",
            inputs_description="predictions, references: texts, one reference each.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references)
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
