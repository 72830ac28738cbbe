"""Rows as numbers: which raw row a later file speaks of, for millions of rows at a few bytes each.

A row is named by its key: (source, line, row_id), four unsigned numbers of 8 bytes. Keys in order are the rows in the
order of the ledger. Two templates may make equal rows of one line; these have equal keys, and the nth of a table is
the nth of every other.

A claim says what became of a row: the stage and rule that dropped it, or the split where it stands. It takes 59 bytes:
key 32, fate 2, value 8, threshold 8, characters 8, split 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.rows import batches, numbers

KEY = ["row_id", "source", "line"]
TEXTS = ["prompt", "completion"]
HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


class Sources:
    """The names of all raw files, in order; a name becomes its place in that order.

    A name that no raw file has comes after all others: what speaks of it belongs to no row, and is told so.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(set(names))
        self._places = {name: place for place, name in enumerate(self.names)}

    def place(self, name: str) -> int:
        """The place of a name."""
        return self._places.get(name, len(self.names))

    def keys(self, table: pa.Table) -> np.ndarray:
        """The keys [n, 4] uint64 of a table's rows: place of the source, line, both halves of the row_id."""
        found = np.empty((table.num_rows, 4), dtype=np.uint64)
        names = table["source"].combine_chunks().dictionary_encode()
        places = np.array([self.place(name) for name in names.dictionary.to_pylist()], dtype=np.uint64)
        found[:, 0] = places[names.indices.to_numpy()] if len(places) else 0
        found[:, 1] = table["line"].to_numpy().astype(np.uint64)
        found[:, 2:] = numbers(table["row_id"])
        return found


@dataclass
class Claims:
    """What became of rows, column by column; `fate` is a code of `Fates`, `split` is -1 for a row that is in none."""

    key: np.ndarray  # [n, 4] uint64
    fate: np.ndarray  # [n] int16
    value: np.ndarray  # [n] float64, NaN where there is none
    threshold: np.ndarray  # [n] float64
    chars: np.ndarray  # [n] int64, of the row in its split; -1 for a dropped row
    split: np.ndarray  # [n] int8

    def __len__(self) -> int:
        return len(self.key)

    def take(self, which: np.ndarray | slice) -> Claims:
        """Some of the claims, by number, mask or slice."""
        return Claims(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Claims]) -> Claims:
        """Several lists of claims as one, in their order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def none(cls) -> Claims:
        """No claim."""
        kinds = (np.int16, np.float64, np.float64, np.int64, np.int8)
        return cls(np.empty((0, 4), np.uint64), *(np.empty(0, kind) for kind in kinds))


class Fates:
    """The pairs of stage and rule that occur, as small numbers."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self._codes: dict[tuple[str, str], int] = {}

    def code(self, stage: str, rule: str) -> int:
        """The number of a stage and rule."""
        if (stage, rule) not in self._codes:
            self._codes[stage, rule] = len(self.names)
            self.names.append((stage, rule))
        return self._codes[stage, rule]

    def codes(self, table: pa.Table) -> np.ndarray:
        """The numbers [n] int16 of a table with the columns stage and rule."""
        stages, rules = (
            pc.fill_null(table[name], "").combine_chunks().dictionary_encode() for name in ("stage", "rule")
        )
        mixed = stages.indices.to_numpy().astype(np.int64) * max(1, len(rules.dictionary)) + rules.indices.to_numpy()
        seen, which = np.unique(mixed, return_inverse=True)
        known = [
            self.code(
                stages.dictionary[pair // len(rules.dictionary)].as_py(),
                rules.dictionary[pair % len(rules.dictionary)].as_py(),
            )
            for pair in seen.tolist()
        ]
        return np.array(known, dtype=np.int16)[which] if known else np.empty(0, np.int16)


def characters(table: pa.Table) -> np.ndarray:
    """The code points [n] int64 of prompt and completion; a missing one has none."""
    lengths = (pc.fill_null(pc.utf8_length(table[name]), 0) for name in TEXTS)
    return pc.add(*lengths).to_numpy().astype(np.int64)


def dropped(path: str, sources: Sources, fates: Fates) -> Claims:
    """The rows of a table of schema rows.DROPPED; of rows that augmentation has made, none."""
    parts = [Claims.none()]
    for table in batches(path):
        batch = table.filter(pc.invert(pc.starts_with(table["source"], "augment:")))
        count = batch.num_rows
        limits = (batch[name].to_numpy().astype(np.float64) for name in ("value", "threshold"))
        nowhere = np.full(count, -1, np.int64), np.full(count, -1, np.int8)
        parts.append(Claims(sources.keys(batch), fates.codes(batch), *limits, *nowhere))
    return Claims.joined(parts)


def places(path: str, split: int, sources: Sources, fates: Fates) -> Claims:
    """The rows of a split, with their characters."""
    parts = [Claims.none()]
    for batch in batches(path, [*KEY, *TEXTS]):
        count = batch.num_rows
        fate = np.full(count, fates.code("tokenize", ""), np.int16)
        nothing = np.full(count, np.nan), np.full(count, np.nan)
        parts.append(Claims(sources.keys(batch), fate, *nothing, characters(batch), np.full(count, split, np.int8)))
    return Claims.joined(parts)


def lengths(paths: list[str], sources: Sources) -> tuple[np.ndarray, np.ndarray]:
    """The keys [n, 4] and characters [n] of the rows of several tables."""
    keys, lengths = [np.empty((0, 4), np.uint64)], [np.empty(0, np.int64)]
    for path in paths:
        for batch in batches(path, [*KEY, *TEXTS]):
            keys.append(sources.keys(batch))
            lengths.append(characters(batch))
    return np.concatenate(keys), np.concatenate(lengths)


def in_order(keys: np.ndarray) -> np.ndarray:
    """The numbers [n] of keys in ascending order; equal keys stay as they stand."""
    return np.lexsort(keys.T[::-1])


def first_at(keys: np.ndarray, source: int, line: int) -> int:
    """How many of some ordered keys come before a line of a source."""
    start, stop = (int(np.searchsorted(keys[:, 0], np.uint64(source), side=side)) for side in ("left", "right"))
    return start + int(np.searchsorted(keys[start:stop, 1], np.uint64(line)))


def pair(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `others` (keys [m, 4]) the number of the row (keys [n, 4]) that it speaks of, [m] int64.

    The nth of equal others belongs to the nth of equal rows; -1 where there is no such row, or none is left. Takes
    about 60 bytes a key.
    """
    found = np.full(len(others), -1, dtype=np.int64)
    if not len(others):
        return found
    keys = np.concatenate([rows, others])
    order = in_order(keys)
    keys = keys[order]
    first = np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)]
    starts, group = np.flatnonzero(first), np.cumsum(first) - 1
    other = order >= len(rows)
    available = np.bincount(group[~other], minlength=len(starts))[group]  # the rows stand first in their group
    nth = np.arange(len(order)) - starts[group] - available
    hit = other & (nth < available)
    found[order[hit] - len(rows)] = order[(starts[group] + nth)[hit]]
    return found


def ids(keys: np.ndarray) -> pa.Array:
    """The row_ids [n] of keys, as text."""
    halves = np.ascontiguousarray(keys[:, 2:]).astype(">u8").view(np.uint8).reshape(len(keys), 16)
    digits = HEX[np.stack([halves >> 4, halves & 15], axis=2)]
    ends = np.arange(len(keys) + 1, dtype=np.int32) * 32
    return pa.Array.from_buffers(pa.string(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(digits.tobytes())])
