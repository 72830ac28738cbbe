"""The nearest row of train for each evaluation row, found without MinHash.

Rows are sets of word shingles. The evaluation rows (validation, then test) are spilled to a file, 8 bytes a shingle,
and indexed (see `overlap`): all of their shingles while these are fewer than INDEXED, else a sample by hash that
leaves a row at least about SAMPLE of them. Train comes batch by batch; what a count could make the nearest is compared
exactly, on whole sets. Nothing at a similarity of 0.5 or more is missed but by a chance of 1 in 30,000 in a sample.
Below FLOOR no neighbour is told.
A shingle of more than COMMON evaluation rows brings no candidates: a row of nothing else has no nearest row here, and
is left to the equality checks.

Memory: 32 bytes an indexed shingle (at most INDEXED, or SAMPLE a row), some 700 bytes an evaluation row, a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.leaks import overlap
from snaketune.rows import batches
from snaketune.text import minhash

INDEXED = 8_000_000
PIECE = 1 << 20  # shingles that are read back at once
SAMPLE = 64
COMMON = 1000
FLOOR = 0.3  # less is not told apart: most rows share that much of their sentences with some other
HEAD = 160
COLUMNS = ["row_id", "source", "line", "prompt", "completion"]


def joint(table: pa.Table) -> pa.ChunkedArray:
    """The texts that are compared: prompt, line feed, completion."""
    prompt, completion = (pc.fill_null(table[name], "") for name in ("prompt", "completion"))
    return pc.binary_join_element_wise(prompt, completion, "\n")


class Neighbours:
    """The evaluation rows, numbered in the order of their tables, and the nearest row that was shown for each."""

    def __init__(self, paths: Iterable[str], words: int, folder: Path) -> None:
        """Read the evaluation rows. words: of a shingle; folder: where the spilled sets may stand while this lives."""
        self.words = words
        self.counts: list[int] = []  # rows of each table
        sizes = [np.zeros(1, np.int64)]
        with (folder / "shingles").open("wb") as file:
            for path in paths:
                self.counts.append(0)
                for batch in batches(path, COLUMNS):
                    flat, offsets = minhash.shingle_sets(joint(batch), words)
                    flat.tofile(file)
                    sizes.append(np.diff(offsets))
                    self.counts[-1] += batch.num_rows
        self._bounds = np.cumsum(np.concatenate(sizes))
        self._file = folder / "shingles"
        rows = len(self._bounds) - 1
        self._index, self._sampled = self._indexed()
        self.similarity = np.zeros(rows)
        self.near_id = np.full(rows, None, dtype=object)
        self.near_place = np.full(rows, None, dtype=object)
        self.near_head = np.full(rows, None, dtype=object)

    def _sets(self) -> np.ndarray:
        """The spilled sets; pages that were read count as this process's memory only while the array lives."""
        if not self._bounds[-1]:
            return np.empty(0, np.uint64)
        return np.asarray(np.memmap(self._file, np.uint64, "r"))

    def _indexed(self) -> tuple[overlap.Index, np.ndarray]:
        """The index, and how many shingles of each row it was given [rows] int64."""
        sizes, total = np.diff(self._bounds), int(self._bounds[-1])
        rate = sampling(sizes)
        hashes, members = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for start in range(0, total, PIECE):
            part = np.fromfile(self._file, np.uint64, PIECE, offset=8 * start)
            ends = np.clip(self._bounds - start, 0, len(part))
            member = np.repeat(np.arange(len(sizes), dtype=np.int32), np.diff(ends))
            chosen = (part & (rate[member] - np.uint64(1))) == 0
            hashes.append(part[chosen])
            members.append(member[chosen])
        member = np.concatenate(members)
        index = overlap.build(np.concatenate(hashes), member, len(sizes), COMMON)
        return index, np.bincount(member, minlength=len(sizes))

    def show(self, path: str, bar: float, first: int = 0) -> int:
        """Compare the rows of a table with the evaluation rows from number `first` on.

        Returns the pairs of a similarity of `bar` or more; what is nearest is told by the attributes.
        """
        pairs = 0
        query = np.empty(len(self.similarity), dtype=np.int64)
        for batch in batches(path, COLUMNS):
            texts = joint(batch)
            flat, offsets = minhash.shingle_sets(texts, self.words)
            before = self.similarity.copy()
            pairs += overlap.nearest(
                self._index.arrays,
                (flat, offsets),
                (self._sets(), self._bounds, self._sampled, self._index.common),
                (self.similarity, query),
                (first, bar, min(FLOOR, bar)),
            )
            changed = np.flatnonzero(self.similarity > before)
            at = pa.array(query[changed])
            self.near_id[changed] = batch["row_id"].take(at).to_pylist()
            self.near_head[changed] = pc.utf8_slice_codeunits(texts.take(at), 0, HEAD).to_pylist()
            places = zip(batch["source"].take(at).to_pylist(), batch["line"].take(at).to_pylist(), strict=True)
            self.near_place[changed] = list(places)
        return pairs

    def forget(self) -> None:
        """Start anew with other queries."""
        self.similarity[:] = 0
        for kept in (self.near_id, self.near_head, self.near_place):
            kept[:] = None


def sampling(sizes: np.ndarray) -> np.ndarray:
    """One in how many shingles of each row [n] uint64 is indexed: powers of two, 1 for short rows and small splits."""
    most = np.maximum(sizes // SAMPLE, 1)
    most = np.uint64(1) << np.log2(most).astype(np.uint64)
    rate = np.uint64(1)
    while (sizes / np.minimum(most, rate)).sum() > INDEXED and rate < most.max():
        rate *= np.uint64(2)
    return np.minimum(most, rate)
