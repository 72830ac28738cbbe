"""What a search tries: the same for every order and number of cores, never the same twice, and better than chance."""

import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import propose as stage
from snaketune.job import StageError
from snaketune.tune import sampling
from snaketune.tune.bounds import bounds

SPACE = {
    "train.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True},
    "train.warmup": {"low": 0.0, "high": 0.3},
    "train.batch_size": [8, 16, 32, 64],
    "train.epochs": {"low": 1, "high": 5},
    "train.scheduler": ["linear", "cosine", "constant"],
}
METHODS = ("random", "qmc", "tpe")


def bowl(values: dict[str, Any]) -> float:
    """A loss without noise: least at a learning rate of 5e-4, a warm-up of 0.08 and 16 sequences."""
    rate = math.log10(values["train.learning_rate"]) + 3.3
    return rate**2 / 2 + 20 * (values["train.warmup"] - 0.08) ** 2 + abs(math.log2(values["train.batch_size"] / 16)) / 5


def cliff(values: dict[str, Any]) -> float | None:
    """The same; above a learning rate of 6e-3, the training fails."""
    return None if math.log10(values["train.learning_rate"]) > -2.2 else bowl(values)


def trial(number: int, values: dict[str, Any], loss: float | None, curve: tuple[float, ...] = ()) -> dict[str, Any]:
    state = "failed" if loss is None else "complete"
    return {"number": number, "values": values, "state": state, "loss": loss, "curve": list(curve or [loss])}


