"""Rows of token ids: how they are made to fit the model, and the Arrow table that `datasets` maps into memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.tokens.ragged import Ragged, offsets_of, slices

_VALUE = {name: {"dtype": name, "_type": "Value"} for name in ("int32", "string")}
FEATURES: dict[str, Any] = {
    "input_ids": {"feature": _VALUE["int32"], "_type": "List"},
    "prompt_len": _VALUE["int32"],
    "row_id": _VALUE["string"],
}
# What `datasets` 5 reads in the head of an Arrow stream.
TOKENS = pa.schema(
    [("input_ids", pa.list_(pa.int32())), ("prompt_len", pa.int32()), ("row_id", pa.string())],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
RULES = ("", "no_trainable_token", "overlong", "truncated")  # what was done to a row, by number
NOTHING, UNTRAINABLE, OVERLONG, TRUNCATED = range(4)


@dataclass(frozen=True)
class Fitted:
    """Which tokens of which rows stay. All but `rule` are [m] int64, one for each row that comes out."""

    row: np.ndarray  # the row that it is made of
    head_start: np.ndarray
    head_length: np.ndarray
    tail_start: np.ndarray
    tail_length: np.ndarray
    rule: np.ndarray  # [n] int8: what was done to each row that went in, as a place in RULES


def fit(heads: np.ndarray, tails: np.ndarray, length: int, settings: dict[str, Any]) -> Fitted:
    """Make rows fit `length` tokens; heads, tails: [n] int64, the tokens of the prompt, and of the rest with its end.

    A pair loses the head of its prompt, never its completion; a completion that leaves no room is dropped. Chunks of
    plain text lose nothing: where the last would be one token, with nothing to learn, it takes the one before along.
    """
    pair = heads > 0
    over = heads + tails > length
    drops = np.where(pair, settings["overlong_pairs"] == "drop", settings["overlong_text"] == "drop")
    lost = over & (drops | (pair & (tails >= length)))
    cut = over & ~lost & (pair | (settings["overlong_text"] == "truncate"))
    empty = (tails == 0) | (heads + tails < 2)
    rule = np.select([empty, lost, cut], [UNTRAINABLE, OVERLONG, TRUNCATED], NOTHING).astype(np.int8)

    parts = np.where(over & ~cut, -(-tails // length), 1) * ~(empty | lost)  # [n]: the rows that each gives
    row = np.repeat(np.arange(len(heads)), parts)
    number = np.arange(len(row)) - np.repeat(offsets_of(parts)[:-1], parts)  # of the chunk in its text

    def border(place: np.ndarray) -> np.ndarray:
        """Where a chunk begins, and the one before it ends."""
        last = (place * length == tails[row] - 1) & (parts[row] > 1)
        return np.minimum(place * length, tails[row]) - last

    start = border(number)
    head_length = np.where(cut & pair, length - tails, heads)[row]
    return Fitted(row, heads[row] - head_length, head_length, start, border(number + 1) - start, rule)


def fitted_batch(heads: Ragged, tails: Ragged, fitted: Fitted, row_ids: pa.Array) -> pa.RecordBatch:
    """The rows that come out, as a batch of TOKENS."""
    starts = np.empty((len(fitted.row), 2), np.int64)
    starts[:, 0] = heads.offsets[fitted.row] + fitted.head_start
    starts[:, 1] = tails.offsets[fitted.row] + fitted.tail_start + len(heads.values)
    lengths = np.stack([fitted.head_length, fitted.tail_length], axis=1)
    values = np.concatenate([heads.values, tails.values])
    if len(heads.values) or lengths.sum() != len(values):  # else the plain texts stand there already, end to end
        values = slices(values, starts.ravel(), lengths.ravel())
    offsets = offsets_of(lengths.sum(axis=1)).astype(np.int32)
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        pa.array(fitted.head_length, pa.int32()),
        row_ids.take(pa.array(fitted.row)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TOKENS)
