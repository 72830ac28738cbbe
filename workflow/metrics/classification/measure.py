"""Classification by text: which class an answer names, against the class that is right.

An answer names the class that it equals or begins with, the longest first, where no letter or digit follows:
`Positive.` and `positive, because ...` name `positive`; `positively` names none. Case and runs of white space do not
count, nor does punctuation around the answer. An answer that names no class is unrecognized: it is wrong, and lowers
the recall of its class and no precision.

The statistics are the cells of the confusion matrix: column `<right>_<named>`, by the classes' numbers, the number
after the last for unrecognized. Cells that no row falls in are left out, and count as 0.

- `accuracy`: rows whose class is named, for each 100.
- `precision_micro`, `recall_micro`, `f1_micro`: over all rows together. Recall is the accuracy; precision leaves the
  unrecognized answers out.
- `precision_macro`, `recall_macro`, `f1_macro`: the means over the classes that are right somewhere, as in scikit-learn
  with `labels` and `zero_division=0`.
- `unrecognized`: answers that name no class, for each 100.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
import regex

MOST = 100
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]$")
# After the name of a class stands no letter or digit; but a script without spaces has no such border.
_BORDER = r"(?![\p{L}\p{M}\p{N}_]|[.,]\p{N})"


class Measure:
    """Accuracy, precision, recall and F1 of `classes`; those are found by `find_classes` where they are not known."""

    METRICS = (
        "accuracy",
        *(f"{name}_{mean}" for mean in ("micro", "macro") for name in ("precision", "recall", "f1")),
        "unrecognized",
    )
    HIGHER_IS_BETTER: ClassVar = dict.fromkeys(METRICS, True) | {"unrecognized": False}

    def __init__(self, classes: Sequence[str] | None) -> None:
        """Raises ValueError where there are no classes, more than MOST, or two that differ in case or space alone."""
        self.classes = list(classes or ())
        self._numbers = {plain(label): number for number, label in enumerate(self.classes)}
        if not 1 <= len(self.classes) <= MOST:
            raise ValueError(f"there are {len(self.classes)} classes, and may be 1 to {MOST}")
        if len(self._numbers) < len(self.classes) or "" in self._numbers:
            raise ValueError(f"classes are told apart by more than case and space, and are not empty: {self.classes}")
        bare: dict[str, list[int]] = {}
        for label, number in self._numbers.items():
            bare.setdefault(_bare(label), []).append(number)
        # `(a)` is also named by `a`, unless two classes are the same without punctuation, as -1 and 1 are
        also = {label: of[0] for label, of in bare.items() if label and len(of) == 1}
        self._named = also | self._numbers
        longest = sorted(self._named, key=lambda label: (-len(label), label))
        self._begins = regex.compile(
            "|".join(regex.escape(label) + ("" if _UNSPACED.search(label) else _BORDER) for label in longest)
        )

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number; the classes by their number and a hash."""
        names = sha256("\n".join(self.classes).encode("utf-8", "surrogatepass")).hexdigest()[:8]
        line = (
            f"classes:{len(self.classes)}|names:{names}|named:equals or begins|case:no|space:collapsed|punct:around no"
        )
        return dict.fromkeys(self.METRICS, line)

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """The cell of every row, from `outputs` and its gold: column -> float64 [rows], 1 in one column of a row.

        The gold is that of `labels` where any row has one, else that of `references`. A row without a gold, or with an
        empty one, is 0 everywhere. Raises ValueError for a gold that is no class.
        """
        right = np.array([self._number(gold) for gold in golds(answers)])  # [rows]; -1: none
        named = np.array([self.named(output) for output in answers.outputs])
        columns = {}
        wide = len(self.classes) + 1
        for cell in np.unique((right * wide + named)[right >= 0]):
            place = divmod(int(cell), wide)
            columns["{}_{}".format(*place)] = ((right == place[0]) & (named == place[1])).astype(np.float64)
        return columns or {"0_0": np.zeros(len(right))}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora whose cells sum to `sums` (arrays of one shape), whatever the rows `n`."""
        right, named, hits, lost = self.counts(sums)
        by_class = self.by_class(sums)
        total, hit = right.sum(axis=0), hits.sum(axis=0)
        there = (right > 0).sum(axis=0)  # a class that is never right has 0 of everything
        macro = {f"{name}_macro": _ratio(values.sum(axis=0), there) for name, values in by_class.items()}
        micro = {
            "accuracy": 100.0 * _ratio(hit, total),
            "precision_micro": 100.0 * _ratio(hit, named.sum(axis=0)),
            "recall_micro": 100.0 * _ratio(hit, total),
            "f1_micro": 100.0 * _ratio(2 * hit, total + named.sum(axis=0)),
        }
        return micro | macro | {"unrecognized": 100.0 * _ratio(lost.sum(axis=0), total)}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Accuracy of each row, 100 or 0, and whether it is unrecognized; the others are of a corpus."""
        scores = self.aggregate(statistics, np.float64(1))
        return {name: scores[name] for name in ("accuracy", "unrecognized")}

    def counts(self, sums: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """By class, the rows where it is right, is named, both, and is right but none is named: [classes, ...]."""
        shape = np.shape(next(iter(sums.values())))
        right, named, hits, lost = np.zeros((4, len(self.classes), *shape))
        for name, values in sums.items():
            gold, answer = map(int, name.split("_"))
            right[gold] += values
            if answer == len(self.classes):
                lost[gold] += values
            else:
                named[answer] += values
                hits[gold] += values * (gold == answer)
        return right, named, hits, lost

    def by_class(self, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Precision, recall and F1 (0-100) of each class: name -> [classes, ...]; 0 where nothing is to divide."""
        right, named, hits, _ = self.counts(sums)
        return {
            "precision": 100.0 * _ratio(hits, named),
            "recall": 100.0 * _ratio(hits, right),
            "f1": 100.0 * _ratio(2 * hits, right + named),
        }

    def named(self, output: str) -> int:
        """The number of the class that an answer names; the number of classes where it names none."""
        whole = plain(output)
        for text in (whole, _bare(whole)):
            if text in self._named:
                return self._named[text]
            if begins := self._begins.match(text):
                return self._named[begins[0]]
        return len(self.classes)

    def _number(self, gold: str | None) -> int:
        if gold is None or not plain(gold):
            return -1
        if (number := self._numbers.get(plain(gold))) is None:
            raise ValueError(f"{gold[:80]!r} is the right class of a row, but none of the classes: {self.classes}")
        return number


def golds(answers: Any) -> Sequence[str | None]:
    """What is right by row: `labels` where any row has one, else `references`."""
    labels = answers.labels
    return labels if any(label is not None for label in labels) else answers.references


def find_classes(answers: Any) -> list[str]:
    """The distinct golds, sorted, one of those that differ in case or space alone. Raises ValueError for over MOST."""
    classes = {}
    for gold in sorted({" ".join(gold.split()) for gold in golds(answers) if gold is not None and plain(gold)}):
        classes.setdefault(plain(gold), gold)
    if len(classes) > MOST:
        raise ValueError(f"there are {len(classes):,} different classes, and may be {MOST}: are these classes?")
    return list(classes.values())


def plain(text: str) -> str:
    """A text as classes are compared: case folded, each run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _bare(text: str) -> str:
    """A text without punctuation around it."""
    start, stop = 0, len(text)
    while start < stop and (text[start] == " " or unicodedata.category(text[start])[0] == "P"):
        start += 1
    while start < stop and (text[stop - 1] == " " or unicodedata.category(text[stop - 1])[0] == "P"):
        stop -= 1
    return text[start:stop]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part of a whole; 0 where the whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
