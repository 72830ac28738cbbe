"""Corpus TER for anybody.

    ter = evaluate.load("workflow/metrics/ter")
    ter.compute(predictions=["the cat sat"], references=["the cat sat down"])    # {"ter": 25.0}

What it is, and how it is computed, stands in measure.py.
"""

from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class Ter(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    measure = Measure()

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Corpus TER (edits for each 100 words of the references), equal to sacrebleu's.",
            citation="Snover et al. 2006. A Study of Translation Edit Rate with Targeted Human Annotation. AMTA.",
            inputs_description="predictions, references: texts, one reference each.",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references)
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
