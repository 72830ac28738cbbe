"""Distinct-n, self-BLEU and repetition for anybody.

    diversity = evaluate.load("workflow/metrics/diversity", seed=0)
    diversity.compute(predictions=["the cat", "the dog"], references=["", ""], prompts=["Which pet?", "Which other?"])
    # {"distinct_1": 75.0, ...}

What it is, and how it is computed, stands in measure.py.
"""

from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class Diversity(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    def __init__(self, seed: int = 0, **kwargs) -> None:
        self.measure = Measure(seed)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Distinct-1, distinct-2, self-BLEU and repetition of the predictions (0-100).",
            citation="Li et al. 2016. A Diversity-Promoting Objective Function for Neural Conversation Models. NAACL.",
            inputs_description="predictions: texts; references, prompts: what chooses the rows of self-BLEU.",
            features=datasets.Features({"predictions": text, "references": text, "prompts": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], prompts: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references, prompts=prompts)
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
