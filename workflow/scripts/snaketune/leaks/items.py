"""The texts of the user's test sets, as hashes of their n-grams of words.

An item is one text field of one test row: a string, or the strings of a nested value, in order. Where the user names
the fields, each counts. Else a field counts if it has an n-gram, or at least half the characters of the longest field
of its row: that keeps short questions, and leaves out categories, answers and ids, which stand everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.ingest.formats import FORMATS, Bad, format_of
from snaketune.ingest.sources import read
from snaketune.job import StageError
from snaketune.text import minhash

SHORTEST = 3  # words: what is shorter stands in many texts by chance
HEAD = 160
PIECE = 4_000_000  # characters that are hashed at once


@dataclass(frozen=True)
class Text:
    """A field of a test row: its file, the number of its row there and in all, and whether it counts when short."""

    file: str
    row: int
    number: int
    text: str
    main: bool


@dataclass(frozen=True)
class Items:
    """The i items, and what is told of the test sets as a whole."""

    files: list[str]  # [i]
    rows: np.ndarray  # [i] int64, number of the row in its file, from 1
    numbers: np.ndarray  # [i] int64, number of the row in all files
    heads: list[str]  # [i]
    words: np.ndarray  # [i] int64, at most those of an n-gram
    flat: np.ndarray  # [total] uint64, the n-grams; of a shorter item one hash, of all its words
    offsets: np.ndarray  # [i + 1] int64
    triggers: np.ndarray  # [i] uint64, the rarest run of SHORTEST words of each item that is shorter than an n-gram
    count: int  # test rows
    ignored: int  # test rows without an item

    @property
    def short(self) -> np.ndarray:
        """The numbers of the items that have a trigger."""
        return np.flatnonzero(self.triggers)


def read_items(paths: list[str], fields: list[str], ngram: int) -> Items:
    """The items of test files, in the order of the files.

    Raises StageError where a file has a row that cannot be read, or none of the named fields.
    """
    kept: list[Text] = []
    words, flats, sizes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    short: list[str] = []
    count = 0
    for texts in _pieces(_texts(paths, fields)):
        count = texts[-1].number + 1
        array = pa.array([text.text for text in texts], pa.string())
        length = word_counts(array, ngram)
        chosen = np.flatnonzero((length >= SHORTEST) & ((length >= ngram) | np.array([text.main for text in texts])))
        flat, offsets = minhash.shingle_sets(array.take(pa.array(chosen)), ngram)
        short += [texts[at].text for at in chosen.tolist() if length[at] < ngram]
        kept += [replace(texts[at], text=texts[at].text[:HEAD]) for at in chosen.tolist()]
        words.append(length[chosen])
        flats.append(flat)
        sizes.append(np.diff(offsets))
    found = np.concatenate(words)
    triggers = np.zeros(len(found), dtype=np.uint64)
    triggers[found < ngram] = rarest(pa.array(short, pa.string()))
    numbers = np.array([text.number for text in kept], dtype=np.int64)
    return Items(
        [text.file for text in kept],
        np.array([text.row for text in kept], dtype=np.int64),
        numbers,
        [text.text for text in kept],
        found,
        np.concatenate(flats),
        np.cumsum(np.concatenate(sizes)),
        triggers,
        count,
        count - len(np.unique(numbers)),
    )


def word_counts(texts: pa.Array, most: int) -> np.ndarray:
    """How many words each text has [n] int64, or `most` where it has more.

    Told by the shingles, so that a word is here what it is there: a text has k words or fewer exactly where its
    shingles of k words are those of k + 1.
    """
    counts = np.full(len(texts), most, dtype=np.int64)
    left, larger = np.arange(len(texts)), _prints(texts, most)
    for words in range(most - 1, 0, -1):
        smaller = _prints(texts.take(pa.array(left)), words)
        fewer = (smaller == larger).all(axis=1)
        left, larger = left[fewer], smaller[fewer]
        counts[left] = words
    counts[left[larger[:, 0] == 0]] = 0
    return counts


def _prints(texts: pa.Array, words: int) -> np.ndarray:
    """The size and the sum of each shingle set [n, 2] uint64."""
    flat, offsets = minhash.shingle_sets(texts, words)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(flat, dtype=np.uint64)])
    return np.stack([np.diff(offsets).astype(np.uint64), sums[offsets[1:]] - sums[offsets[:-1]]], axis=1)


def rarest(texts: pa.Array) -> np.ndarray:
    """The run of SHORTEST words of each text [n] uint64 that the fewest of these texts have, ties by the hash."""
    flat, offsets = minhash.shingle_sets(texts, SHORTEST)
    _, member, counts = np.unique(flat, return_inverse=True, return_counts=True)
    text = np.repeat(np.arange(len(texts)), np.diff(offsets))
    order = np.lexsort((flat, counts[member], text))
    return flat[order][offsets[:-1]]


def _pieces(texts: Iterator[Text]) -> Iterator[list[Text]]:
    held, chars = [], 0
    for text in texts:
        held.append(text)
        chars += len(text.text)
        if chars >= PIECE:
            yield held
            held, chars = [], 0
    if held:
        yield held


def _texts(paths: list[str], fields: list[str]) -> Iterator[Text]:
    """The text fields of the rows of all files; of a row without any, one empty text."""
    number = -1
    for path in paths:
        seen: set[str] = set()
        for row, values in enumerate(_rows(path), start=1):
            number += 1
            seen.update(values)
            texts = ["\n".join(_strings(values.get(name))) for name in fields or values]
            longest = max(map(len, texts), default=0)
            for text in texts or [""]:
                yield Text(path, row, number, text, bool(fields) or 2 * len(text) >= longest)
        if seen and (missing := [name for name in fields if name not in seen]):
            raise StageError(
                f"the test file {path} has no field `{missing[0]}`, which `decontaminate.fields` names; it has "
                f"{', '.join(sorted(seen))}"
            )


def _rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of one file as their fields; a line is a row of a plain text."""
    kind = format_of(path)
    if kind is None:
        known = ", ".join(sorted(FORMATS))
        raise StageError(f"the format of the test file {path} cannot be told: its name should end with one of {known}")
    for raw in read(path, Path(path).name, kind, text_unit="line"):
        if isinstance(raw, Bad):
            raise StageError(
                f"the test file {path} cannot be read at line {raw.line}: {raw.reason}. Mend the file, or leave it "
                "out of `decontaminate.files`"
            )
        # Beside the text of a plain text file stands the file's name.
        yield {"text": raw.fields["text"]} if kind == "text" else raw.fields


def _strings(value: Any) -> Iterator[str]:
    """The strings of a nested value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
