"""Which test rows a reader sees: those where tuning won most, those where it lost most, and some drawn by seed.

Rows picked only for their success prove nothing, so each kind is labelled as what it is. A row's answer is measured
by ROUGE-L where the scores hold it, else by the mean loss of its reference (nats per token).
"""

from __future__ import annotations

import math
import random
from typing import Any

import pyarrow as pa

ANSWER_MEASURE = "rouge_rougeL"  # F of each row, 0 to 1
TIE = 1e-9


def choose(
    answers: dict[str, pa.Table], scores: dict[str, pa.Table], count: int, seed: int
) -> tuple[str, list[dict[str, Any]]]:
    """At most `count` samples, each with the texts of base and tuned, and the name of the measure that ranked them.

    `answers` and `scores` hold the tables of base and tuned. A row that only one of them answered is left out.
    """
    texts = {who: {row["row_id"]: row for row in table.to_pylist()} for who, table in answers.items()}
    shared = sorted(set(texts["base"]) & set(texts["tuned"]))
    name, values = _measure(scores, shared)
    gains = {row: values["tuned"][row] - values["base"][row] for row in shared if _both(values, row)}
    labels = _labels(scores["tuned"])
    return name, [
        {
            "kind": kind,
            "row_id": row,
            "label": labels.get(row),
            "prompt": texts["base"][row]["prompt"],
            "reference": texts["base"][row]["reference"],
            **{who: texts[who][row] for who in ("base", "tuned")},
            **{f"{who}_value": values[who].get(row) for who in ("base", "tuned")},
        }
        for kind, row in _picked(shared, gains, name, count, seed)
    ]


def _picked(shared: list[str], gains: dict[str, float], name: str, count: int, seed: int) -> list[tuple[str, str]]:
    """(kind, row_id): a third each, the random ones drawn among the rest; what is lacking is made up at random."""
    sign = -1 if name == "loss" else 1
    ranked = sorted(gains, key=lambda row: (-sign * gains[row], row))
    most = -(-count // 3)
    won = [row for row in ranked[:most] if sign * gains[row] > TIE]
    lost = [row for row in ranked[::-1][: min(most, count - len(won))] if sign * gains[row] < -TIE and row not in won]
    rest = [row for row in shared if row not in {*won, *lost}]
    drawn = random.Random(seed).sample(rest, min(len(rest), count - len(won) - len(lost)))
    return [*(("won", row) for row in won), *(("lost", row) for row in lost), *(("random", row) for row in drawn)]


def _measure(scores: dict[str, pa.Table], rows: list[str]) -> tuple[str, dict[str, dict[str, float | None]]]:
    """The measure of an answer and its value by row, for base and tuned."""
    wanted = set(rows)
    if all(ANSWER_MEASURE in table.column_names for table in scores.values()):
        values = {who: _column(table, ANSWER_MEASURE, wanted) for who, table in scores.items()}
        if any(value for by_row in values.values() for value in by_row.values()):
            return "ROUGE-L", {
                who: {row: None if value is None else 100 * value for row, value in by_row.items()}
                for who, by_row in values.items()
            }
    losses = {}
    for who, table in scores.items():
        sums, counts = _column(table, "nll", wanted), _column(table, "n_tokens", wanted)
        losses[who] = {row: nll / counts[row] if nll is not None and counts[row] else None for row, nll in sums.items()}
    return "loss", losses


def _column(table: pa.Table, name: str, wanted: set[str]) -> dict[str, float | None]:
    pairs = zip(table["row_id"].to_pylist(), table[name].to_pylist(), strict=True)
    return {row: value for row, value in pairs if row in wanted}


def _both(values: dict[str, dict[str, float | None]], row: str) -> bool:
    found = [values[who].get(row) for who in ("base", "tuned")]
    return all(value is not None and math.isfinite(value) for value in found)


def _labels(table: pa.Table) -> dict[str, str | None]:
    if "label" not in table.column_names:
        return {}
    return dict(zip(table["row_id"].to_pylist(), table["label"].to_pylist(), strict=True))
