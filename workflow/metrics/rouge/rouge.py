"""ROUGE-1, -2, -L and -Lsum for anybody.

    rouge = evaluate.load("workflow/metrics/rouge", stemmer=False)
    rouge.compute(predictions=["the cat sat"], references=["the cat sat down"])    # {"rouge1": ..., ...}, 0-100

What it is, and how it is computed, stands in measure.py.
"""

from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class Rouge(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    def __init__(self, stemmer: bool = False, **kwargs) -> None:
        self.measure = Measure(stemmer)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE-1, -2, -L, -Lsum (0-100): the mean of rouge_score's F over the rows.",
            citation="Chin-Yew Lin. 2004. ROUGE: A Package for Automatic Evaluation of Summaries. ACL workshop.",
            inputs_description="predictions, references: texts, one reference each; sentences on lines of their own.",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/google-research/google-research/tree/master/rouge"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references)
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
