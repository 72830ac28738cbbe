"""What an answer has taken over word for word: from its prompt, and from the texts that were trained on.

- `prompt_overlap`: the answer's runs of 4 words that stand in its own prompt, for each 100 that there are.
- `train_overlap`: the answer's runs of `ngram` words (8) that stand in any completion of the training split. Much of it
  is memorised text; some of it is what everybody says.

Neither way is better by itself: an extract copies. Sums over the rows are divided once, so that a long answer counts
for more than a short one. Answers of fewer words have no run, and count for nothing.

The runs of all answers are numbered, level by level: words, then pairs of a run and the word after it. Texts that were
trained on are read in batches and walk the same levels, so that equal numbers are equal words. Before that, a hash of
each run is looked up in a table of bits, where all but a few are left behind. Memory is bounded by the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PROMPT_GRAM = 4
ROWS_AT_ONCE = 1024
SIEVE_BITS = 24  # 16 MB; with a million runs, 6 % of the others pass
ODD = np.uint64(0x9E3779B97F4A7C15)


class Measure:
    """Overlap with the prompt and with the training split; `ngram`: words of a run, for the latter."""

    METRICS = ("prompt_overlap", "train_overlap")
    HIGHER_IS_BETTER: ClassVar = dict.fromkeys(METRICS)

    def __init__(self, ngram: int = 8) -> None:
        self.ngram = ngram

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        line = "tok:unicode-words|case:lc|agg:ratio of sums"
        return {
            "prompt_overlap": f"{PROMPT_GRAM}-grams of the answer in its prompt|{line}",
            "train_overlap": f"{self.ngram}-grams of the answer in completions of the training split|{line}",
        }

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """Runs of every row, and those found, from `outputs`, `prompts` and `train`: column -> float64 [rows].

        train: Parquet files with a column `completion`. Raises ValueError where there is none.
        """
        if not answers.train:
            raise ValueError("train_overlap needs the files of the training split, and there is none")
        rows = len(answers.outputs)
        words, of = _words(answers.outputs)
        short, long = Grams(words, of, PROMPT_GRAM), Grams(words, of, self.ngram)
        asked, by = short.found(*_words(answers.prompts))
        in_prompt = np.isin(short.of * short.count + short.numbers, by * short.count + asked)
        trained = np.zeros(long.count, dtype=bool)
        for texts in _completions(answers.train):
            trained[long.found(*_words(texts))[0]] = True
        marked = {"prompt": (short, in_prompt), "train": (long, trained[long.numbers])}
        columns = {}
        for name, (grams, found) in marked.items():
            columns[f"{name}_total"] = np.bincount(grams.of, minlength=rows).astype(np.float64)
            columns[f"{name}_found"] = np.bincount(grams.of, weights=found, minlength=rows).astype(np.float64)
        return columns

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Shares x 100 in corpora whose runs sum to `sums` (arrays of one shape); they do not depend on `n`."""
        scores = {}
        for name in ("prompt", "train"):
            found, total = (np.asarray(sums[f"{name}_{part}"], dtype=np.float64) for part in ("found", "total"))
            scores[f"{name}_overlap"] = 100.0 * np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return scores

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Shares x 100 of each row."""
        return self.aggregate(statistics, np.float64(1))


class Grams:
    """The word n-grams of some texts, numbered; finds them in other texts."""

    def __init__(self, words: pa.Array, of: np.ndarray, order: int) -> None:
        """words, of: as `_words` gives them."""
        encoded = words.dictionary_encode()
        self._vocabulary = encoded.dictionary
        self._order = order
        # For k = 1, 2, ...: sorted pairs (run of k words, word after it), whose places are the runs of k + 1 words.
        self._levels: list[np.ndarray] = []
        codes = encoded.indices.to_numpy().astype(np.int64)
        starts = _starts(of, order)
        numbers = codes[starts]
        for step in range(1, order):
            level, numbers = np.unique(numbers * len(self._vocabulary) + codes[starts + step], return_inverse=True)
            self._levels.append(level)
        self._sieve = np.zeros(1 << SIEVE_BITS, dtype=bool)
        self._sieve[_mixed(codes, order)[starts]] = True
        self.numbers, self.of = numbers.reshape(-1), of[starts]  # of each n-gram, and its text; int64 [n-grams]
        self.count = len(self._levels[-1]) if self._levels else len(self._vocabulary)

    def found(self, words: pa.Array, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of other texts that are among these: their numbers, and their texts; int64 [found]."""
        codes = pc.fill_null(pc.index_in(words, value_set=self._vocabulary), -1).to_numpy().astype(np.int64)
        starts = _starts(of, self._order)
        starts = starts[self._sieve[_mixed(codes, self._order)[starts]]]
        starts = starts[codes[starts] >= 0]
        numbers = codes[starts]
        for step, level in enumerate(self._levels, start=1):
            after = codes[starts + step]
            pairs = numbers * len(self._vocabulary) + after
            places = np.searchsorted(level, pairs)
            there = places < len(level)
            there[there] = level[places[there]] == pairs[there]
            held = there & (after >= 0)
            numbers, starts = places[held], starts[held]
        return numbers, of[starts]


def _starts(of: np.ndarray, order: int) -> np.ndarray:
    """Where runs of `order` words begin that stay within one text."""
    return np.flatnonzero(of[order - 1 :] == of[: max(0, len(of) - order + 1)])


def _mixed(codes: np.ndarray, order: int) -> np.ndarray:
    """A hash of SIEVE_BITS bits of each run of `order` words, those over the end of a text too: int64 [runs]."""
    runs = max(0, len(codes) - order + 1)
    hashed = np.zeros(runs, dtype=np.uint64)
    for step in range(order):
        hashed = (hashed + codes[step : step + runs].astype(np.uint64)) * ODD
        hashed ^= hashed >> np.uint64(29)
    return (hashed >> np.uint64(64 - SIEVE_BITS)).astype(np.int64)


def _completions(files: Sequence[str]) -> Iterator[pa.Array]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["completion"]):
                yield batch.column(0)


# What a byte of ASCII text becomes: letters and digits in lower case, all else a space.
_ASCII = bytes(
    byte if byte > 127 else ord(chr(byte).lower()) if chr(byte).isalnum() else ord(" ") for byte in range(256)
)


def _words(texts: Any) -> tuple[pa.Array, np.ndarray]:
    """The words of texts, one after the other, and the number of the text that each is of, int64 [words].

    A word is a run of letters, marks and digits of any script, in lower case; each Han or kana character is one.
    Texts of ASCII need no regular expression, and are read at 100 MB/s instead of 15.
    """
    column = pc.fill_null(pa.array(texts, pa.large_string()), "")
    other = pc.invert(pc.string_is_ascii(column))
    _, ends, data = column.buffers()
    plain = pa.py_buffer((data.to_pybytes() if data else b"").translate(_ASCII))
    spaced = pa.LargeStringArray.from_buffers(len(column), ends, plain, offset=column.offset)
    others = pc.utf8_lower(pc.utf8_normalize(column.filter(other), "NFC"))
    others = pc.replace_substring_regex(others, r"[^\p{L}\p{M}\p{N}]+", " ")
    others = pc.replace_substring_regex(others, r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 ")
    split = pc.split_pattern(pc.replace_with_mask(spaced, other, others), " ")
    words, rows = pc.list_flatten(split), pc.list_parent_indices(split)
    real = pc.not_equal(words, "")
    return words.filter(real), rows.filter(real).to_numpy()
