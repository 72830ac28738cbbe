"""Rows of tokens to batches: the plan of a training, the rows that it names, and the tensors of a batch.

A sequence ("block") holds one row or several; each row in it is a document that starts at position 0, and its first
token is never a target, so that rows are isolated in attention, in positions and in the loss. Packed and padded batches
therefore give the same loss.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from snaketune.model.lm import IGNORED
from snaketune.tokens.ragged import offsets_of


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch lie in its flattened [B*T] tokens."""

    lengths: tuple[int, ...]  # sum: B*T; the padding tail of a sequence is a document too
    starts: torch.Tensor  # [D + 1] int32: where each begins, and B*T; of a static batch as often as its size asks for
    longest: int  # no document is longer; constant for a static batch


@dataclass(frozen=True)
class Batch:
    """B sequences of T tokens, and the n tokens in them that are trained."""

    input_ids: torch.Tensor  # [B, T] int64
    position_ids: torch.Tensor  # [B, T] int64; each document restarts at 0, and a padding token stands at 0
    documents: Documents
    places: torch.Tensor  # [n] int64, ascending: places in the flattened [B*T] whose next token is trained
    targets: torch.Tensor  # [n] int64: the trained tokens themselves

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which a GPU copies it while it computes."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        documents = Documents(self.documents.lengths, moved(self.documents.starts), self.documents.longest)
        ids, positions, places, targets = map(moved, (self.input_ids, self.position_ids, self.places, self.targets))
        return Batch(ids, positions, documents, places, targets)

    def labels(self) -> torch.Tensor:
        """What is trained at its own place, as `lm.token_losses` takes it: [B, T] int64, IGNORED elsewhere."""
        labels = torch.full_like(self.input_ids, IGNORED)
        labels.view(-1)[self.places + 1] = self.targets
        return labels


def collate(
    blocks: Sequence[Sequence[int]],
    rows: Sequence[np.ndarray] | Rows,
    prompt_lengths: Sequence[int] | np.ndarray,
    loss_on: str,
    pad: int,
    layout: Literal["flat", "rows"],
    width: int | None = None,
    *,
    longest: int | None = None,
    most_documents: int | None = None,
) -> Batch:
    """The tensors of a batch of blocks, on the CPU.

    layout: `flat`, one sequence [1, T] of all documents end to end; or `rows`, [B, T], a block a row. T is what the
    blocks need, or `width`, which makes the batch static: its shapes do not depend on which rows it has, and `starts`
    repeats B*T up to `most_documents` + 1 entries (by default as many as there can be of two tokens or more).
    longest: documents have at most so many tokens; a padding tail is then cut into documents that have no more, so that
    attention over it costs no more either (by default T: the tail of a sequence is one document).

    Raises ValueError where the blocks do not fit a given size.
    """
    order = np.fromiter(chain.from_iterable(blocks), np.int64)
    parts = [rows[row] for row in order.tolist()]
    tokens = np.concatenate([np.zeros(0, np.int32), *parts])
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    ends = offsets_of(lengths)  # [d + 1]
    counts = np.array([len(order)] if layout == "flat" else list(map(len, blocks)), dtype=np.int64)  # [B]: documents
    borders = ends[offsets_of(counts)]  # [B + 1]
    used = np.diff(borders)  # the tokens of each sequence, [B]
    size = int(used.max(initial=0)) if width is None else width
    if used.max(initial=0) > size:
        raise ValueError(f"a sequence of {used.max()} tokens does not fit a width of {width}")
    # A token stands as far from its place in [B*T] as its sequence does.
    first = ends[:-1] + np.repeat(np.arange(len(used)) * size - borders[:-1], counts)  # [d]

    within = np.arange(len(tokens)) - np.repeat(ends[:-1], lengths)
    place = np.repeat(first, lengths) + within
    ids = np.full(len(used) * size, pad, dtype=np.int64)
    positions = np.zeros_like(ids)
    ids[place], positions[place] = tokens, within
    prompts = np.asarray(prompt_lengths)[order] if loss_on == "completion" else np.zeros_like(order)
    trained = within >= np.repeat(np.maximum(prompts, 1), lengths)
    shape = (len(used), size)
    return Batch(
        torch.from_numpy(ids.reshape(shape)),
        torch.from_numpy(positions.reshape(shape)),
        _documents(first, lengths, used, size, width is not None, longest, most_documents),
        torch.from_numpy(place[trained] - 1),
        torch.from_numpy(tokens[trained].astype(np.int64)),
    )