def searched(
    method: str,
    seed: int = 0,
    size: int = 4,
    count: int = 24,
    space: dict[str, Any] = SPACE,
    loss: Callable[[dict[str, Any]], float | None] = bowl,
) -> list[dict[str, Any]]:
    """All trials of a search."""
    trials: list[dict[str, Any]] = []
    for generation in range(-(-count // size)):
        asked = min(size, count - len(trials))
        for values in sampling.propose(space, method, generation, asked, list(trials), seed):
            trials.append(trial(len(trials), values, loss(values)))
    return trials


def values_of(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["values"] for each in trials]


@pytest.mark.parametrize("method", METHODS)
def test_proposals_do_not_depend_on_the_order_of_the_results_and_can_be_repeated(method) -> None:
    trials = searched(method, count=12)
    trials[5] |= {"state": "pruned", "loss": None, "curve": [3.0, 2.5]}
    trials[7] |= {"state": "failed", "loss": None, "curve": []}
    found = sampling.propose(SPACE, method, 3, 4, trials, seed=1)
    assert sampling.propose(SPACE, method, 3, 4, trials, seed=1) == found
    for draw in range(3):
        mixed = random.Random(draw).sample(trials, len(trials))
        assert sampling.propose(dict(reversed(SPACE.items())), method, 3, 4, mixed, seed=1) == found
    assert sampling.propose(SPACE, method, 3, 4, trials, seed=2) != found


def test_another_process_proposes_the_same(tmp_path) -> None:
    trials = searched("tpe", count=12)
    (tmp_path / "given.json").write_text(json.dumps([SPACE, "tpe", 3, 4, trials, 0]))
    program = (
        "import json, sys; from snaketune.tune.sampling import propose\n"
        "print(json.dumps(propose(*json.load(open(sys.argv[1])))), 'torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(stage.__file__).parent), "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", program, str(tmp_path / "given.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{json.dumps(sampling.propose(SPACE, 'tpe', 3, 4, trials, 0))} False"
    assert done.stderr == "", "Optuna is silent"


@pytest.mark.parametrize("method", ["random", "qmc"])
def test_sequences_do_not_depend_on_the_size_of_a_generation(method) -> None:
    whole = values_of(searched(method, size=24))
    assert [values_of(searched(method, size=size)) for size in (1, 5, 7)] == [whole] * 3
    assert values_of(searched(method, size=4, count=10)) == whole[:10]


def test_a_grid_is_gone_through_once_and_its_last_generation_may_be_smaller() -> None:
    space = {"train.learning_rate": ["1e-5", "1e-4"], "train.warmup": {"low": 0.0, "high": 0.2, "step": 0.1}}
    sizes = [
        len(sampling.propose(space, "grid", done // 4, 4, [{"number": n, "values": {}} for n in range(done)], 0))
        for done in (0, 4)
    ]
    assert sizes == [4, 2]
    found = values_of(searched("grid", count=6, space=space, loss=lambda values: 1.0))
    assert [tuple(values.values()) for values in found] == [(r, w) for r in (1e-5, 1e-4) for w in (0.0, 0.1, 0.2)]


@pytest.mark.parametrize("method", METHODS)
def test_values_are_of_their_kind_within_their_ends_and_survive_json(method) -> None:
    found = values_of(searched(method, count=32))
    assert json.loads(json.dumps(found)) == found
    for values in found:
        assert list(values) == sorted(SPACE)
        assert 1e-6 <= values["train.learning_rate"] <= 1e-1
        assert 0 <= values["train.warmup"] <= 0.3
        assert values["train.batch_size"] in (8, 16, 32, 64)
        assert (type(values["train.epochs"]), values["train.epochs"] in range(1, 6)) == (int, True)
    assert {values["train.scheduler"] for values in found} == {"linear", "cosine", "constant"}
    rates = [math.log10(values["train.learning_rate"]) for values in found]
    assert sum(rate < -3.5 for rate in rates) in range(6, 27), "the log scale is drawn from, not its numbers"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [3, 12])
def test_a_small_space_is_tried_once_and_whole(method, size) -> None:
    space = {"train.batch_size": [8, 16, 32], "train.epochs": {"low": 1, "high": 4}}
    loss = {"space": space, "count": 15, "size": size, "loss": lambda values: float(values["train.epochs"])}
    found = [tuple(values.values()) for values in values_of(searched(method, **loss))]
    assert sorted(found) == [(batch, epochs) for batch in (8, 16, 32) for epochs in range(1, 5)]


def test_quasi_random_points_are_more_even_than_random_ones() -> None:
    def emptiest(method: str, seed: int) -> int:
        """The fewest of 32 points in a half of a dimension."""
        found = values_of(searched(method, seed, size=32, count=32))
        rates = sum(math.log10(values["train.learning_rate"]) < -3.5 for values in found)
        warm = sum(values["train.warmup"] < 0.15 for values in found)
        return min(rates, 32 - rates, warm, 32 - warm)

    assert [emptiest("qmc", seed) for seed in range(10)] == [16] * 10
    assert min(emptiest("random", seed) for seed in range(10)) < 13


def test_tpe_finds_more_than_chance_in_as_many_trials() -> None:
    best = {
        method: statistics.median(min(each["loss"] for each in searched(method, seed)) for seed in range(20))
        for method in ("random", "tpe")
    }
    assert best["tpe"] < 0.6 * best["random"], best


def test_tpe_keeps_away_from_what_fails() -> None:
    failed = {
        method: statistics.mean(
            sum(each["loss"] is None for each in searched(method, seed, loss=cliff)) for seed in range(12)
        )
        for method in ("random", "tpe")
    }
    assert failed["tpe"] < 0.95 * failed["random"], failed
    worst = [trial(n, values, None) for n, values in enumerate(values_of(searched("random", count=12)))]
    assert len(sampling.propose(SPACE, "tpe", 3, 4, worst, 0)) == 4, "all failed: it goes on"


# Bounds


def curves(*found: tuple[float, ...], state: str = "complete") -> list[dict[str, Any]]:
    return [{"curve": list(curve), "state": state} for curve in found]


def test_the_median_is_that_of_at_least_four_that_got_there_and_none_at_the_first_evaluation() -> None:
    four = curves((9, 4, 3), (8, 3, 1), (7, 2, 2), (6, 1))
    assert bounds(four, "median") == [None, 2.5]
    assert bounds(four + curves((5, 9, 9), state="pruned"), "median") == [None, 3, 2.5]
    assert bounds(four[:3], "median") == []
    assert bounds(four[:3] + curves((1, 1, 1), state="failed"), "median") == []


def test_a_rung_is_passed_by_the_better_half() -> None:
    five = curves((5, 9, 5, 5, 7), (4, 8, 9, 2), (3, 7, 1), (2, 6, 1), (1,))
    assert bounds(five, "asha") == [2, 7, None, 2]  # 2 of 5, 2 of 4, no rung, 1 of 2
    assert bounds(curves((1, 2)), "asha") == []
    assert bounds(curves(*[tuple(range(9, 0, -1))] * 2), "asha") == [9, 8, None, 6, None, None, None, 2]


def test_without_pruning_or_earlier_trials_there_are_no_bounds() -> None:
    assert bounds(curves(*[(3, 2, 1)] * 8), "none") == []
    assert bounds([], "median") == bounds([], "asha") == []


# The stage

SETTINGS = {"method": "tpe", "space": SPACE, "trials": 6, "generation": 4, "pruning": "asha", "seed": 3}


def files(folder: Path, trials: list[dict[str, Any]]) -> list[str]:
    paths = [folder / f"{each['number']}.json" for each in trials]
    for path, each in zip(paths, trials, strict=True):
        path.write_text(json.dumps(each))
    return [str(path) for path in paths]


def test_a_generation_is_a_file_that_equal_results_make_again_byte_by_byte(tmp_path) -> None:
    first, second, again = (tmp_path / f"tune/{name}.json" for name in ("first", "second", "again"))
    stage.propose([], str(first), SETTINGS, generation=0)
    began = json.loads(first.read_text())
    assert (began["generation"], began["bounds"]) == (0, [])
    assert [each["number"] for each in began["trials"]] == [0, 1, 2, 3]
    done = [
        trial(each["number"], each["values"], bowl(each["values"]), (n, 1)) for n, each in enumerate(began["trials"])
    ]
    paths = files(tmp_path, done)
    said = stage.propose(paths, str(second), SETTINGS, generation=1)
    stage.propose(paths[::-1], str(again), SETTINGS, generation=1)
    assert second.read_bytes() == again.read_bytes()
    found = json.loads(second.read_text())
    assert [each["number"] for each in found["trials"]] == [4, 5], "6 trials in all"
    assert found["bounds"] == [1, 1]
    assert found["trials"][0]["values"].keys() == SPACE.keys()
    assert said == "2 configurations by tpe, from the results of 4; bounds at 2 evaluations"


def test_more_trials_than_there_are_configurations_are_refused_in_words(tmp_path) -> None:
    settings = SETTINGS | {"space": {"train.epochs": [1, 2, 3]}}
    with pytest.raises(StageError, match=r"asks for 6 configurations, and `tune.space` holds 3"):
        stage.propose([], str(tmp_path / "x.json"), settings, generation=0)
    with pytest.raises(StageError, match=r"`tune.space`: `train.warmup` needs `low` and `high`"):
        stage.propose([], str(tmp_path / "x.json"), SETTINGS | {"space": {"train.warmup": {"low": 1}}}, generation=0)
