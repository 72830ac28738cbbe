"""Further train rows, made of those that are there: by noise, by synonyms, by models that rewrite.

In:  split/{train,validation,test}.parquet
Out: augment/train.parquet, schema rows.SPLIT: the train rows, then the rows made, each part in the order of row_id

A row that is made, a child, has the cluster, family, group and label of its parent, and so can never stand on another
side of the split. Its source is `augment:<method>`, its line the number of the copy, and `meta` names its parent. It
depends on the seed, on the parent, on the method and on the number alone. Of a chat, the last question (or the answer)
is changed, in its messages too.

A child must be new: it is dropped where it equals a row of any split or an earlier child (case and white space aside),
where its prompt is one of validation or test, and where it is near to a row of these (Jaccard similarity of 5-word
shingles, exact; see `held_out`), since the leak check would rightly fail on it.

Memory: 8 bytes a row and 16 a child, 11 bytes a word of validation and test, some batches; children wait on disk.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.augment import noise
from snaketune.job import run
from snaketune.leaks.held_out import HeldOut
from snaketune.rows import SPLIT, TableWriter, batches, row_id
from snaketune.split.external_sort import bucket_bits, sorted_rows
from snaketune.text import chat, keys
from snaketune.text.words import joint

NEAR = 0.8  # the similarity from which a child is too near; less where the leak check fails on less
NOT_MADE, EQUAL, HELD = "without another version", "equal to a row that is there", "near a validation or test row"
# The texts of some rows, the ids of these rows, and of each row its copies, None where one cannot be made.
Maker = Callable[[list[str], list[str]], list[list[str | None]]]


def augment(inputs: dict[str, str], output: str, settings: dict[str, Any]) -> str:
    """Write the train rows and their children; `inputs` names the files train, validation and test.

    Raises StageError where a lexicon or a model cannot be read.
    """
    methods = settings["methods"]
    makers = [maker(way, settings["seed"], first) for way, first in zip(methods, _firsts(methods), strict=True)]
    outcome: Counter[str] = Counter()
    news = News(inputs, settings["shingle_words"], settings["similarity"])
    with TemporaryDirectory(dir=_folder(output)) as folder, TableWriter(output, SPLIT) as out:
        for batch in batches(inputs["train"]):
            out.write(batch)
        parents = out.rows
        bits = bucket_bits(news.chars * sum(way["copies"] for way in methods))
        made = (news.only(_children(some, methods, makers, outcome), outcome) for some in _parents(inputs, methods))
        for part in sorted_rows((table for table in made if len(table)), Path(folder), bits):
            out.write(part)
    dropped = ", ".join(f"{outcome[why]:,} {why}" for why in (NOT_MADE, EQUAL, HELD) if outcome[why])
    return f"{out.rows - parents:,} rows made of {parents:,} train rows" + (f"; left out: {dropped}" if dropped else "")


def maker(way: dict[str, Any], seed: int, first: int) -> Maker:
    """What makes the copies of one method; `first` is the number of its first copy."""
    method, copies = way["method"], way["copies"]
    if method == "paraphrase":
        from snaketune.augment.rewrite import Rewriter

        model = Rewriter(way["model"], way["prefix"])
        return lambda texts, ids: model.rewrite(texts, copies)
    if method == "back_translation":
        from snaketune.augment.rewrite import Rewriter, there_and_back

        there, back = Rewriter(way["model"], way["prefix"]), Rewriter(way["back_model"], way["prefix"])
        return lambda texts, ids: there_and_back(there, back, texts, copies)
    if method == "synonyms":
        from snaketune.augment.synonyms import Synonyms

        change = Synonyms(way["lexicon"]).replace
    else:
        change = noise.METHODS[method]

    def change_all(texts: list[str], ids: list[str]) -> list[list[str | None]]:
        return [
            [change(text, way["share"], _random(seed, name, method, first + copy)) for copy in range(copies)]
            for text, name in zip(texts, ids, strict=True)
        ]

    return change_all


class News:
    """Tells which children are new; it knows the rows of all splits, and every child that was new."""

    def __init__(self, inputs: dict[str, str], words: int, similarity: float) -> None:
        texts, prompts = [np.zeros(1, np.uint64)], [np.zeros(1, np.uint64)]
        self.chars = 0  # of train
        for split in ("train", "validation", "test"):
            for batch in batches(inputs[split], ["prompt", "completion"]):
                texts.append(keys.normal(_text(batch), "spacing"))
                if split == "train":
                    self.chars += pc.sum(pc.utf8_length(_text(batch))).as_py() or 0
                else:
                    prompts.append(keys.normal(batch["prompt"], "spacing"))
        self._texts, self._prompts = (np.unique(np.concatenate(found)) for found in (texts, prompts))
        held = chain.from_iterable(batches(inputs[split], ["prompt", "completion"]) for split in ("validation", "test"))
        self._held = HeldOut(map(_text, held), words, min(NEAR, similarity))

    def only(self, children: pa.Table, outcome: Counter[str]) -> pa.Table:
        """The children that are new, in their order; the others are counted in `outcome` by the reason."""
        if not len(children):
            return children
        texts = _text(children)
        mine = keys.normal(texts, "spacing")
        new = np.zeros(len(children), dtype=bool)
        new[np.unique(mine, return_index=True)[1]] = True
        new &= ~np.isin(mine, self._texts)
        prompts = keys.normal(children["prompt"], "spacing")
        new &= (prompts == 0) | ~np.isin(prompts, self._prompts)
        near = new.copy()
        near[new] = self._held.near(texts.filter(pa.array(new)))
        outcome[EQUAL] += int((~new).sum())
        outcome[HELD] += int(near.sum())
        kept = new & ~near
        self._texts = np.union1d(self._texts, mine[kept])
        return children.filter(pa.array(kept))


def _parents(inputs: dict[str, str], methods: list[dict[str, Any]]) -> Iterator[pa.Table]:
    """The train rows, in parts whose children are about as much as a batch of rows."""
    copies = sum(way["copies"] for way in methods)
    for batch in batches(inputs["train"]):
        step = -(-len(batch) // copies)
        yield from (batch.slice(start, step) for start in range(0, len(batch), step))


def _children(batch: pa.Table, methods: list[dict[str, Any]], makers: list[Maker], outcome: Counter[str]) -> pa.Table:
    """The children of some rows, by parent, method and number; those that could not be made are counted."""
    rows = batch.select(["row_id", "prompt", "completion", "messages"]).to_pylist()
    made: list[tuple[int, int, int, dict[str, Any]]] = []
    for order, (way, make, first) in enumerate(zip(methods, makers, _firsts(methods), strict=True)):
        given = [(place, field, text) for place, row in enumerate(rows) for field, text in _changed_text(row, way)]
        versions = make([text for *_, text in given], [rows[place]["row_id"] for place, *_ in given])
        count = 0
        for (place, field, text), copies in zip(given, versions, strict=True):
            for copy, version in enumerate(copies):
                if version and version.strip() and version != text:
                    child = _child(rows[place], field, version)
                    child |= _marks(rows[place]["row_id"], way["method"], first + copy)
                    made.append((place, order, copy, child))
                    count += 1
        outcome[NOT_MADE] += len(rows) * way["copies"] - count
    made.sort(key=lambda entry: entry[:3])
    children = batch.take(pa.array([place for place, *_ in made], pa.int64()))
    for name in ("row_id", "source", "line", "prompt", "completion", "messages", "meta"):
        column = pa.array([child[name] for *_, child in made], SPLIT.field(name).type)
        children = children.set_column(children.schema.get_field_index(name), name, column)
    return children


def _changed_text(row: dict[str, Any], way: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The field of a row that a method changes, and the text in it that is changed; nothing where there is none."""
    asked = row["prompt"] is not None and bool(row["prompt"].strip())
    field = way["field"] if way["field"] != "auto" else "prompt" if asked else "completion"
    text = row[field]
    if row["messages"] is not None:
        turns = chat.parse(row["messages"])
        place = _turn(turns, field)
        text = None if place is None else turns[place]["content"]
    if text is not None and text.strip():
        yield field, text


