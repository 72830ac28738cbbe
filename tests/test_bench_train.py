"""The benchmark of training: our two programs train the plan that was prepared, and count what is useful in it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import models
from snaketune.model.batches import Rows

PROGRAMS = Path(__file__).resolve().parents[1] / "benchmarks/train"
WARM_UP, STEPS = 1, 2
Lines = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bench")
    base = models.base(place / "base")
    for name, rows in {"train": models.pairs(22), "validation": models.pairs(7, seed=9)}.items():
        models.tokens(rows, base, place / "tokens", name)
    return place


@pytest.fixture(scope="module")
def programs() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAMS)
        yield {name: importlib.import_module(name) for name in ("setting", "prepare", "ours", "bare", "run")}


def prepared(programs: Any, folder: Path, **changes: Any) -> Any:
    given = {
        "model": str(folder / "base"),
        "tokens": str(folder / "tokens"),
        "loss_on": "completion",
        "width": 32,
        "device": "cpu",
        "threads": 1,
        "batch_size": 2,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": 5,
        "warm_up": WARM_UP,
        "steps": STEPS,
        "until": None,
        "every": 2,
        "peak": {"fp32": 1e12},
    }
    setting = programs["setting"].Setting(**given | changes)
    programs["prepare"].prepare(folder / "work", setting, ["fp32"], ["packed", "length_grouped"])
    return setting


@pytest.fixture(scope="module")
def lines(folder: Path, programs: Any) -> Lines:
    """What both programs print of both plans."""
    setting = prepared(programs, folder)
    found = {}
    for name in ("ours", "bare"):
        for batching in ("packed", "length_grouped"):
            printed: list[str] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("builtins.print", lambda *words, printed=printed, **_: printed.append(str(words[0])))
                programs[name].train(folder / "work", setting, batching, "fp32")
            found[name, batching] = json.loads(printed[-1])
    return found


def in_plan(folder: Path, batching: str) -> tuple[int, int]:
    """Tokens and trained tokens of the steps on the clock, counted row by row."""
    rows = Rows(str(folder / "tokens/train"))
    with pa.ipc.open_file(str(folder / f"work/plan-{batching}.arrow")) as file:
        plan = [line for line in file.read_all().to_pylist() if line["split"] == "train" and line["step"] > WARM_UP]
    assert {line["step"] for line in plan} == {WARM_UP + 1, WARM_UP + 2}
    sizes = [(len(rows[line["row"]]), int(rows.prompt_lengths[line["row"]])) for line in plan]
    return sum(size for size, _ in sizes), sum(size - prompt for size, prompt in sizes)


@pytest.mark.parametrize("batching", ["packed", "length_grouped"])
@pytest.mark.parametrize("name", ["ours", "bare"])
def test_the_tokens_are_those_of_the_rows_on_the_clock(lines: Lines, folder: Path, name: str, batching: str) -> None:
    line = lines[name, batching]
    assert (line["tokens"], line["trained_tokens"]) == in_plan(folder, batching)
    assert line["steps"] == STEPS
    assert line["seconds"] > 0
    assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"], rel=0.2)
    assert 0 < line["mfu"] < 1


@pytest.mark.parametrize("batching", ["packed", "length_grouped"])
def test_the_bare_loop_learns_what_the_workflow_learns(lines: Lines, batching: str) -> None:
    """But for the decay of biases and norms, which only the bare loop has."""
    assert lines["bare", batching]["loss"] == pytest.approx(lines["ours", batching]["loss"], abs=2e-3)


def test_a_training_ends_at_the_validation_loss_that_is_asked_for(folder: Path, programs: Any, capsys: Any) -> None:
    setting = prepared(programs, folder, until=50.0, steps=6)
    for name in ("ours", "bare"):
        programs[name].train(folder / "work", setting, "packed", "fp32")
        line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert 0 < line["steps"] < 6
        assert line["loss"] <= 50.0


def test_what_comes_before_or_after_the_clock_does_not_count(folder: Path, programs: Any, capsys: Any) -> None:
    setting = prepared(programs, folder)
    meter = programs["setting"].Meter(setting, "fp32")
    meter.start()
    for step in range(WARM_UP + STEPS + 3):
        meter.saw([10**step], step)
        meter.step_done()
    meter.report("one", programs["ours"].process.training_flops(models.build("gpt2", 300, 0)))
    line = json.loads(capsys.readouterr().out)
    assert (line["tokens"], line["trained_tokens"], line["steps"]) == (110, 3, 2)


def test_speeds_are_compared_within_a_round(programs: Any) -> None:
    speeds = {"a": {0: 10.0, 1: 20.0, 2: 40.0}, "b": {0: 5.0, 1: 5.0, 3: 1.0}}
    lines = {name: {at: {"tokens_per_second": of} for at, of in own.items()} for name, own in speeds.items()}
    assert programs["run"].ratio(lines["a"], lines["b"]) == "3.00 (2.00 to 4.00)"


def test_full_blocks_are_the_rows_end_to_end(folder: Path, programs: Any) -> None:
    cut = Rows(programs["prepare"].blocks(str(folder / "tokens"), folder / "full", 16) + "/train")
    rows = Rows(str(folder / "tokens/train"))
    text = [token for row in range(len(rows)) for token in rows[row].tolist()]
    assert [token for row in range(len(cut)) for token in cut[row].tolist()] == text[: len(text) // 16 * 16]
    assert set(cut.lengths.tolist()) == {16}
