"""Rows of tokens to batches: which rows share a sequence, and the tensors of a batch.

A sequence ("block") holds one row or several; each row in it starts at position 0, and its first token is never a
target, so that rows are isolated in attention, in positions and in the loss. Packed and padded batches therefore give
the same loss. Packing is best-fit decreasing: on prompt/completion rows it fills about 97 % of a block.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from snaketune.job import StageError
from snaketune.model.lm import IGNORED


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers by block: best-fit decreasing, so that no block exceeds `size` tokens. Deterministic.

    At most `size` different rooms are ever open, and they are kept in order: a million rows take seconds. Raises
    StageError for a row that is longer than a block.
    """
    space: dict[int, list[list[int]]] = defaultdict(list)  # blocks by the room that is left in them
    rooms: list[int] = []  # the keys of `space`, ascending
    blocks: list[list[int]] = []
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for row in order.tolist():
        length = int(lengths[row])
        if length > size:
            raise StageError(f"row {row} has {length} tokens, and a block holds {size}; see `tokenize.max_length`")
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room = size
            block: list[int] = []
            blocks.append(block)
        else:
            room = rooms[place]
            block = space[room].pop()
            if not space[room]:
                del rooms[place]
        block.append(row)
        left = room - length
        if left > 0:
            if not space[left]:
                insort(rooms, left)
            space[left].append(block)
    return blocks


def group_by_length(lengths: Sequence[int], size: int) -> list[list[list[int]]]:
    """Batches of `size` rows of like length, each row a block of its own."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    return [[[row] for row in order[start : start + size]] for start in range(0, len(order), size)]


def collate(
    blocks: list[list[int]], rows: Sequence[np.ndarray], prompt_lengths: Sequence[int], loss_on: str, pad: int
) -> dict[str, torch.Tensor]:
    """The tensors of a batch of B blocks: input_ids, position_ids, labels, each [B, T] int64.

    A padding token stands at position 0 and has no label: it is a document of its own that nothing looks at.
    """
    width = max(sum(len(rows[row]) for row in block) for block in blocks)
    ids = np.full((len(blocks), width), pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    labels = np.full_like(ids, IGNORED)
    for number, block in enumerate(blocks):
        start = 0
        for row in block:
            tokens = rows[row]
            end = start + len(tokens)
            ids[number, start:end] = tokens
            positions[number, start:end] = np.arange(len(tokens))
            learnt = max(1, prompt_lengths[row]) if loss_on == "completion" else 1
            labels[number, start + learnt : end] = tokens[learnt:]
            start = end
    arrays = {"input_ids": ids, "position_ids": positions, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Rows:
    """The rows of a token data set, read from the memory-mapped Arrow file as they are asked for."""

    def __init__(self, folder: str) -> None:
        from datasets import load_from_disk

        self._data = load_from_disk(folder)
        self._ids = self._data.data.column("input_ids")
        self.prompt_lengths = self._data.data.column("prompt_len").to_numpy()
        self.row_ids: list[str] = self._data.data.column("row_id").to_pylist()
        self.lengths = np.concatenate(
            [np.diff(chunk.offsets.to_numpy()) for chunk in self._ids.chunks] or [np.zeros(0, np.int64)]
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """The token ids of a row, [length] int32."""
        return self._ids[row].values.to_numpy()
