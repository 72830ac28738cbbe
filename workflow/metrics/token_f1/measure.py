"""Token F1 (Rajpurkar et al. 2016, SQuAD): how many words answer and reference share, order aside; the mean, 0-100.

As in SQuAD's own program, texts are lower-cased, ASCII punctuation is taken out (`it's` is `its`), and so are the
English articles a, an, the. On ASCII text the numbers are equal to SQuAD 2's. There, words stand between white space;
here they are runs of letters, marks and digits of any script, and each Han or kana character is a word. Where neither
text has a word, F1 is 100; where one has none, 0.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import regex

WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}]]+", regex.V1
)
ARTICLES = ("a", "an", "the")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Measure:
    """Mean F1 of the bags of words."""

    METRICS = ("token_f1",)
    HIGHER_IS_BETTER: ClassVar = {"token_f1": True}

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        return {"token_f1": "nrefs:1|case:lc|tok:unicode-words|punct:no|articles:no (en)|empty:squad2|agg:mean"}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """F1 (0-1) of every row, from `outputs` and `references`: column -> float64 [rows]."""
        pairs = zip(answers.outputs, answers.references, strict=True)
        return {"f1": np.array([_f1(_bag(output), _bag(reference)) for output, reference in pairs])}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Mean F1 x 100 of corpora of `n` rows whose F1 sum to `sums` (arrays of one shape)."""
        return {"token_f1": 100.0 * sums["f1"] / n}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """F1 x 100 of each row."""
        return self.aggregate(statistics, np.float64(1))


def _bag(text: str) -> Counter[str]:
    words = Counter(WORD.findall(unicodedata.normalize("NFC", text.lower().translate(_NO_PUNCTUATION))))
    for article in ARTICLES:
        words.pop(article, None)
    return words


def _f1(first: Counter[str], second: Counter[str]) -> float:
    sizes = first.total() + second.total()
    return 2 * sum((first & second).values()) / sizes if sizes else 1.0
