"""How varied the answers are: distinct n-grams (Li et al. 2016), self-BLEU (Zhu et al. 2018), repetition.

- `distinct_1`, `distinct_2`: different words, and pairs of words, in all answers together, for each 100 that there are.
  They fall with the length of the corpus, so compare them at equal lengths only. A row's share of an n-gram is 1 over
  how often the n-gram comes up in all answers: so the shares sum to the number of different n-grams, exactly. In a
  resampled corpus they sum to an approximation of it, because an n-gram's count is not taken anew; intervals are
  approximate in the same way.
- `self_bleu`: the mean of the answers' BLEU (0-100) with other answers as references: 100 where all answers are equal.
  It is taken of ROWS answers against OTHERS others, which a hash of prompt and reference picks, so that two models are
  measured on the same rows; and of the first WORDS words of each.
- `repetition`: 4-grams that stand before in the same answer, for each 100 that there are. A model that is caught in a
  loop comes near 100.

Where there is no n-gram, or no other answer, the score is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sacrebleu.metrics import BLEU

ROWS, OTHERS, WORDS = 200, 50, 256
RATIOS = {
    "distinct_1": ("types_1", "total_1"),
    "distinct_2": ("types_2", "total_2"),
    "self_bleu": ("self_bleu", "sampled"),
    "repetition": ("repeated", "total_4"),
}


class Measure:
    """Distinct-1, distinct-2, self-BLEU and repetition of the answers; `seed` chooses the rows of self-BLEU."""

    METRICS = tuple(RATIOS)
    HIGHER_IS_BETTER: ClassVar = {"distinct_1": None, "distinct_2": None, "self_bleu": None, "repetition": False}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._bleu = BLEU(tokenize="none", effective_order=True)

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        words = "tok:unicode-words|case:lc"
        sample = f"rows:{ROWS}|others:{OTHERS}|words:first {WORDS}|seed:{self.seed}|agg:mean"
        return {
            "distinct_1": f"types/tokens|{words}|interval:approximate",
            "distinct_2": f"types/tokens of 2-grams|{words}|interval:approximate",
            "self_bleu": f"sentence bleu|{words}|eff:yes|smooth:exp|{sample}",
            "repetition": f"4-grams that stand before in the answer/4-grams|{words}|agg:ratio of sums",
        }

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """Counts of every row, from `outputs`; `prompts` and `references` pick a sample. Column -> float64 [rows]."""
        rows = len(answers.outputs)
        words, of = _words(answers.outputs)
        codes = words.dictionary_encode().indices.to_numpy().astype(np.int64)
        columns = {}
        for order in (1, 2, 4):
            grams, at = _grams(codes, of, order)
            columns[f"total_{order}"] = np.bincount(at, minlength=rows).astype(np.float64)
            if order == 4:
                first = np.unique(at * (grams.max(initial=0) + 1) + grams, return_index=True)[1]
                columns["repeated"] = columns["total_4"] - np.bincount(at[first], minlength=rows)
            else:
                share = 1.0 / np.bincount(grams)[grams]
                columns[f"types_{order}"] = np.bincount(at, weights=share, minlength=rows).astype(np.float64)
        return columns | self._against_each_other(answers, words, of)

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora whose statistics sum to `sums` (arrays of one shape), whatever the rows `n`."""
        scores = {}
        for metric, (part, whole) in RATIOS.items():
            parts, wholes = (np.asarray(sums[name], dtype=np.float64) for name in (part, whole))
            percent = 1.0 if metric == "self_bleu" else 100.0  # BLEU is of 100 already
            scores[metric] = percent * np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
        return scores

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Repetition of each row; the others are properties of a corpus."""
        return {"repetition": self.aggregate(statistics, np.float64(1))["repetition"]}

    def _against_each_other(self, answers: Any, words: pa.Array, of: np.ndarray) -> dict[str, np.ndarray]:
        """BLEU of the sampled rows against other rows, and 1 for each of them; 0 elsewhere."""
        rows = len(answers.outputs)
        bleu, sampled = np.zeros(rows), np.zeros(rows)
        order = _drawn(answers.prompts, answers.references, self.seed)
        begins = np.searchsorted(of, np.arange(rows + 1))
        texts = {
            row: " ".join(words[begins[row] : min(begins[row] + WORDS, begins[row + 1])].to_pylist())
            for row in order[: max(ROWS, OTHERS + 1)]
        }
        known: dict[tuple[int, ...], dict] = {}  # nearly all rows have the same others
        for row in order[:ROWS] if rows > 1 else []:
            others = tuple(other for other in order[: OTHERS + 1] if other != row)[:OTHERS]
            if others not in known:
                known[others] = self._bleu._extract_reference_info([texts[other] for other in others])
            counts = self._bleu._compute_segment_statistics(texts[row], known[others])
            bleu[row], sampled[row] = self._bleu._compute_score_from_stats(counts).score, 1.0
        return {"self_bleu": bleu, "sampled": sampled}


def _drawn(prompts: Sequence[str], references: Sequence[str], seed: int) -> list[int]:
    """The rows in an order that depends on what was asked, and neither on the answers nor on the rows' order."""
    keys = [
        blake2b(
            f"{prompt}\0{reference}".encode("utf-8", "surrogatepass"), digest_size=8, salt=seed.to_bytes(8)
        ).digest()
        for prompt, reference in zip(prompts, references, strict=True)
    ]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _grams(codes: np.ndarray, of: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of texts as numbers 0, 1, ..., equal where the words are, and the text of each; int64 [n-grams]."""
    starts = np.flatnonzero(of[order - 1 :] == of[: max(0, len(of) - order + 1)])
    grams = codes[starts]
    for step in range(1, order):
        pairs = grams * (codes.max(initial=0) + 1) + codes[starts + step]
        grams = np.unique(pairs, return_inverse=True)[1].reshape(-1)
    return grams, of[starts]


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