def _turn(turns: list[chat.Message], field: str) -> int | None:
    """Which turn of a chat is changed: the answer, which is the last one, or the last question."""
    if field == "completion":
        return len(turns) - 1
    return next((place for place in range(len(turns) - 2, -1, -1) if turns[place]["role"] == "user"), None)


def _child(row: dict[str, Any], field: str, version: str) -> dict[str, Any]:
    """The texts of a child, and the id that follows from them."""
    texts = {name: row[name] for name in ("prompt", "completion", "messages")}
    if row["messages"] is None:
        texts[field] = version
    else:
        turns = chat.parse(row["messages"])
        turns[_turn(turns, field)]["content"] = version
        texts["messages"] = chat.dump(turns)
        texts[field] = version if field == "completion" else chat.render(turns[:-1])
    return texts | {"row_id": row_id(texts["prompt"], texts["completion"], texts["messages"])}


def _marks(parent: str, method: str, number: int) -> dict[str, Any]:
    meta = json.dumps({"parent": parent, "method": method})
    return {"source": f"augment:{method}", "line": number, "meta": meta}


def _firsts(methods: list[dict[str, Any]]) -> list[int]:
    """The number of each method's first copy: from 1, and on where a method is given twice."""
    given: Counter[str] = Counter()
    firsts = []
    for way in methods:
        firsts.append(1 + given[way["method"]])
        given[way["method"]] += way["copies"]
    return firsts


def _random(seed: int, name: str, method: str, number: int) -> Random:
    digest = blake2b(f"{seed}:{name}:{method}:{number}".encode(), digest_size=16).digest()
    return Random(int.from_bytes(digest, "big"))


def _text(table: pa.Table) -> pa.Array:
    """Each row as one text."""
    return joint(table["prompt"].combine_chunks(), table["completion"].combine_chunks())


def _folder(output: str) -> Path:
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    return Path(output).parent


if __name__ == "__main__":
    run(
        lambda job: augment(
            {split: job.input[split] for split in ("train", "validation", "test")},
            job.output.train,
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
