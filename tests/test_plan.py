"""The plan of a training: its lines, what they come to, and what cannot be planned."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import plan as stage
from builders import row, settings, write
from gather import state_of
from plan import plan
from snaketune.job import StageError
from snaketune.model.batches import Plan
from snaketune.rows import SPLIT
from snaketune.tokens.token_rows import TOKENS
from token_runs import tokenize

SETTINGS = {"batching": "packed", "batch_size": 4, "epochs": 3.0, "max_steps": None, "loss_on": "completion", "seed": 1}
BATCHINGS = ["packed", "length_grouped", "padded"]
Pairs = list[tuple[int, int]]  # tokens, and those of the prompt, of each row


def some(count: int, seed: int = 0) -> Pairs:
    """Rows of 2 to 30 tokens; a third of them without a prompt."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 31, count)
    return [(int(n), int(draw.integers(1, n)) if draw.random() < 0.67 else 0) for n in lengths]


def folder(path: Path, pairs: Pairs, parts: int = 1, width: int = 32) -> None:
    """A token folder and its manifest; the ids of the rows are `<split>-<number>`."""
    path.mkdir(parents=True)
    names = [f"data-{part:05d}.arrow" for part in range(parts)]
    lines = [{"input_ids": [7] * n, "prompt_len": p, "row_id": f"{path.name}-{i}"} for i, (n, p) in enumerate(pairs)]
    for part, name in enumerate(names):
        with pa.ipc.new_stream(str(path / name), TOKENS) as stream:
            some_lines = lines[len(lines) * part // parts : len(lines) * (part + 1) // parts]
            for batch in (some_lines[:5], some_lines[5:]):
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=TOKENS))
    (path / "state.json").write_text(json.dumps(state_of(names, "0" * 64)))
    Path(f"{path}.json").write_text(json.dumps({"max_length": width}))


def made(path: Path, train: Pairs, held: Pairs, parts: int = 1, widths: tuple[int, int] = (32, 32), **changes: Any):
    """Plan some rows: the path of the plan, its lines, and plan.json."""
    for name, pairs, width in zip(("train", "validation"), (train, held), widths, strict=True):
        folder(path / "tokens" / name, pairs, parts, width)
    return planned(path, **changes)


def planned(path: Path, **changes: Any) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    folders = {name: str(path / "tokens" / name) for name in ("train", "validation")}
    manifests = {name: f"{tokens}.json" for name, tokens in folders.items()}
    out, about = path / "train/plan.arrow", path / "train/plan.json"
    plan(folders, manifests, str(out), str(about), SETTINGS | changes)
    with pa.ipc.open_file(str(out)) as file:
        lines = file.read_all().to_pylist()
    return out, lines, json.loads(about.read_text())


def blocks(lines: list[dict[str, Any]]) -> dict[int, list[list[int]]]:
    """The rows of each step's blocks, in the order of the lines."""
    steps = defaultdict(list)
    for (step, _), group in groupby(lines, lambda line: (line["step"], line["block"])):
        steps[step].append([line["row"] for line in group])
    return dict(steps)


