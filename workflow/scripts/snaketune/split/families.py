"""Families of rows, and how they are dealt to the splits.

A family is a connected component over three ties, taken over every clean row, removed duplicates too: the cluster,
the group, the prompt. It is named by the smallest row_id of its rows that are dealt. Every deal depends on the seed,
the names and the sizes of the families alone, so that neither the order nor the number of files changes it. A deal is
an array [families] of split numbers: 0 train, 1 validation, 2 test.

State of all this: about 90 bytes for each clean row at its peak (row_id and cluster 16 each, key 8, label 4, and what
sorting one tie takes), whatever the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.dedup.components import Components
from snaketune.rows import batches, numbers
from snaketune.text import keys
from snaketune.text.minhash import scramble

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class Families:
    """The families of k rows: `member` [k] numbers them, `first` [f] is the row that names each, `sizes` [f]."""

    member: np.ndarray
    first: np.ndarray
    sizes: np.ndarray


def place_keys(table: pa.Table) -> np.ndarray:
    """One key [n] uint64 for where each row comes from and what it says: (row_id, source, line)."""
    ids = numbers(table["row_id"])
    lines = table["line"].to_numpy().astype(np.uint64)
    return scramble(ids[:, 0] ^ scramble(ids[:, 1] ^ scramble(lines ^ keys.raw(table["source"]))))


def texts(ids: np.ndarray) -> pa.Array:
    """Row ids as hexadecimal strings [n], of `rows.numbers` [n, 2]."""
    octets = np.ascontiguousarray(ids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    digits = _DIGITS[np.stack([octets >> 4, octets & 15], axis=2)]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits)))


def column(
    path: str, names: list[str], numbers_of: Callable[[pa.Table], np.ndarray], like: tuple[tuple[int, ...], type]
) -> np.ndarray:
    """Numbers for every row of a table, one batch of its columns `names` at a time; `like` is (shape of one, type)."""
    shape, kind = like
    with pq.ParquetFile(path) as file:
        out = np.empty((file.metadata.num_rows, *shape), dtype=kind)
    done = 0
    for batch in batches(path, names):
        out[done : done + batch.num_rows] = numbers_of(batch)
        done += batch.num_rows
    return out


def components(path: str) -> np.ndarray:
    """The component of each clean row [n] int64, of the table CLUSTERS."""
    ties: Components | None = None
    for name in ("cluster", "group", "question"):
        equal = column(path, [name], lambda batch, name=name: _tie(batch[name]), ((), np.int64))
        ties = ties or Components(len(equal))
        ties.union_equal(equal)
    assert ties is not None
    return ties.labels()


def _tie(values: pa.ChunkedArray) -> np.ndarray:
    """Equal numbers for equal strings [n] int64; -1 for null."""
    return np.where(values.is_null().to_numpy(), -1, (keys.raw(values) >> np.uint64(1)).astype(np.int64))


def named(labels: np.ndarray, ids: np.ndarray) -> Families:
    """The families of the rows that are dealt: their components [k] and ids [k, 2]."""
    order = np.lexsort((ids[:, 1], ids[:, 0], labels))
    new = np.r_[True, np.diff(labels[order]) != 0][: len(order)]
    member = np.empty(len(order), dtype=np.int64)
    member[order] = np.cumsum(new) - 1
    return Families(member, order[new], np.bincount(member))


def salted(ids: np.ndarray, seed: int) -> np.ndarray:
    """A number [f] uint64 for each family, drawn by the seed and its name [f, 2]; 1 microsecond each."""

    def drawn() -> Iterator[int]:
        for start in range(0, len(ids), 65_536):
            for name in texts(ids[start : start + 65_536]).to_pylist():
                yield int.from_bytes(blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()[:8], "big")

    return np.fromiter(drawn(), np.uint64, len(ids))


def giants(sizes: np.ndarray, shares: list[float]) -> np.ndarray:
    """Which families [f] hold more rows than the smallest share may: dealt by chance, one could fill a split."""
    return sizes > min(shares) * sizes.sum()


def quota(sizes: np.ndarray, order: np.ndarray, shares: list[float]) -> np.ndarray:
    """Each family to the split in whose stretch of the cumulative rows its middle falls; `order` is theirs [f].

    Each share is met to within half a family. Giants come first, and so go to train; where they overfill it, the
    others are dealt to the other two splits in proportion to their shares.
    """
    large = giants(sizes, shares)[order]
    order = np.r_[order[large], order[~large]]
    ends = np.cumsum(sizes[order])
    middles = ends - sizes[order] / 2
    bounds = np.cumsum(shares)[:-1] * ends[-1]
    train = int(np.searchsorted(middles, bounds[0]))
    if 0 < train <= large.sum() and ends[train - 1] > bounds[0]:
        filled = ends[train - 1]
        bounds = np.array([filled, filled + (ends[-1] - filled) * shares[1] / (shares[1] + shares[2])])
    dealt = np.empty(len(sizes), dtype=np.int64)
    dealt[order] = np.searchsorted(bounds, middles, side="right")
    return dealt


def stratified(sizes: np.ndarray, order: np.ndarray, shares: list[float], strata: np.ndarray) -> np.ndarray:
    """The quota within each stratum [f]."""
    dealt = np.empty(len(sizes), dtype=np.int64)
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        rank = np.empty(len(sizes), dtype=np.int64)
        rank[inside] = np.arange(len(inside))
        dealt[inside] = quota(sizes[inside], rank[order[strata[order] == stratum]], shares)
    return dealt


def majorities(member: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The most frequent label [f] of each family's rows [k], ties by the smaller; labels are numbers from 0."""
    width = int(labels.max(initial=0)) + 1
    pairs, votes = np.unique(member * width + labels, return_counts=True)
    family, label = pairs // width, pairs % width
    order = np.lexsort((label, -votes, family))
    chosen = np.empty(count, dtype=np.int64)
    chosen[family[order][::-1]] = label[order][::-1]  # of equal places the last assignment stays: the first in order
    return chosen


def by_hash(salt: np.ndarray, shares: list[float]) -> np.ndarray:
    """Each family by its own salted number, read as a fraction: other families cannot move it."""
    return np.searchsorted(np.cumsum(shares)[:-1], salt / 2.0**64, side="right")


def folded(sizes: np.ndarray, order: np.ndarray, folds: int, fold: int) -> np.ndarray:
    """Folds of equal rows, to within half a family: `fold` is the test split, the next one the validation split."""
    ends = np.cumsum(sizes[order])
    number = np.empty(len(sizes), dtype=np.int64)
    bounds = np.arange(1, folds) / folds * sizes.sum()
    number[order] = np.searchsorted(bounds, ends - sizes[order] / 2, side="right")
    return np.where(number == fold, 2, np.where(number == (fold + 1) % folds, 1, 0))


def label_numbers(path: str) -> np.ndarray:
    """The labels [n] int64 of all clean rows as numbers in their own order; the last number stands for null."""
    codes: dict[str, int] = {}

    def numbered(batch: pa.Table) -> np.ndarray:
        coded = batch["label"].combine_chunks().dictionary_encode()
        known = [codes.setdefault(label, len(codes)) for label in coded.dictionary.to_pylist()]
        return np.r_[known, -1].astype(np.int64)[pc.fill_null(coded.indices, len(known)).to_numpy()]

    found = column(path, ["label"], numbered, ((), np.int32))
    rank = np.empty(len(codes) + 1, dtype=np.int64)
    rank[[codes[label] for label in sorted(codes)]] = np.arange(len(codes))
    rank[-1] = len(codes)
    return rank[found]
