"""Which rows share a sequence, which sequences share a step, and in which order an epoch meets them.

A block is a list of rows that stand in one sequence. Packing depends on lengths alone and is done once: best-fit
decreasing, which fills over 99 % of the blocks of a large split. What an epoch changes is who sits where: rows of equal
length are dealt anew among their places, so blocks differ from epoch to epoch and stay as full as they were, and then
the blocks are shuffled. Packing a million rows takes a second or two, and dealing them anew a fifth of one.
The price: a row whose length no other row has keeps its place, and its neighbours' lengths are always the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from snaketune.job import StageError
from snaketune.tokens.ragged import Ragged, offsets_of

Batching = Literal["packed", "length_grouped", "padded"]


def trained_tokens(lengths: np.ndarray, prompt_lengths: np.ndarray, loss_on: str) -> np.ndarray:
    """The tokens of each row that have a loss, [n]: those of the completion, or all; never a row's first."""
    return lengths - (np.maximum(prompt_lengths, 1) if loss_on == "completion" else 1)


def pack(lengths: Sequence[int] | np.ndarray, size: int) -> list[list[int]]:
    """Row numbers by block: best-fit decreasing, so that no block exceeds `size` tokens. Deterministic.

    At most `size` different rooms are ever open, and they are kept in order: a million rows take a second. Raises
    StageError for a row that is longer than a block.
    """
    order = _falling(np.asarray(lengths, dtype=np.int64))
    places = _places(np.asarray(lengths, dtype=np.int64), order, size)
    rows, cuts = order[places.values].tolist(), places.offsets.tolist()
    return [rows[start:end] for start, end in pairwise(cuts)]


def group_by_length(lengths: Sequence[int] | np.ndarray, size: int) -> list[list[list[int]]]:
    """Steps of `size` rows of like length, the longest first, each row a block of its own."""
    order = _falling(np.asarray(lengths, dtype=np.int64)).tolist()
    return [[[row] for row in order[start : start + size]] for start in range(0, len(order), size)]


class Schedule:
    """The order in which the rows of a split are trained, epoch by epoch; each epoch has every row exactly once.

    A step is `batch_size` blocks; only the last of an epoch may be smaller. `packed`: a block is several rows, at most
    `width` tokens. `length_grouped`: a block is a row, and a step has rows of like length. `padded`: a block is a row,
    and the order is random. Raises StageError for a row that is longer than `width`, where rows are packed.
    """

    def __init__(self, lengths: np.ndarray, batching: Batching, batch_size: int, width: int, seed: int) -> None:
        """lengths: [n], the tokens of each row."""
        lengths = np.asarray(lengths, dtype=np.int64)
        longest = int(lengths.max(initial=0))
        # Small numbers: 16 bits are sorted by radix, six times as fast as 64.
        self._shortness = (longest - lengths).astype(np.min_scalar_type(longest))
        self._places = _places(lengths, _falling(lengths), width) if batching == "packed" else None
        self._batching, self._batch_size, self._seed = batching, batch_size, seed
        self.blocks = len(lengths) if self._places is None else len(self._places)  # in an epoch
        self.steps = -(-self.blocks // batch_size)  # in an epoch

    def epoch(self, number: int) -> Ragged:
        """The rows of epoch `number`, by block, in the order of training: block b belongs to step b // batch_size."""
        draw = np.random.default_rng([self._seed, number])
        order = draw.permutation(len(self._shortness)).astype(np.int32)
        if self._batching == "padded":
            return _single(order)
        order = order[np.argsort(self._shortness[order], kind="stable")]  # equal lengths stay in their random order
        if self._places is None:
            return _single(self._grouped(order, draw))
        places = self._places.take(draw.permutation(self.blocks))
        return Ragged(order[places.values], places.offsets)

    def _grouped(self, order: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Rows in the order of their lengths, [n], cut into steps, and the steps shuffled.

        Where the last step is smaller, it is cut out at a random length: else it would always have the shortest rows.
        """
        steps = draw.permutation(self.steps)
        sizes = np.full(self.steps, self._batch_size, dtype=np.int64)
        sizes[steps[-1:]] -= self.steps * self._batch_size - len(order)
        return Ragged(order, offsets_of(sizes)).take(steps).values


def _single(rows: np.ndarray) -> Ragged:
    """Each row a block of its own."""
    return Ragged(rows, np.arange(len(rows) + 1, dtype=np.int64))


def _falling(lengths: np.ndarray) -> np.ndarray:
    """Row numbers from the longest row to the shortest, [n]; equal ones in their order."""
    return np.argsort(-lengths, kind="stable")


def _places(lengths: np.ndarray, order: np.ndarray, size: int) -> Ragged:
    """The blocks of best-fit decreasing, as places in `order`, which names the rows by falling length."""
    falling = lengths[order].tolist()
    if falling and falling[0] > size:
        raise StageError(f"row {order[0]} has {falling[0]} tokens, and a block holds {size}; see `tokenize.max_length`")
    space: dict[int, list[int]] = defaultdict(list)  # numbers of blocks by the room that is left in them
    rooms: list[int] = []  # the keys of `space` that have a block, ascending
    blocks = []  # of each place
    count = 0
    for length in falling:
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, block = size, count
            count += 1
        else:
            room = rooms[at]
            block = space[room].pop()
            if not space[room]:
                del rooms[at]
        blocks.append(block)
        left = room - length
        if left > 0:
            if not space[left]:
                insort(rooms, left)
            space[left].append(block)
    number = np.array(blocks, dtype=np.int32)
    values = np.argsort(number, kind="stable").astype(np.int32)
    return Ragged(values, offsets_of(np.bincount(number, minlength=count)))