def part(lines: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["split"] == split]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_each_epoch_has_every_row_once_and_its_steps_follow_those_of_the_one_before(tmp_path, batching):
    pairs = some(50)
    _, lines, about = made(tmp_path, pairs, some(9, 1), batching=batching)
    train = part(lines, "train")
    for epoch in range(3):
        assert sorted(line["row"] for line in train if line["epoch"] == epoch) == list(range(50))
    steps = blocks(train)
    assert list(steps) == list(range(1, about["steps"] + 1))
    assert about["steps"] == 3 * about["steps_per_epoch"]
    assert {line["epoch"] == (line["step"] - 1) // about["steps_per_epoch"] for line in train} == {True}
    assert [len(steps[step]) for step in steps if step % about["steps_per_epoch"]] == [4] * (about["steps"] - 3)
    assert sum(map(len, steps.values())) == 3 * about["blocks"]
    if batching == "packed":
        assert all(sum(pairs[row][0] for row in block) <= 32 for step in steps.values() for block in step)
        assert max(len(block) for step in steps.values() for block in step) > 1


def test_lines_are_sorted_and_blocks_are_counted_in_their_step(tmp_path):
    _, lines, _ = made(tmp_path, some(50), some(30, 1))
    keys = [(line["split"], line["step"], line["block"]) for line in lines]
    assert keys == sorted(keys)
    numbers = defaultdict(set)
    for split, step, block in keys:
        numbers[split, step].add(block)
    assert all(found == set(range(len(found))) for found in numbers.values())


def test_the_columns_are_those_of_the_schema_and_lie_open_in_the_file(tmp_path):
    out, _, about = made(tmp_path, some(50), some(9, 1))
    held = pa.total_allocated_bytes()
    table = pa.ipc.open_file(pa.memory_map(str(out))).read_all()
    assert table.schema.equals(stage.PLAN)
    assert pa.total_allocated_bytes() - held < 2000 < table.nbytes
    assert json.loads(table.schema.metadata[b"plan"]) == {name: about[name] for name in ("rows", "steps")}


@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_validation_split_has_one_pass_in_a_fixed_order(tmp_path, batching):
    pairs = some(30, 1)
    out, lines, about = made(tmp_path / "a", some(50), pairs, batching=batching)
    held = part(lines, "validation")
    assert {(line["epoch"], line["step"]) for line in held} == {(0, 0)}
    assert sorted(line["row"] for line in held) == list(range(30))
    assert held == part(made(tmp_path / "b", some(20), pairs, batching=batching, seed=9)[1], "validation")
    found = blocks(held)[0]
    assert found == Plan(out).validation
    if batching == "packed":
        assert max(sum(pairs[row][0] for row in block) for block in found) > 30
    else:
        lengths = [pairs[row][0] for (row,) in found]
        assert lengths == sorted(lengths, reverse=True)
    tokens, given = map(sum, zip(*((n, max(p, 1)) for n, p in pairs), strict=True))
    counts = {"rows": 30, "blocks": len(found), "tokens": tokens, "trained_tokens": tokens - given}
    assert about["evaluation"] == counts


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("length", [{"epochs": 2.5}, {"max_steps": 7}, {"max_steps": 61}], ids=str)
def test_what_a_plan_comes_to_is_what_its_lines_come_to(tmp_path, batching, loss_on, length):
    pairs = some(42)
    _, lines, about = made(tmp_path, pairs, some(9, 1), batching=batching, loss_on=loss_on, **length)
    train = part(lines, "train")
    steps = blocks(train)
    per_epoch = about["steps_per_epoch"]
    assert len(steps) == about["steps"] == length.get("max_steps", -(-per_epoch * 5 // 2))
    whole = Counter(line["epoch"] for line in train if line["epoch"] < len(steps) // per_epoch)
    assert set(whole.values()) <= {42}
    tokens = sum(pairs[line["row"]][0] for line in train)
    given = sum(max(pairs[line["row"]][1], 1) if loss_on == "completion" else 1 for line in train)
    sizes = {step: [sum(pairs[row][0] for row in block) for block in found] for step, found in steps.items()}
    wide = {step: len(found) * (32 if batching == "packed" else max(found)) for step, found in sizes.items()}
    expected = {"rows": 42, "width": 32, "batch_size": 4, "seed": 1, "batching": batching}
    expected |= {"tokens": tokens, "trained_tokens": tokens - given, "longest": max(n for n, _ in pairs)}
    expected |= {"epochs": round(len(train) / 42, 4), "tokens_per_step": round(tokens / len(steps), 1)}
    expected |= {"packing_efficiency": round(tokens / sum(wide.values()), 4)}
    expected |= {"most_rows_in_a_step": max(Counter(line["step"] for line in train).values())}
    assert {name: about[name] for name in expected} == expected


def test_a_share_of_an_epoch_is_taken_as_it_is_written(tmp_path):
    """100 steps x 1.1 are 110; in binary fractions they would be a bit more, and 111."""
    _, _, about = made(tmp_path, [(30, 1)] * 400, [(9, 1)], epochs=1.1)
    assert (about["steps_per_epoch"], about["steps"], about["epochs"]) == (100, 110, 1.1)


def test_a_cut_plan_is_the_beginning_of_the_whole_one(tmp_path):
    _, whole, _ = made(tmp_path, some(50), some(9, 1))
    _, cut, about = planned(tmp_path, max_steps=9)
    assert part(cut, "train") == [line for line in part(whole, "train") if line["step"] <= 9]
    assert about["steps_per_epoch"] < 9 < 2 * about["steps_per_epoch"], "it ends in the midst of an epoch"


@pytest.mark.parametrize("batching", BATCHINGS)
def test_equal_input_makes_equal_bytes_and_seeds_make_other_orders(tmp_path, batching):
    train, held = some(50), some(9, 1)
    one, lines, about = made(tmp_path / "1", train, held, batching=batching)
    three, _, _ = made(tmp_path / "3", train, held, parts=3, batching=batching)
    for name in ("plan.arrow", "plan.json"):
        assert one.with_name(name).read_bytes() == three.with_name(name).read_bytes()
    _, other, changed = planned(tmp_path / "1", batching=batching, seed=2)
    assert part(other, "train") != part(lines, "train")
    assert about["blocks"] == changed["blocks"]
    epochs = [[line["row"] for line in part(lines, "train") if line["epoch"] == epoch] for epoch in range(3)]
    assert len(set(map(tuple, epochs))) == 3


def test_a_split_that_was_tokenized_in_parts_has_the_same_plan(tmp_path):
    base = str(Path(__file__).parent.parent / "resources/tiny-gpt")
    rows = [row(f"answer {n} " + "union " * (n % 20), f"question {n}" if n % 3 else None, line=n) for n in range(30)]
    plans = []
    for shards in (1, 3):
        wanted = settings("tokenize", backend="huggingface", max_length=24, shards=shards)
        for name in ("train", "validation"):
            (tmp_path / str(shards) / "tokens").mkdir(parents=True, exist_ok=True)
            table = write(tmp_path / f"{name}.parquet", rows, SPLIT)
            tokenize(table, base, tmp_path / str(shards) / "tokens", name, wanted | {"trust_remote_code": False})
        out, _, about = planned(tmp_path / str(shards))
        plans.append(out.read_bytes())
        manifest = json.loads((tmp_path / str(shards) / "tokens/train.json").read_text())
        assert [manifest[name] * 3 for name in ("tokens", "trained_tokens")] == [
            about["tokens"],
            about["trained_tokens"],
        ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("lines", [1, 60, 130, 1_000_000])
def test_the_training_reads_the_steps_that_were_planned_however_epochs_share_batches(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(stage, "BATCH_LINES", lines)
    out, table, about = made(tmp_path, some(50), some(9, 1), epochs=4.5)
    read, expected = Plan(out), blocks(part(table, "train"))
    assert read.steps == about["steps"] == len(expected)
    assert {step: read.blocks(step) for step in range(1, read.steps + 1)} == expected
    per_epoch = about["steps_per_epoch"]
    assert [read.epoch(step) for step in (0, per_epoch, 3 * per_epoch)] == [0, 1, 3]
    assert round(read.epoch(read.steps), 4) == about["epochs"]
    with pa.ipc.open_file(str(out)) as file:
        assert file.num_record_batches == {1: 6, 60: 4, 130: 3, 1_000_000: 2}[lines]


def test_the_width_and_the_longest_row_are_those_of_both_splits(tmp_path):
    one = made(tmp_path / "a", [(16, 1)] * 4, [(30, 1)], widths=(16, 32))[2]
    other = made(tmp_path / "b", [(30, 1)] * 4, [(16, 1)], widths=(32, 16))[2]
    assert [(about["width"], about["longest"]) for about in (one, other)] == [(32, 30)] * 2


@pytest.mark.parametrize(
    ("train", "held", "changes", "sentence"),
    [
        ([], [(9, 1)], {}, r"the train split has no row; see tokens/train.json"),
        ([(9, 1)], [], {}, r"the validation split has no row; see tokens/validation.json"),
        ([(9, 1)], [(9, 9), (4, 4)], {}, r"the validation split has no token to learn; see tokens/validation.json"),
        (
            [(9, 1)] * 9 + [(33, 1)],
            [(9, 1)],
            {},
            r"row train-9 of the train .* 33 tokens.* 32; see `tokenize.max_length`",
        ),
        ([(9, 1)], [(9, 1), (40, 1)], {"batching": "padded"}, r"row validation-1 of the validation .* 40 tokens"),
        (
            [(9, 1)] * 7 + [(5, 5)],
            [(9, 1)],
            {},
            r"row train-7 of the train split has no token .*completion`: all 5 are",
        ),
        ([(9, 1), (1, 0)], [(9, 1)], {"loss_on": "all"}, r"row train-1 of the train split .* `train.loss_on: all`"),
        ([(9, 1)], [(9, 1), (6, 6)], {}, r"row validation-1 of the validation split has no token to learn"),
    ],
)
def test_what_cannot_be_planned_is_named(tmp_path, train, held, changes, sentence):
    with pytest.raises(StageError, match=sentence):
        made(tmp_path, train, held, parts=2, **changes)


def test_a_row_whose_prompt_is_all_it_has_is_learnt_where_all_tokens_are(tmp_path):
    assert made(tmp_path, [(5, 5)], [(9, 1)], loss_on="all", epochs=1)[2]["trained_tokens"] == 4


def test_the_job_names_its_files_and_loads_neither_torch_nor_pandas(tmp_path):
    made(tmp_path, some(20), some(9, 1))
    (tmp_path / "train/plan.arrow").unlink()
    scripts = Path(stage.__file__).parent
    states = [f"tokens/{name}/state.json" for name in ("train", "validation")]
    program = f"""
import sys
sys.path.insert(0, {str(scripts)!r})
from types import SimpleNamespace
from snaketune.job import run
from plan import _from_job

class Files(dict):
    __getattr__ = dict.__getitem__

files = Files(train="tokens/train.json", validation="tokens/validation.json", states={states})
job = SimpleNamespace(input=files, output=Files(plan="train/plan.arrow", about="train/plan.json"), log=["job.log"])
job.params, job.wildcards, job.rule = SimpleNamespace(settings={SETTINGS}), {{"run": "r"}}, "plan"
heavy = ("torch", "pandas", "datasets", "transformers", "numba")
run(lambda job: f"{{_from_job(job)}} {{[name for name in heavy if name in sys.modules]}}", job, light=True)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert " tokens; " in done.stderr, done.stderr
    assert " [] " in done.stderr
    assert Plan(tmp_path / "train/plan.arrow").steps == json.loads((tmp_path / "train/plan.json").read_text())["steps"]
