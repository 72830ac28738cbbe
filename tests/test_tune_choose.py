"""The best trial of a search: which it is, and a configuration that can be run as it stands."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
from choose import choose
from snaketune import config
from snaketune.job import StageError

RATE, TARGETS = "train.learning_rate", "train.lora.targets"
TUNE = {"method": "random", "space": {RATE: [1e-5, 1e-4, 1e-3], TARGETS: ["auto", ["c_attn"]]}, "trials": 4}


def trial(number: int, loss: float | None, state: str = "complete", **more: Any) -> dict[str, Any]:
    values = {RATE: 10.0 ** -(number + 3), TARGETS: "auto" if number % 2 else ["c_attn"]}
    about = {"run": f"tiny-trial-{number:03d}", "number": number, "generation": number // 4, "values": values}
    return about | {"state": state, "loss": loss, "curve": [], "step": None, "reason": None} | more


TRIALS = [
    trial(0, 2.5),
    trial(1, 2.0),
    trial(2, 2.0),
    trial(3, 1.5, "pruned"),
    trial(4, None, "failed", reason='the loss is nan, "at" step 3,\nat once'),
]


def chosen(folder: Path, trials: list[dict[str, Any]], settings: dict[str, Any] | None = None) -> str:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{each['number']}.json" for each in trials]
    for path, each in zip(paths, trials, strict=True):
        path.write_text(json.dumps(each))
    outputs = [str(folder / "tune" / name) for name in ("best.json", "best.yaml", "trials.csv")]
    whole = settings or config.load(builders.raw_config())["tiny"]
    return choose([str(path) for path in paths], *outputs, {"config": whole, "tune": TUNE})


def test_the_best_is_the_complete_trial_of_the_lowest_loss_and_of_equal_ones_the_first(tmp_path) -> None:
    said = chosen(tmp_path / "one", TRIALS)
    chosen(tmp_path / "other", TRIALS[::-1])
    assert json.loads((tmp_path / "one/tune/best.json").read_text()) == {
        "number": 1,
        "values": TRIALS[1]["values"],
        "loss": 2.0,
        "trials": 5,
        "complete": 3,
        "pruned": 1,
        "failed": 1,
    }
    assert said.startswith("trial 1 of 5 is the best, validation loss 2.0000: train.learning_rate 0.0001")
    for name in ("best.json", "best.yaml", "trials.csv"):
        assert (tmp_path / "one/tune" / name).read_bytes() == (tmp_path / "other/tune" / name).read_bytes()


def test_the_best_configuration_loads_and_is_that_of_the_run_with_the_values_alone_changed(tmp_path) -> None:
    given = builders.raw_config(
        variants={"tiny-b": {"train": {"epochs": 1}}},
        train={"warmup": 0.02, "optimizer_args": {"beta2": 0.95}, "learning_rate": 2e-7},
        tune={"space": TUNE["space"], "trials": 4},
        seeds=[1, 2, 3],
    )
    settings = config.load(given)["tiny"]
    chosen(tmp_path, [trial(2, 2.0)], settings)
    text = (tmp_path / "tune/best.yaml").read_text(encoding="utf-8")
    loaded = config.load(yaml.safe_load(text))
    assert list(loaded) == ["tiny-best"]
    alone = {"run": "tiny-best", "tune": None, "seeds": [], "folds": 0, "variants": {}}
    expected = settings | alone
    expected["train"] = settings["train"] | {"learning_rate": 1e-5}
    expected["train"]["lora"] = settings["train"]["lora"] | {"targets": ["c_attn"]}
    assert loaded["tiny-best"] == expected
    assert "trial 2" in text.splitlines()[0]


def test_every_trial_is_a_line_of_the_table_with_its_values_and_its_reason(tmp_path) -> None:
    chosen(tmp_path, TRIALS)
    with (tmp_path / "tune/trials.csv").open(encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["number", "generation", "state", "loss", RATE, TARGETS, "reason"]
    assert lines[0] == ["0", "0", "complete", "2.5", "0.001", '["c_attn"]', ""]
    assert lines[4] == ["4", "1", "failed", "", "1e-07", '["c_attn"]', TRIALS[4]["reason"]]
    assert len(lines) == 5


def test_where_no_trial_is_complete_it_says_what_they_failed_for(tmp_path) -> None:
    ended = [trial(n, None, "failed", reason="the training loss is nan") for n in range(3)]
    with pytest.raises(StageError) as error:
        chosen(tmp_path, [*ended, trial(3, 2.0, "pruned"), trial(4, None, "failed", reason="no memory")])
    said = str(error.value)
    assert "none of the 5 trials was trained to its end" in said
    assert said.splitlines()[1:] == ["  3 x the training loss is nan", "  1 x no memory"]
    assert not (tmp_path / "tune").exists()
