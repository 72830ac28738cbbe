"""Corpus BLEU for anybody.

    bleu = evaluate.load("workflow/metrics/bleu", tokenizer="13a")
    bleu.compute(predictions=["the cat sat"], references=["the cat sat down"])    # {"bleu": ...}, 0-100

What it is, and how it is computed, stands in measure.py.
"""

from types import SimpleNamespace

import datasets
import evaluate
import numpy as np

from .measure import Measure


class Bleu(evaluate.Metric):
    """The measure of measure.py for `evaluate.load`: the same numbers, without the workflow."""

    def __init__(self, tokenizer: str = "13a", **kwargs) -> None:
        self.measure = Measure(tokenizer)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Corpus BLEU (0-100), equal to sacrebleu's.",
            citation="Matt Post. 2018. A Call for Clarity in Reporting BLEU Scores. WMT.",
            inputs_description="predictions, references: detokenised texts, one reference each.",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/mjpost/sacrebleu"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        answers = SimpleNamespace(outputs=predictions, references=references)
        sums = {name: values.sum() for name, values in self.measure.statistics(answers).items()}
        return {
            name: float(score) for name, score in self.measure.aggregate(sums, np.float64(len(predictions))).items()
        }
