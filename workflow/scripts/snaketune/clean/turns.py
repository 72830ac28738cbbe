"""The texts of a batch of rows, as the cleaning sees them: prompts, completions, and the turns of conversations.

A row with `messages` is cleaned turn by turn. Its last turn is its completion; its prompt is written anew from the
turns before, and `messages` with it, so that the three never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean.mending import count
from snaketune.text import chat


@dataclass
class Texts:
    """The texts of n rows. No completion is null; the prompts of conversations are, until `write_prompts`."""

    prompt: pa.Array
    completion: pa.Array
    turns: pa.Array  # [t], of all conversations, without their last ones
    owner: np.ndarray  # [t] int64, the row of each turn
    talks: dict[int, list[chat.Message]]  # conversations by row; `turns` and `completion` have what they now say

    @classmethod
    def of(cls, table: pa.Table) -> Texts:
        """The texts of a table of rows."""
        prompt, completion = (table[name].combine_chunks() for name in ("prompt", "completion"))
        if completion.null_count:
            completion = pc.fill_null(completion, "")
        if table["messages"].null_count == table.num_rows:
            return cls(prompt, completion, pa.array([], pa.string()), np.zeros(0, dtype=np.int64), {})
        said = table["messages"].to_pylist()
        talks = {row: chat.parse(value) for row, value in enumerate(said) if value is not None}
        turns = [turn["content"] for talk in talks.values() for turn in talk[:-1]]
        owner = np.repeat(list(talks), [len(talk) - 1 for talk in talks.values()])
        return cls(prompt, completion, pa.array(turns, pa.string()), owner, talks)

    def __len__(self) -> int:
        return len(self.completion)

    def lengths(self) -> np.ndarray:
        """The characters of each row [n] int64, prompt and completion."""
        return pc.add(pc.fill_null(pc.utf8_length(self.prompt), 0), pc.utf8_length(self.completion)).to_numpy()

    def flat(self) -> tuple[pa.Array, np.ndarray]:
        """All texts as people wrote them, [2 n + t], and the row of each: prompts (of conversations: null),
        completions, turns. Of plain text, which has no prompts, only the completions [n]: it need not be copied."""
        if self._plain():
            return self.completion, np.arange(len(self))
        prompt = self.prompt
        if self.talks:
            prompt = put(prompt, np.array(list(self.talks)), None)
        rows = np.concatenate([np.tile(np.arange(len(self)), 2), self.owner])
        return pa.concat_arrays([prompt, self.completion, self.turns]), rows

    def _plain(self) -> bool:
        return self.prompt.null_count == len(self) and not self.talks

    def take_flat(self, texts: pa.Array) -> None:
        """Take all texts back, in the order of `flat`, and write the prompts of conversations from their turns."""
        if self._plain():
            self.completion = texts
            return
        n = len(self)
        self.prompt, self.completion, self.turns = texts[:n], texts[n : 2 * n], texts[2 * n :]
        if not self.talks:
            return
        contents = iter(self.turns.to_pylist())
        for talk in self.talks.values():
            for turn in talk[:-1]:
                turn["content"] = next(contents)
        prompts = [chat.render(talk[:-1]) for talk in self.talks.values()]
        self.prompt = put(self.prompt, np.array(list(self.talks)), prompts)

    def forget(self, rows: Collection[int]) -> None:
        """Take rows for prompts and completions from now on, whatever their turns were."""
        self.talks = {row: talk for row, talk in self.talks.items() if row not in rows}
        stay = np.isin(self.owner, list(self.talks))
        self.turns, self.owner = self.turns.filter(pa.array(stay)), self.owner[stay]

    def messages(self) -> pa.Array:
        """The `messages` [n] of the rows as they now are; null where there are none."""
        found: list[str | None] = [None] * len(self)
        for row, talk in self.talks.items():
            found[row] = chat.dump([*talk[:-1], talk[-1] | {"content": self.completion[row].as_py()}])
        return pa.array(found, pa.string())


def put(texts: pa.Array, rows: np.ndarray, values: list[str] | str | None) -> pa.Array:
    """Texts [n] with new values [k], or one for all, in the rows [k], which ascend."""
    mask = np.zeros(len(texts), dtype=bool)
    mask[rows] = True
    new = pa.array(values, pa.string()) if isinstance(values, list) else pa.scalar(values, pa.string())
    return pc.replace_with_mask(texts, pa.array(mask), new)


def change(texts: Texts, mend: Callable[[pa.Array, np.ndarray], pa.Array]) -> int:
    """Change all texts, by a function of the flat texts and of their rows.

    Returns by how many characters more the rows have grown than the texts that people wrote: 0, unless the raw prompt
    of a conversation was not written by `chat`.
    """
    old, rows = texts.flat()
    before = texts.lengths().sum() if texts.talks else 0
    new = mend(old, rows)
    texts.take_flat(new)
    return int(texts.lengths().sum() - before) - (count(new) - count(old)) if texts.talks else 0
