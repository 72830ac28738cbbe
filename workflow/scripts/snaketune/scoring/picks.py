"""Which test rows a reader sees: those where tuning won most, those where it lost most, and some drawn by seed.

Rows picked only for their success prove nothing, so each kind is labelled as what it is. A row's answer is measured
by ROUGE-L where the scores hold it, else by the mean loss of its reference (nats per token).
"""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa

ANSWER_MEASURE = "rouge_rougeL"  # F of each row, 0 to 1
TIE = 1e-9


def measured(base: pa.Table, tuned: pa.Table) -> tuple[str, np.ndarray, np.ndarray]:
    """The measure of an answer, "ROUGE-L" (0-100) or "loss", and its value by row for base and tuned, [rows] float64.

    base, tuned: the same rows of `scores`. nan where a row has no value.
    """
    if all(ANSWER_MEASURE in table.column_names for table in (base, tuned)):
        found = [100 * _column(table, ANSWER_MEASURE) for table in (base, tuned)]
        if any(np.nan_to_num(values).any() for values in found):
            return "ROUGE-L", *found
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [_column(table, "nll") / _column(table, "n_tokens") for table in (base, tuned)]
    return "loss", *found


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)


def pick(row_ids: list[str], gains: np.ndarray, count: int, seed: int) -> list[tuple[str, int]]:
    """At most `count` pairs of kind (won, lost, random) and place: a third each, what is lacking made up at random.

    gains: [rows], how much better the tuned model is; what is no finite number can only be drawn at random.
    """
    known = np.flatnonzero(np.isfinite(gains)).tolist()
    best, worst = (sorted(known, key=lambda row: (sign * gains[row], row_ids[row])) for sign in (-1, 1))
    most = -(-count // 3)
    won = [row for row in best[:most] if gains[row] > TIE]
    lost = [row for row in worst[: min(most, count - len(won))] if gains[row] < -TIE]
    rest = sorted(set(range(len(row_ids))) - {*won, *lost}, key=row_ids.__getitem__)
    drawn = random.Random(seed).sample(rest, min(len(rest), count - len(won) - len(lost)))
    return [*(("won", row) for row in won), *(("lost", row) for row in lost), *(("random", row) for row in drawn)]
