"""What each step of the cleaning did to the rows of a shard, and that it adds up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError

# In the order in which they are done.
STEPS = (
    "missing_markers",
    "encoding",
    "html",
    "control_characters",
    "unicode",
    "whitespace",
    "case",
    "conversations",  # whose raw prompts are not as `chat` writes them: seldom, and listed only then
    "c4_lines",
    "spelling",
    "annotations",
    "missing",
    "pii",
)


class Effects:
    """Rows that each step changed, and the characters of all rows before and after it; prompts and completions."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.more: Counter[str] = Counter()  # characters that a step added, all told; mostly negative
        self.totals: Counter[str] = Counter()
        self.languages: Counter[str] | None = None
        self._changed: dict[str, np.ndarray] = {}

    def begin(self, n: int, chars: int) -> None:
        """Begin a batch of n rows with so many characters."""
        self._changed = {step: np.zeros(n, dtype=bool) for step in STEPS}
        self.totals.update(rows_in=n, chars_in=chars)

    def note(self, step: str, rows: np.ndarray, more: int) -> None:
        """Note that a step changed rows [k] of the batch (a row may stand there twice), by so many characters."""
        self._changed[step][rows] = True
        self.more[step] += more

    def end(self, kept: int, chars: int, dropped: int) -> None:
        """End a batch, of which so many rows with so many characters were kept, and so many characters dropped."""
        self.rows.update({step: int(changed.sum()) for step, changed in self._changed.items()})
        self.totals.update(rows_out=kept, chars_out=chars, chars_dropped=dropped)

    def speak(self, languages: pa.Array) -> None:
        """Count the languages of the kept rows; `und` (ISO 639-2) where it is not sure."""
        counts = pc.value_counts(pc.fill_null(languages, "und")).to_pylist()
        self.languages = (self.languages or Counter()) + Counter({item["values"]: item["counts"] for item in counts})

    def write(self, path: str | Path, steps: list[str]) -> None:
        """Write what the steps did that were switched on. Raises StageError where the characters do not add up."""
        found = dict.fromkeys(("rows_in", "rows_out", "chars_in", "chars_out", "chars_dropped"), 0) | self.totals
        left = found["chars_in"] + sum(self.more.values())
        if left != found["chars_out"] + found["chars_dropped"]:
            raise StageError(
                f"after cleaning, {left:,} characters should be left, but {found['chars_out']:,} were kept and "
                f"{found['chars_dropped']:,} dropped. That is a fault of the workflow: please report this."
            )
        listed: list[dict[str, Any]] = []
        chars = found["chars_in"]
        for step in (step for step in STEPS if step in steps or self.rows[step]):
            after = chars + self.more[step]
            listed.append({"step": step, "rows": self.rows[step], "chars_before": chars, "chars_after": after})
            chars = after
        content: dict[str, Any] = {"steps": listed, **found}
        if self.languages is not None:
            content["languages"] = dict(sorted(self.languages.items()))
        Path(path).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
