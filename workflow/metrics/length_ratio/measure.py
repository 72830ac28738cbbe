"""Length ratio: the words of all answers over the words of all references; 1 is as long, 2 is twice as long.

Neither way is better by itself. Where the references have no word, the ratio is 0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Measure:
    """Words of the answers for each word of the references."""

    METRICS = ("length_ratio",)
    HIGHER_IS_BETTER: ClassVar = {"length_ratio": None}

    def signature(self) -> dict[str, str]:
        """What another person must set to get the same number."""
        return {"length_ratio": "words of answers/words of references|tok:unicode-words|agg:ratio of sums"}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """The words of every row's answer and reference, from `outputs` and `references`: column -> float64 [rows]."""
        rows = len(answers.outputs)
        texts = {"words": answers.outputs, "reference_words": answers.references}
        return {name: np.bincount(_words(part)[1], minlength=rows).astype(np.float64) for name, part in texts.items()}

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """Ratio in corpora whose words sum to `sums` (arrays of one shape); it does not depend on the rows `n`."""
        words, wanted = (np.asarray(sums[name], dtype=np.float64) for name in ("words", "reference_words"))
        return {"length_ratio": np.divide(words, wanted, out=np.zeros_like(words), where=wanted > 0)}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The ratio of each row for itself."""
        return self.aggregate(statistics, np.float64(1))


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
