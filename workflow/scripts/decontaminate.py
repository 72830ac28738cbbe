"""Rows of one shard and the user's test sets in; the rows that hold text of a test item out.

In:  clean/rows-<shard>.parquet, the files of `decontaminate.files`
Out: decontaminate/hits-<shard>.parquet   each such row with the item: file, number of its row, overlap, first words

An item is a text of a test row (see `test_items`); its overlap is the share of its n-grams of words that stand in the
row. An item of fewer words than an n-gram has none, and other systems never see it (46 % of Marin's recall test): here
it must stand whole in the row, word by word. What stands in more than `max_rows` items of the test sets themselves,
such as a licence or an instruction, is common property and tells nothing; that depends on no shard.
Memory: 8 bytes for each n-gram of the test sets and 32 in the index, and a batch of rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import run
from snaketune.leaks import overlap
from snaketune.leaks.items import SHORTEST, Items, read_items
from snaketune.leaks.near_rows import joint
from snaketune.rows import TableWriter, batches
from snaketune.text import minhash

HITS = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("test_file", pa.string()),
        ("item", pa.int64()),  # the number of the row in its test file, from 1
        ("overlap", pa.float64()),
        ("head", pa.string()),
    ]
)
# What a search gives: the number of a row in its batch, of an item, and the overlap.
FOUND = np.dtype([("row", np.int64), ("item", np.int64), ("overlap", np.float64)])
PLACE = ["row_id", "source", "line"]
COLUMNS = [*PLACE, "prompt", "completion"]


def decontaminate(rows: str, tests: list[str], hits: str, settings: dict[str, Any]) -> str:
    """Look for the items of the files `tests` in the rows; settings: the section `decontaminate`.

    Raises StageError where a test file cannot be read.
    """
    items = read_items(tests, settings["fields"], settings["ngram"])
    searches = (_long(items, settings), _short(items, settings))
    seen, found, touched = 0, 0, np.zeros(len(items.rows), dtype=bool)
    with TableWriter(hits, HITS) as out:
        for batch in batches(rows, COLUMNS):
            pairs = np.concatenate([search(joint(batch)) for search in searches])
            table = _best(batch, pairs, items)
            out.write(table)
            seen += batch.num_rows
            found += len(np.unique(pairs["row"]))
            touched[pairs["item"]] = True
    hit = len(np.unique(items.numbers[touched]))
    left = f"; {items.ignored:,} test rows of fewer than {SHORTEST} words are not looked for" * bool(items.ignored)
    return f"{found:,} of {seen:,} rows hold text of {hit:,} of {items.count:,} test rows{left}"


def _long(items: Items, settings: dict[str, Any]) -> Callable[[pa.Array], np.ndarray]:
    """The search for items of an n-gram or more, by the share of their n-grams."""
    sizes = np.where(items.triggers == 0, np.diff(items.offsets), 0)
    member = np.repeat(np.arange(len(sizes)), np.diff(items.offsets))
    long = sizes[member] > 0
    index = overlap.build(items.flat[long], member[long], len(sizes), settings["max_rows"])
    sizes = sizes - index.common
    needed = np.where(sizes > 0, np.ceil(settings["min_overlap"] * sizes - 1e-9), np.iinfo(np.int32).max)

    def search(texts: pa.Array) -> np.ndarray:
        flat, offsets = minhash.shingle_sets(texts, settings["ngram"])
        row, item, shared = overlap.holding(index.arrays, flat, offsets, needed.astype(np.int64))
        return _found(row, item, shared / sizes[item])

    return search


def _short(items: Items, settings: dict[str, Any]) -> Callable[[pa.Array], np.ndarray]:
    """The search for items of fewer words: by their rarest run of SHORTEST words, then by all their words."""
    short, one = items.short, np.ones(len(items.rows), dtype=np.int64)
    triggers = overlap.build(items.triggers[short], short, len(one), len(one))
    whole = {
        int(words): overlap.build(
            items.flat[items.offsets[part]], part, len(one), settings["max_rows"]
        ).arrays
        for words in np.unique(items.words[short])
        for part in [short[items.words[short] == words]]
    }  # fmt: skip

    def search(texts: pa.Array) -> np.ndarray:
        flat, offsets = minhash.shingle_sets(texts if whole else texts.slice(0, 0), SHORTEST)
        row, item, _ = overlap.holding(triggers.arrays, flat, offsets, one)
        parts = [np.empty(0, FOUND)]
        for words, index in whole.items():
            rows = np.unique(row[items.words[item] == words])
            part, found, _ = overlap.holding(index, *minhash.shingle_sets(texts.take(pa.array(rows)), words), one)
            parts.append(_found(rows[part], found, np.ones(len(found))))
        return np.concatenate(parts)

    return search


def _found(row: np.ndarray, item: np.ndarray, overlap_of: np.ndarray) -> np.ndarray:
    made = np.empty(len(row), FOUND)
    made["row"], made["item"], made["overlap"] = row, item, overlap_of
    return made


def _best(batch: pa.Table, pairs: np.ndarray, items: Items) -> pa.Table:
    """The hits as a table: of each row and test row the item with the greatest overlap, by row, then by item."""
    order = np.lexsort((pairs["item"], -pairs["overlap"], items.numbers[pairs["item"]], pairs["row"]))
    pairs = pairs[order]
    number = items.numbers[pairs["item"]]
    new = np.r_[True, (np.diff(pairs["row"]) != 0) | (np.diff(number) != 0)][: len(pairs)]
    pairs = pairs[new]
    item = pairs["item"].tolist()
    table = batch.select(PLACE).take(pa.array(pairs["row"]))
    table = table.append_column("test_file", pa.array([items.files[at] for at in item], pa.string()))
    table = table.append_column("item", pa.array(items.rows[pairs["item"]]))
    table = table.append_column("overlap", pa.array(pairs["overlap"]))
    return table.append_column("head", pa.array([items.heads[at] for at in item], pa.string()))


if __name__ == "__main__":
    run(
        lambda job: decontaminate(job.input.rows, list(job.input.tests), job.output.hits, job.params.settings),
        snakemake,
        light=True,
    )
