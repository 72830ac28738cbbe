"""Many lists of token ids as two arrays: what the lists hold, end to end, and where each begins.

A Python list of ids takes 36 bytes a token and a loop for whatever is done to it; this takes 4, and is what Arrow
writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """n lists of token ids. values: [tokens] int32; offsets: [n + 1] int64, from 0."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The length of each list, [n] int64."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        """From Python lists."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return cls(np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum())), offsets_of(lengths))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The lists of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        values = np.concatenate([part.values for part in parts] or [np.zeros(0, np.int32)])
        return cls(values, offsets_of(np.concatenate([part.lengths for part in parts] or [np.zeros(0, np.int64)])))

    def row(self, number: int) -> list[int]:
        """One list."""
        return self.values[self.offsets[number] : self.offsets[number + 1]].tolist()

    def take(self, order: np.ndarray) -> Ragged:
        """The lists in another order, [m] int64; a list may be named never or often."""
        lengths = self.lengths[order]
        return Ragged(slices(self.values, self.offsets[order], lengths), offsets_of(lengths))

    def ended(self, token: int, where: np.ndarray) -> Ragged:
        """The lists, each with a token more where `where`, [n] bool, says so."""
        values = np.insert(self.values, self.offsets[1:][where], token)
        return Ragged(values, offsets_of(self.lengths + where))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each list begins, and where the last ends: [n + 1] int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def slices(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The slices of an array, end to end. starts, lengths: [m] int64."""
    places = np.arange(int(lengths.sum()), dtype=np.int64)
    places += np.repeat(starts - offsets_of(lengths)[:-1], lengths)
    return values[places]


def merged(where: np.ndarray, yes: Ragged, no: Ragged) -> Ragged:
    """One list for each place of `where`, [n] bool: the next of `yes` where it is true, else the next of `no`."""
    if where.all() or not where.any():
        return yes if where.any() else no
    order = np.where(where, np.cumsum(where) - 1, len(yes) + np.cumsum(~where) - 1)
    return Ragged.joined([yes, no]).take(order)
