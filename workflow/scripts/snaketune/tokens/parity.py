"""Whether gigatoken gives the ids of Hugging Face: tried on the run's own rows, and on strings made to break it.

The choice is made from the whole split, never from a part of it: all jobs of a split choose alike.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.job import StageError
from snaketune.tokens.backends import Backend, Gigatoken, HuggingFace
from snaketune.tokens.hostile import hostile
from snaketune.tokens.ragged import Ragged

SAMPLE_TEXTS = 2000
SAMPLE_CHARS = 1000  # of each text; Hugging Face takes 0.6 s for the whole sample
SAMPLE_GROUPS = 4


def choose(tokenizer: Any, rows: str, settings: dict[str, Any], threads: int) -> tuple[Backend, str]:
    """The backend for a split, and why it was chosen. Raises StageError where gigatoken is asked for and differs."""
    wanted, parse = settings["backend"], settings["special_tokens"] == "parse"
    if wanted == "huggingface":
        return HuggingFace(tokenizer, parse), "asked for"
    groups = [sample(rows, settings["separator"]), pa.array(hostile(tokenizer))]
    try:
        tried, difference = check(Gigatoken(tokenizer, parse, threads), HuggingFace(tokenizer, parse), groups)
    except StageError:
        raise
    except Exception as error:  # whatever a library raises, the other one has the answer
        tried, difference = "", f"gigatoken cannot read this tokenizer or its texts: {_first_line(error)}"
    if not difference:
        return Gigatoken(tokenizer, parse, threads), f"gigatoken gives the ids of Hugging Face on {tried}"
    if wanted == "gigatoken":
        raise StageError(f"`tokenize.backend: gigatoken` cannot be used: {difference}; set `auto` or `huggingface`")
    return HuggingFace(tokenizer, parse), difference


def check(fast: Backend, exact: Backend, groups: list[pa.Array]) -> tuple[str, str]:
    """What was tried, and the first difference between two backends in words, or nothing."""
    for texts in groups:
        for start in range(0, len(texts), 256):
            part = texts[start : start + 256]
            place = first_difference(fast.encode(part), exact.encode(part))
            if place is not None:
                return "", f"gigatoken gives other ids than Hugging Face for {json.dumps(part[place].as_py()[:200])}"
    return f"{len(groups[0]):,} texts of the split and {len(groups[1]):,} hostile strings", ""


def first_difference(one: Ragged, other: Ragged) -> int | None:
    """The first place where two sets of lists differ, or None."""
    if np.array_equal(one.offsets, other.offsets):
        places = np.flatnonzero(one.values != other.values)
        return None if not places.size else int(np.searchsorted(one.offsets, places[0], side="right")) - 1
    return next(place for place in range(len(one)) if one.row(place) != other.row(place))


def sample(rows: str, separator: str) -> pa.Array:
    """Up to 2,000 texts, as they are tokenized, from rows and row groups spread evenly over the whole split."""
    texts = []
    with pq.ParquetFile(rows) as file:
        groups = _spread(file.num_row_groups, SAMPLE_GROUPS)
        for group in groups.tolist():
            table = file.read_row_group(group, columns=["prompt", "completion"])
            table = table.take(_spread(table.num_rows, SAMPLE_TEXTS // 2 // len(groups)))
            texts += [pc.binary_join_element_wise(table["prompt"], separator, "").drop_null(), table["completion"]]
    texts = [chunk for column in texts for chunk in column.chunks]
    return pc.utf8_slice_codeunits(pa.chunked_array(texts, pa.string()).combine_chunks(), 0, SAMPLE_CHARS)


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
