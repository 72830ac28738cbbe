"""Candidate pairs verified: the exact Jaccard similarity of two rows, as a whole and of each of their texts.

The texts of the candidates are gathered chunk by chunk, each of at most CHUNK_CHARS characters: one pass over the rows
of all shards writes them to a file a chunk, and each chunk is then read by itself. So memory is bounded by a chunk
(its text, and 8 bytes for each word of it twice: 0.3 GB for English, 1 GB for Chinese), whatever the rows.
Texts without a word, such as two emoji, are alike only where they are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.dedup.candidates import NONE, pack, unpack
from snaketune.text.minhash import jaccard_pairs, shingle_sets
from snaketune.text.words import comparable, joint

CHUNK_CHARS = 32_000_000
CHUNKS_AT_ONCE = 64  # files that are open in one pass
HEAD = 160
SPILLED = pa.schema([("number", pa.int64()), ("prompt", pa.string()), ("completion", pa.string())])


@dataclass
class Rows:
    """Where the texts of the rows are.

    paths: the files of clean rows; order: [n] int64, the place in these files of each row number; chars: [n] int64.
    """

    paths: list[str]
    order: np.ndarray
    chars: np.ndarray


@dataclass
class Verified:
    """Pairs that were compared, [p] uint64 in order.

    similarity: [p, 3], of the rows as a whole, of their prompts, of their completions; where the first is below the
    threshold the others are not computed, and NaN. heads: of the completions of the rows `headed` [h] int64, which
    are those of the pairs that are not below, in order.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    headed: np.ndarray
    heads: pa.Array

    def __add__(self, other: Verified) -> Verified:
        pairs = np.concatenate([self.pairs, other.pairs])
        order = np.argsort(pairs)
        similarity = np.concatenate([self.similarity, other.similarity])[order]
        headed, first = np.unique(np.concatenate([self.headed, other.headed]), return_index=True)
        heads = pa.concat_arrays([self.heads, other.heads]).take(pa.array(first))
        return Verified(pairs[order], similarity, headed, heads)

    def where(self, wanted: np.ndarray) -> Verified:
        """The pairs [p] bool that are wanted."""
        return Verified(self.pairs[wanted], self.similarity[wanted], self.headed, self.heads)

    def head(self, rows: np.ndarray) -> pa.Array:
        """The heads of rows [k] int64, all of them `headed`."""
        return self.heads.take(pa.array(np.searchsorted(self.headed, rows)))


def nothing() -> Verified:
    """No pair."""
    return Verified(NONE, np.empty((0, 3)), np.empty(0, np.int64), pa.array([], pa.string()))


def verify(rows: Rows, pairs: np.ndarray, words: int, threshold: float, folder: Path) -> Verified:
    """Compare pairs [p] uint64, sorted; `folder` is where the chunks are put for a while."""
    left, right = unpack(pairs)
    chunk_of = _chunks(rows.chars, left, right)
    found = nothing()
    for chunk, texts in _texts(rows, chunk_of, left, right, folder):
        some = slice(*np.searchsorted(chunk_of, [chunk, chunk + 1]))
        numbers = texts["number"].to_numpy()
        a, b = np.searchsorted(numbers, left[some]), np.searchsorted(numbers, right[some])
        similarity = _similarity(_Sets(texts, words), a, b, threshold)
        alike = similarity[:, 0] >= threshold
        told = np.unique(np.concatenate([a[alike], b[alike]]))
        heads = pc.utf8_slice_codeunits(texts["completion"].take(pa.array(told)), 0, HEAD).combine_chunks()
        found += Verified(pairs[some], similarity, numbers[told], heads)
    return found


