"""ROUGE-1, -2, -L and -Lsum (Lin 2004) by rouge_score: the exact arithmetic mean of the rows' F, times 100.

Two things differ from the ROUGE of the hub. The mean is the mean: not the middle of a random bootstrap, which changes
in the third digit from call to call. And words are words in every script: rouge_score's own tokenizer keeps a-z and 0-9
alone, so that two equal Russian texts score 0 and `naïve` becomes `na ve`. Ours keeps runs of letters, marks and digits
of any script, and takes each Han or kana character as a word. On ASCII text the two tokenizers are equal.

ROUGE-Lsum takes each line of a text as a sentence. A text of one line has the same ROUGE-L and ROUGE-Lsum.

rouge_score finds the longest common subsequence in a table of all pairs of words, in Python: minutes and gigabytes for
two texts of 100 kB. ROUGE-L needs only its length, which 64 cells at a time give (Hyyrö 2004): the same number. Which
words it has, as ROUGE-Lsum needs them, is left to rouge_score up to CELLS pairs of words; a longer pair of texts is
taken as one sentence each. The signature says so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import regex
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import fmeasure

CELLS = 4_000_000
WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+", regex.V1
)


class Words:
    """rouge_score's tokenizer, for every script: lower-cased words, those of ASCII stemmed if over 3 letters."""

    def __init__(self, stemmer: bool) -> None:
        self._stem = lru_cache(1 << 16)(PorterStemmer().stem) if stemmer else None
        self.tokenize = lru_cache(2)(self._tokenize)  # each text is asked for twice in a row

    def _tokenize(self, text: str) -> list[str]:
        words = WORD.findall(unicodedata.normalize("NFC", text.lower()))
        if self._stem is None:
            return words
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


class Measure:
    """Mean F of ROUGE-1, -2, -L and -Lsum; `stemmer` cuts English words to their stems (Porter)."""

    METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    HIGHER_IS_BETTER: ClassVar = dict.fromkeys(METRICS, True)

    def __init__(self, stemmer: bool = False) -> None:
        self.stemmer = stemmer
        self._words = Words(stemmer)
        self._grams = RougeScorer(["rouge1", "rouge2"], tokenizer=self._words)
        self._lines = RougeScorer(["rougeLsum"], tokenizer=Words(stemmer))

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        stem = "porter" if self.stemmer else "no"
        line = f"nrefs:1|tok:unicode-words|stem:{stem}|agg:mean-f|version:{version('rouge_score')}"
        lines = f"{line}|lines:sentences up to {CELLS} pairs of words, else one sentence"
        return dict.fromkeys(self.METRICS, line) | {"rougeLsum": lines}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """F (0-1) of every row, from `outputs` and `references`: column -> float64 [rows]."""
        scores = [self._row(*pair) for pair in zip(answers.outputs, answers.references, strict=True)]
        return dict(zip(self.METRICS, np.array(scores, dtype=np.float64).T, strict=True))

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Mean F x 100 of corpora of `n` rows whose F sum to `sums` (arrays of one shape)."""
        return {name: 100.0 * sums[name] / n for name in self.METRICS}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """F x 100 of each row."""
        return self.aggregate(statistics, np.float64(1))

    def _row(self, output: str, reference: str) -> tuple[float, float, float, float]:
        grams = self._grams.score(reference, output)
        said, wanted = self._words.tokenize(output), self._words.tokenize(reference)
        common = common_subsequence(said, wanted)
        whole = fmeasure(common / max(len(said), 1), common / max(len(wanted), 1))
        lines = whole
        if ("\n" in output or "\n" in reference) and len(said) * len(wanted) <= CELLS:
            lines = self._lines.score(reference, output)["rougeLsum"].fmeasure
        return grams["rouge1"].fmeasure, grams["rouge2"].fmeasure, whole, lines


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Words of the longest common subsequence: Hyyrö's bit vectors, a long integer for a column of the table."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    column = full  # a bit is 0 where the subsequence grows by the word
    for word in second:
        match = column & places.get(word, 0)
        column = (column + match | column - match) & full
    return len(first) - column.bit_count()
