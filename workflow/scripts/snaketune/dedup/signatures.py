"""Signatures: what the search for duplicates knows of a row without its text.

`sign.py` writes them, one file a shard. `Signatures` reads those of all shards as one table in the canonical order
(row_id, source, line), in which every later number counts; so no result depends on the shards or on their order.

Of a row it holds 16 bytes of id, 8 each of line, place, length and the two labels of equality, and 4 each of source,
group, label and split, whose names are held once each: 72 in all. A column of hashes is read when it is asked for, and
held by the caller alone.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.rows import batches, numbers, read_table
from snaketune.split.split_names import split_numbers
from snaketune.text.digests import DIGEST

NAMES = ("source", "group", "label", "split")  # held as numbers of a dictionary
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def schema(bands: int) -> pa.Schema:
    """The columns of a file of signatures."""
    return pa.schema(
        [
            ("row_id", pa.string()),
            ("source", pa.string()),
            ("line", pa.int64()),
            ("group", pa.string()),
            ("label", pa.string()),
            ("split", pa.string()),
            ("chars", pa.int64()),  # of the prompt and the completion
            ("exact", DIGEST),  # of both comparable texts
            ("question", DIGEST),  # of the comparable prompt; null where there is none
            *((band(number), pa.uint64()) for number in range(bands)),  # null where there is no word
        ]
    )


def band(number: int) -> str:
    """The name of the column of a band."""
    return f"band_{number:02d}"


class Signatures:
    """The signatures of all shards in canonical order.

    order: [n] int64, the place in the files of each row; ids: [n, 2] uint64; line, chars: [n] int64;
    exact: [n] int64, the first row that is equal; question: [n] int64, the first row with an equal prompt, else -1.
    """

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        ids = [numbers(batch["row_id"]) for path in paths for batch in batches(path, ["row_id"])]
        self.ids = np.concatenate([np.empty((0, 2), np.uint64), *ids])
        self.line = self._column("line").to_numpy()
        names = {name: self._dictionary(name) for name in NAMES}
        self.order = _canonical(self.ids, _ranks(names["source"]), self.line)
        self.ids, self.line = self.ids[self.order], self.line[self.order]
        self._names = {name: values.take(pa.array(self.order)) for name, values in names.items()}
        self.chars = self._column("chars").to_numpy()[self.order]
        self.exact = self._first_of_equal("exact")
        self.question = self._first_of_equal("question")

    def __len__(self) -> int:
        return len(self.order)

    def band(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of a band [n] uint64, and which rows have one [n] bool."""
        column = self._column(band(number))
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return column.fill_null(0).to_numpy()[self.order], valid[self.order]

    def names(self, column: str, rows: np.ndarray) -> pa.Array:
        """The source, group, label or split of rows [k] int64."""
        return self._names[column].take(pa.array(rows)).cast(pa.string())

    def protection(self) -> np.ndarray:
        """How well the split that the data names for each row is protected [n]: test most; -1 where it names none."""
        names = self._names["split"]
        return np.r_[split_numbers(names.dictionary), -1][names.indices.fill_null(len(names.dictionary)).to_numpy()]

    def row_ids(self, rows: np.ndarray) -> pa.Array:
        """The ids of rows [k] int64, in hex; null for a row of -1."""
        data = np.ascontiguousarray(self.ids[rows].astype(">u8")).view(np.uint8)
        text = np.stack([_HEX[data >> 4], _HEX[data & 15]], axis=-1)
        bounds = np.arange(len(rows) + 1, dtype=np.int32) * 32
        ids = pa.Array.from_buffers(pa.string(), len(rows), [None, pa.py_buffer(bounds), pa.py_buffer(text)])
        return pc.if_else(pa.array(rows >= 0), ids, None)

    def _column(self, name: str) -> pa.Array:
        return read_table(self._paths, [name])[name].combine_chunks()

    def _dictionary(self, name: str) -> pa.DictionaryArray:
        tables = [pq.read_table(path, columns=[name], read_dictionary=[name]) for path in self._paths]
        return pa.concat_tables(tables)[name].unify_dictionaries().combine_chunks()

    def _first_of_equal(self, name: str) -> np.ndarray:
        """For each row [n] int64 the first row with an equal digest; -1 where it has none."""
        column = self._column(name)
        valid = column.is_valid().to_numpy(zero_copy_only=False)[self.order]
        digests = np.frombuffer(column.fill_null(bytes(16)).buffers()[1], np.uint64).reshape(-1, 2)[self.order]
        rows = np.flatnonzero(valid)
        rows = rows[np.lexsort((digests[rows, 1], digests[rows, 0]))]  # stable: equal digests stay in order of the rows
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (digests[rows[1:]] != digests[rows[:-1]]).any(axis=1)
        first = np.full(len(valid), -1, dtype=np.int64)
        first[rows] = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        return first


def _ranks(names: pa.DictionaryArray) -> np.ndarray:
    """The place of each row's name among the sorted names, [n] int32."""
    values = np.array(names.dictionary.to_pylist(), dtype=object)
    ranks = np.empty(len(values), np.int32)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks[names.indices.to_numpy()]


def _canonical(ids: np.ndarray, source: np.ndarray, line: np.ndarray) -> np.ndarray:
    """The order of rows by (row_id, source, line), [n] int64.

    Ids are hashes: their first halves decide, but for the few rows that share one.
    """
    order = np.argsort(ids[:, 0])
    high = ids[order, 0]
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] = high[1:] == high[:-1]
    tied[:-1] |= tied[1:]
    rows = order[tied]
    order[tied] = rows[np.lexsort((line[rows], source[rows], ids[rows, 1], ids[rows, 0]))]
    return order
