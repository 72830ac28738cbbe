"""The test rows of one job of several: which they are, and they alone opened.

A split stands in the order of its row ids. A job has a range of it that is cut between two ids, so that a text of
several rows stays whole, and that costs about as much as the others' do; none is empty unless there are fewer ids than
jobs. What a model says of a row depends on no other row, so the tables of all jobs, put end to end, are that of one.

To agree on the borders, each job reads of all rows how long they are and where an id begins: some 40 bytes a row, and
36 of mapped ids that the system may take back. Tokens and texts it reads of its own rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.job import StageError
from snaketune.model.batches import Rows

Part = dict[str, int]  # "number", from 0 on, and "of": how many


@dataclass(frozen=True)
class Sizes:
    """The n rows of a token folder, of d row ids."""

    lengths: np.ndarray  # [n] int64, tokens
    prompt_lengths: np.ndarray  # [n] int64; 0: plain text
    first: np.ndarray  # [d] int64: where each id begins

    def reading(self) -> np.ndarray:
        """The tokens of each row id, [d]."""
        return np.add.reduceat(self.lengths, self.first)

    def answering(self, text_prompt_tokens: int, max_new_tokens: int) -> np.ndarray:
        """The most tokens of each row id's prompt and answer, [d]; of a long text, the first row is asked alone."""
        prompts = self.prompt_lengths[self.first]
        return np.where(prompts > 0, prompts, text_prompt_tokens) + max_new_tokens


class DealtRows(Rows):
    """The rows of a token folder from `begin` to `end`, numbered from 0 on."""

    def __init__(self, folder: str, begin: int, end: int) -> None:
        table = _mapped(folder).slice(begin, end - begin)
        self._ids = table.column("input_ids")
        self.prompt_lengths = table.column("prompt_len").to_numpy()
        self.row_ids = table.column("row_id").to_pylist()
        self.lengths = _lengths(self._ids)


def sizes_of(folder: str) -> Sizes:
    """How long the rows of a token folder are. Raises StageError where they do not stand in the order of their ids."""
    table = _mapped(folder)
    ids = table.column("row_id")
    before, after = ids[:-1], ids[1:]
    if not pc.all(pc.less_equal(before, after)).as_py():
        raise StageError(f"the rows of {folder} are not in the order of their ids: run `tokens` again")
    begins = np.concatenate([[True], pc.not_equal(before, after).to_numpy()])
    prompts = table.column("prompt_len").to_numpy().astype(np.int64)
    return Sizes(_lengths(table.column("input_ids")), prompts, np.flatnonzero(begins))


def rows_of(folder: str, sizes: Sizes, costs: np.ndarray, part: Part) -> DealtRows:
    """The rows of one job. costs: of each row id that is dealt, [d] or fewer; the ids after those go to no job."""
    ends = np.append(sizes.first, len(sizes.lengths))[borders(costs, part["of"])]
    return DealtRows(folder, int(ends[part["number"]]), int(ends[part["number"] + 1]))


def borders(costs: np.ndarray, parts: int) -> np.ndarray:
    """Where each of `parts` ranges of about equal cost begins, and the end of the last: [parts + 1] int64.

    costs: [d], d > 0. No range is empty but the last ones where d < parts.
    """
    filled = min(parts, len(costs))
    number = np.arange(filled + 1)
    sums = np.cumsum(costs)
    cuts = np.searchsorted(sums, sums[-1] * number / filled, side="right")  # the sum of what is before is no more
    cuts[0] = 0
    cuts = np.maximum.accumulate(cuts - number) + number
    cuts = np.minimum(cuts, len(costs) - filled + number)
    return np.append(cuts, np.full(parts - filled, len(costs)))


def texts_of(texts: str, columns: list[str], rows: Rows) -> pa.Table:
    """The lines of a split table between the first and the last id of some rows; other row groups are not read."""
    ids = rows.row_ids
    between = [("row_id", ">=", min(ids)), ("row_id", "<=", max(ids))]
    return pq.read_table(texts, columns=columns, filters=between)


def spoken(part: Part | None) -> str:
    """Which part it is, as the beginning of a sentence."""
    return f"part {part['number'] + 1}/{part['of']}: " if part else ""


def _mapped(folder: str) -> pa.Table:
    from datasets import load_from_disk

    return load_from_disk(folder).data.table


def _lengths(ids: Any) -> np.ndarray:
    """The lengths of a chunked array of lists, [n] int64."""
    return np.concatenate([np.zeros(0, np.int64), *(np.diff(chunk.offsets.to_numpy()) for chunk in ids.chunks)])
