"""ROUGE-1, -2, -L and -Lsum (Lin 2004) by rouge_score: the exact arithmetic mean of the rows' F, times 100.

    rouge = evaluate.load("workflow/metrics/rouge", stemmer=False)
    rouge.compute(predictions=["the cat sat"], references=["the cat sat down"])    # {"rouge1": ..., ...}, 0-100

Two things differ from the ROUGE of the hub. The mean is the mean: not the middle of a random bootstrap, which changes
in the third digit from call to call. And words are words in every script: rouge_score's own tokenizer keeps a-z and 0-9
alone, so that two equal Russian texts score 0 and `naïve` becomes `na ve`. Ours keeps runs of letters, marks and digits
of any script, and takes each Han or kana character as a word. On ASCII text the two tokenizers are equal.

ROUGE-Lsum takes each line of a text as a sentence. A text of one line has the same ROUGE-L and ROUGE-Lsum.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from importlib.metadata import version

import datasets
import evaluate
import numpy as np
import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+", regex.V1
)

CITATION = "Chin-Yew Lin. 2004. ROUGE: A Package for Automatic Evaluation of Summaries. ACL workshop."


class Words:
    """rouge_score's tokenizer, for every script: lower-cased words, those of ASCII stemmed if over 3 letters."""

    def __init__(self, stemmer: bool) -> None:
        self._stem = PorterStemmer().stem if stemmer else None

    def tokenize(self, text: str) -> list[str]:
        words = WORD.findall(unicodedata.normalize("NFC", text.lower()))
        if self._stem is None:
            return words
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


class Rouge(evaluate.Metric):
    """Mean F of ROUGE-1, -2, -L and -Lsum; `stemmer` cuts English words to their stems (Porter)."""

    METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    def __init__(self, stemmer: bool = False, **kwargs) -> None:
        self.stemmer = stemmer
        words = Words(stemmer)
        self._lines = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], tokenizer=words)
        self._line = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=words)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="ROUGE-1, -2, -L, -Lsum (0-100): the mean of rouge_score's F over the rows.",
            citation=CITATION,
            inputs_description="predictions, references: texts, one reference each; sentences on lines of their own.",
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://github.com/google-research/google-research/tree/master/rouge"],
        )

    def signature(self) -> str:
        """What another person must set to get the same number."""
        stem = "porter" if self.stemmer else "no"
        return f"nrefs:1|tok:unicode-words|stem:{stem}|agg:mean-f|version:{version('rouge_score')}"

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        """F (0-1) of every row: column name -> float64 [rows]."""
        _check(predictions, references)
        scores = [self._row(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: np.array([row[name].fmeasure for row in scores], dtype=np.float64) for name in self.METRICS}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Mean F x 100 of corpora of `n` rows whose F sum to `sums` (arrays of one shape)."""
        return {name: 100.0 * sums[name] / n for name in self.METRICS}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """F x 100 of each row."""
        return self.aggregate(statistics, np.float64(1))

    def _row(self, prediction: str, reference: str) -> dict:
        if "\n" in prediction or "\n" in reference:
            return self._lines.score(reference, prediction)
        row = self._line.score(reference, prediction)
        return row | {"rougeLsum": row["rougeL"]}  # one sentence each: equal, and half of the work saved

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        statistics = self.statistics(predictions, references)
        sums = {name: values.sum() for name, values in statistics.items()}
        return {name: float(value) for name, value in self.aggregate(sums, np.float64(len(predictions))).items()}


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} references: each needs its own")
    if not len(predictions):
        raise ValueError("there is nothing to score: no predictions")
