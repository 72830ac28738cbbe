"""The whole order of a training as a file: which rows stand in which sequence of which step.

In:  tokens/{train,validation}/ and their manifests
Out: train/plan.arrow   schema PLAN, a line for each row in each epoch, sorted by split, step, block, place in the block
     train/plan.json    what it comes to: steps, tokens, how full the blocks are

Steps of the train split are numbered from 1 through all epochs; the validation split has one pass, as step 0. `block`
counts the sequences of a step, `row` the rows of a token folder. The file is a function of the lengths of the rows, of
the settings and of the seed: it does not know how many processes compute a step, nor in how many passes, so neither
those nor an interruption change what is learnt when. It is written epoch by epoch, with one epoch in memory, and not
compressed: the training maps it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.packing import Schedule, group_by_length, pack, trained_tokens
from snaketune.tokens.ragged import Ragged

SPLITS = ("train", "validation")
PLAN = pa.schema(
    [
        ("split", pa.dictionary(pa.int8(), pa.string())),
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("block", pa.int32()),
        ("row", pa.int32()),
    ]
)
BATCH_LINES = 65_536  # epochs of fewer lines share a record batch


@dataclass(frozen=True)
class Lengths:
    """The tokens of each row of a token folder, and those of them that are trained, [n] int64 each."""

    tokens: np.ndarray
    trained: np.ndarray


@dataclass
class Sums:
    """What the blocks of a split come to."""

    blocks: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    room: int = 0  # the tokens that the sequences would hold, if each of a step were as long as its longest
    most_rows: int = 0  # in a step

    def add(self, blocks: Ragged, lengths: Lengths, batch_size: int) -> None:
        """Count the blocks of whole steps."""
        tokens = lengths.tokens[blocks.values]
        sizes = np.add.reduceat(tokens, blocks.offsets[:-1])
        first = np.arange(0, len(blocks), batch_size)  # of each step
        in_step = np.diff(first, append=len(blocks))
        self.blocks += len(blocks)
        self.tokens += int(tokens.sum())
        self.trained_tokens += int(lengths.trained[blocks.values].sum())
        self.room += int((np.maximum.reduceat(sizes, first) * in_step).sum())
        self.most_rows = max(self.most_rows, int(np.add.reduceat(blocks.lengths, first).max()))


def plan(tokens: dict[str, str], manifests: dict[str, str], out: str, about: str, settings: dict[str, Any]) -> str:
    """Plan a training; tokens: the folders `train` and `validation`; manifests: their manifests.

    Raises StageError where a split has nothing to learn from, or a row that cannot be planned.
    """
    width = max(json.loads(Path(manifests[name]).read_text(encoding="utf-8"))["max_length"] for name in SPLITS)
    train, held = (_lengths(name, tokens[name], width, settings["loss_on"]) for name in SPLITS)
    size, batching = settings["batch_size"], settings["batching"]
    schedule = Schedule(train.tokens, batching, size, width, settings["seed"])
    # As a fraction of what is written: 100 steps x 1.1 epochs would be 110.00000000000001.
    steps = settings["max_steps"] or ceil(schedule.steps * Fraction(str(settings["epochs"])))
    if batching == "packed":
        fixed = Ragged.of(pack(held.tokens, width))
    else:
        fixed = Ragged.of(list(chain.from_iterable(group_by_length(held.tokens, size))))
    learnt, evaluated = Sums(), Sums()
    evaluated.add(fixed, held, size)
    for path in (out, about):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    facts = {"rows": len(train.tokens), "steps": steps}
    lines = 0
    with pa.ipc.new_file(out, PLAN.with_metadata({"plan": json.dumps(facts)})) as file:
        for batch in _gathered(_epochs(schedule, steps, train, size, learnt)):
            file.write_batch(_batch("train", batch))
            lines += batch.shape[1]
        file.write_batch(_batch("validation", _lines(fixed, 0, np.zeros(len(fixed)), np.arange(len(fixed)))))
    facts |= {
        "batching": batching,
        "batch_size": size,
        "seed": settings["seed"],
        "width": width,
        "epochs": round(lines / len(train.tokens), 4),
        "steps_per_epoch": schedule.steps,
        "blocks": schedule.blocks,
        "longest": int(max(train.tokens.max(), held.tokens.max())),
        "most_rows_in_a_step": learnt.most_rows,
        "tokens": learnt.tokens,
        "trained_tokens": learnt.trained_tokens,
        "tokens_per_step": round(learnt.tokens / steps, 1),
        "packing_efficiency": round(
            learnt.tokens / (learnt.blocks * width if batching == "packed" else learnt.room), 4
        ),
        "evaluation": {
            "rows": len(held.tokens),
            "blocks": len(fixed),
            "tokens": evaluated.tokens,
            "trained_tokens": evaluated.trained_tokens,
        },
    }
    Path(about).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return (
        f"{steps:,} steps of {size:,} sequences, {facts['epochs']:g} epochs, {learnt.tokens:,} tokens; "
        f"{facts['packing_efficiency']:.1%} of the sequences is text"
    )


def _lengths(split: str, folder: str, width: int, loss_on: str) -> Lengths:
    """What the rows of a token folder hold, in the order of its files. Raises StageError for one that is no use."""
    lengths, prompts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in _batches(folder):
        lengths.append(np.diff(batch["input_ids"].offsets.to_numpy()))
        prompts.append(batch["prompt_len"].to_numpy())
    tokens = np.concatenate(lengths)
    if not len(tokens):
        raise StageError(f"the {split} split has no row; see tokens/{split}.json and `split`")
    trained = trained_tokens(tokens, np.concatenate(prompts), loss_on)
    if not (trained > 0).any():
        raise StageError(f"the {split} split has no token to learn; see tokens/{split}.json and `train.loss_on`")
    longest, least = int(tokens.argmax()), int(trained.argmin())
    if tokens[longest] > width:
        raise StageError(
            f"row {_row_id(folder, longest)} of the {split} split has {tokens[longest]} tokens, and a sequence holds "
            f"{width}; see `tokenize.max_length`, and tokenize the split again"
        )
    if trained[least] < 1:
        raise StageError(
            f"row {_row_id(folder, least)} of the {split} split has no token to learn with `train.loss_on: {loss_on}`: "
            f"all {tokens[least]} are given; remove it from the data, and tokenize the split again"
        )
    return Lengths(tokens, trained)


def _batches(folder: str) -> Iterator[pa.RecordBatch]:
    """The record batches of a token folder. Mapped: of the ids, which are most of a file, no page is read."""
    state = json.loads((Path(folder) / "state.json").read_text(encoding="utf-8"))
    for file in state["_data_files"]:
        with pa.memory_map(str(Path(folder) / file["filename"])) as source, pa.ipc.open_stream(source) as stream:
            yield from stream


def _row_id(folder: str, row: int) -> str:
    for batch in _batches(folder):
        if row < batch.num_rows:
            return batch["row_id"][row].as_py()
        row -= batch.num_rows
    raise IndexError(row)


def _epochs(schedule: Schedule, steps: int, lengths: Lengths, size: int, sums: Sums) -> Iterator[np.ndarray]:
    """The lines of each epoch up to step `steps`, [4, n]; they are counted in `sums` as they pass."""
    for number in range(-(-steps // schedule.steps)):
        blocks = schedule.epoch(number)
        done = number * schedule.steps
        if (most := (steps - done) * size) < len(blocks):
            blocks = Ragged(blocks.values[: blocks.offsets[most]], blocks.offsets[: most + 1])
        sums.add(blocks, lengths, size)
        step, block = np.divmod(np.arange(len(blocks)), size)
        yield _lines(blocks, number, step + done + 1, block)


def _lines(blocks: Ragged, epoch: int, step: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Epoch, step, block and row, [4, n] int32; step, block: of each block."""
    lines = np.empty((4, len(blocks.values)), dtype=np.int32)
    lines[0] = epoch
    lines[1] = np.repeat(step, blocks.lengths)
    lines[2] = np.repeat(block, blocks.lengths)
    lines[3] = blocks.values
    return lines


def _gathered(epochs: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Whole epochs, [4, n], so many at once that a batch is worth it."""
    waiting: list[np.ndarray] = []
    count = 0
    for lines in epochs:
        waiting.append(lines)
        count += lines.shape[1]
        if count >= BATCH_LINES:
            yield np.concatenate(waiting, axis=1)
            waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting, axis=1)


def _batch(split: str, lines: np.ndarray) -> pa.RecordBatch:
    number = np.full(lines.shape[1], SPLITS.index(split), dtype=np.int8)
    names = pa.DictionaryArray.from_arrays(pa.array(number), pa.array(SPLITS))
    return pa.RecordBatch.from_arrays([names, *map(pa.array, lines)], schema=PLAN)


def _from_job(job: Any) -> str:
    folders = {name: str(Path(state).parent) for name, state in zip(SPLITS, job.input.states, strict=True)}
    manifests = {name: job.input[name] for name in SPLITS}
    return plan(folders, manifests, job.output.plan, job.output.about, job.params.settings)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