def _documents(
    first: np.ndarray,
    lengths: np.ndarray,
    used: np.ndarray,
    size: int,
    static: bool,
    longest: int | None,
    most: int | None,
) -> Documents:
    """The documents that begin at `first`, [d], and the padding tails of sequences of which `used`, [B], tokens are."""
    total = len(used) * size
    limit = size if longest is None else longest
    if lengths.max(initial=0) > limit:
        raise ValueError(f"a document of {lengths.max()} tokens is longer than {limit}")
    tails = [np.arange(row * size + count, (row + 1) * size, limit) for row, count in enumerate(used.tolist())]
    starts = np.sort(np.concatenate([first, *tails]))
    sizes = np.diff(starts, append=total)
    room = len(starts)
    if static:
        room = total // 2 + len(used) if most is None else most
        if len(starts) > room:
            raise ValueError(f"a batch of {len(starts)} documents does not fit one of {room}")
    bounds = np.full(room + 1, total, dtype=np.int32)
    bounds[: len(starts)] = starts
    return Documents(tuple(sizes.tolist()), torch.from_numpy(bounds), limit if static else int(sizes.max(initial=0)))


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


class Plan:
    """The plan of a training, as plan.py wrote it: which rows stand in which blocks of which step.

    The file is mapped into memory, and a step is looked up by bisection: plans of any length open at once.
    """

    def __init__(self, path: str | Path) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        about = json.loads(file.schema.metadata[b"plan"])
        self.steps: int = about["steps"]
        self._rows: int = about["rows"]
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        # Each batch is of one split, and no step lies in two batches.
        self._train = [batch for batch in batches if batch["split"][0].as_py() == "train"]
        self._held = [batch for batch in batches if batch["split"][0].as_py() == "validation"]
        self._first_steps = [batch["step"][0].as_py() for batch in self._train]
        self._before = offsets_of(np.array([batch.num_rows for batch in self._train], dtype=np.int64))

    def blocks(self, step: int) -> list[list[int]]:
        """The row numbers of a step's blocks; the first step is 1. Raises IndexError where the plan has no such one."""
        batch, start, end = self._find(step)
        return _blocks(self._train[batch], start, end)

    @property
    def validation(self) -> list[list[int]]:
        """The row numbers of all blocks of the validation split, in order."""
        return [block for batch in self._held for block in _blocks(batch, 0, batch.num_rows)]

    def epoch(self, step: int) -> float:
        """How often the rows of the split were seen, on average, when a step is done; 0.0 before the first."""
        if not step:
            return 0.0
        batch, _, end = self._find(step)
        return (int(self._before[batch]) + end) / self._rows

    def _find(self, step: int) -> tuple[int, int, int]:
        """The batch that a step lies in, and its first line there, and the one after its last."""
        if not 1 <= step <= self.steps:
            raise IndexError(f"the plan has the steps 1 to {self.steps}, and no step {step}")
        batch = bisect_right(self._first_steps, step) - 1
        column = self._train[batch]["step"].to_numpy()
        # Of the column's own type: numpy would make a copy of the whole column for another.
        start, end = np.searchsorted(column, np.array([step, step + 1], dtype=column.dtype)).tolist()
        return batch, start, end


def _blocks(batch: pa.RecordBatch, start: int, end: int) -> list[list[int]]:
    rows, numbers = (batch[name].to_numpy()[start:end] for name in ("row", "block"))
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
    listed = rows.tolist()
    return [listed[one:other] for one, other in pairwise(cuts)]