def _chunks(chars: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The chunk of each pair, [p] int64 ascending: a chunk's rows have at most CHUNK_CHARS, but for its first pair."""
    new = np.ones(len(left), dtype=bool)
    new[1:] = left[1:] != left[:-1]
    filled = np.cumsum(chars[right] + np.where(new, chars[left], 0))
    return filled // CHUNK_CHARS


def _texts(
    rows: Rows, chunk_of: np.ndarray, left: np.ndarray, right: np.ndarray, folder: Path
) -> Iterator[tuple[int, pa.Table]]:
    """The number of each chunk, and its rows in order of their numbers, in the columns of SPILLED."""
    found = np.unique(chunk_of)
    for at in range(0, len(found), CHUNKS_AT_ONCE):
        chunks = found[at : at + CHUNKS_AT_ONCE]
        some = slice(*np.searchsorted(chunk_of, [chunks[0], chunks[-1] + 1]))
        slot = np.searchsorted(chunks, chunk_of[some])
        wanted = np.unique(np.concatenate([pack(slot, left[some]), pack(slot, right[some])]))
        with TemporaryDirectory(dir=folder, prefix=".chunks-") as spill:
            paths = [Path(spill) / f"{number}.arrow" for number in range(len(chunks))]
            _spill(rows, *unpack(wanted), paths)
            for chunk, path in zip(chunks.tolist(), paths, strict=True):
                with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                    texts = reader.read_all()
                path.unlink()
                yield chunk, texts.sort_by("number").combine_chunks()


def _spill(rows: Rows, slot: np.ndarray, number: np.ndarray, paths: list[Path]) -> None:
    """Write the texts of rows to the files of their chunks: `slot` [w] is the file of the row `number` [w]."""
    place = rows.order[number]
    by_place = np.argsort(place, kind="stable")
    slot, number, place = slot[by_place], number[by_place], place[by_place]
    with ExitStack() as stack:
        files = [stack.enter_context(pa.OSFile(str(path), "wb")) for path in paths]
        writers = [stack.enter_context(pa.ipc.new_file(file, SPILLED)) for file in files]
        for some, batch in read_at(rows.paths, place):
            by_slot = np.argsort(slot[some], kind="stable")
            texts = batch.take(pa.array(by_slot)).add_column(0, "number", pa.array(number[some][by_slot]))
            ends = np.searchsorted(slot[some][by_slot], np.arange(len(paths) + 1))
            for file, (start, stop) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
                if stop > start:
                    writers[file].write_table(texts.slice(start, stop - start))


def read_at(paths: list[str], place: np.ndarray) -> Iterator[tuple[slice, pa.Table]]:
    """The texts of the rows at places [w] int64 (ascending, over all files), by row groups: which places, their rows.

    A row group without a wanted row is not read.
    """
    start = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                some = slice(*np.searchsorted(place, [start, stop]).tolist())
                if some.stop > some.start:
                    batch = file.read_row_group(group, columns=["prompt", "completion"])
                    yield some, batch.select(["prompt", "completion"]).take(pa.array(place[some] - start))
                start = stop


class _Sets:
    """The shingle sets of rows as a whole and of their texts, in one array; `joint`, `prompt` and `completion` [n]
    are the numbers of each row's sets."""

    def __init__(self, texts: pa.Table, words: int) -> None:
        prompt, completion = (pc.fill_null(texts[name].combine_chunks(), "") for name in ("prompt", "completion"))
        count = len(prompt)
        asked = np.flatnonzero(pc.not_equal(prompt, "").to_numpy(zero_copy_only=False))
        # A row without a prompt is its completion: its set is not made twice.
        parts = pa.chunked_array(
            [
                joint(texts["prompt"].combine_chunks(), completion),
                prompt.take(pa.array(asked)),
                completion.take(pa.array(asked)),
                pa.array([""]),
            ]
        )
        flat, offsets = shingle_sets(parts, words)
        self.joint, self.completion = np.arange(count), np.arange(count)
        self.prompt = np.full(count, len(offsets) - 2)
        self.prompt[asked] = count + np.arange(len(asked))
        self.completion[asked] = count + len(asked) + np.arange(len(asked))
        # A text without a word gets a set of one, its own hash: alike only where it is equal.
        empty = np.flatnonzero(np.diff(offsets) == 0)
        own = [_hash(text) for text in comparable(parts.take(pa.array(empty))).to_pylist()]
        place = np.arange(len(offsets) - 1)
        place[empty] = len(offsets) - 1 + np.arange(len(empty))
        self.flat = np.concatenate([flat, np.array(own, np.uint64)])
        self.offsets = np.concatenate([offsets, offsets[-1] + 1 + np.arange(len(empty))])
        self.joint, self.prompt, self.completion = place[self.joint], place[self.prompt], place[self.completion]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _similarity(sets: _Sets, a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """The similarities [p, 3] of pairs of rows; of prompts and completions where the rows are alike as a whole."""
    found = np.full((len(a), 3), np.nan)
    found[:, 0] = jaccard_pairs(sets.flat, sets.offsets, sets.joint[a], sets.joint[b])
    alike = found[:, 0] >= threshold
    a, b = a[alike], b[alike]
    for column, part in ((1, sets.prompt), (2, sets.completion)):
        found[alike, column] = jaccard_pairs(sets.flat, sets.offsets, part[a], part[b])
    return found
