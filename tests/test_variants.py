"""Variants and seeds as a whole, on the micro example: what each of them runs, and nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import micro
from planned_jobs import planned

# Of a variant that compares otherwise, and of one that trains otherwise.
LATE = {"metrics", "errors", "manifest", "report", "gate", "card"}
OWN = LATE | {
    "train",
    "curves",
    "likelihood",
    "generate",
    "probe",
    "score",
    "judge",
    "judgement",
}
BRIEF = {"brief": {"compare": {"resamples": 101}}}


def variants(**rates: float) -> dict[str, object]:
    """The variant that compares otherwise, and some that train otherwise."""
    return {"variants": BRIEF | {name: {"train": {"learning_rate": rate}} for name, rate in rates.items()}}


def counts(own: int = 0, late: int = 0) -> dict[str, int]:
    """The jobs of so many variants that train otherwise, and compare otherwise."""
    return dict.fromkeys(OWN, own) | dict.fromkeys(LATE, own + late) | {"leaderboard": 1}


def test_a_variant_runs_its_own_stages_and_leaves_the_others_alone(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, micro.CONFIG | variants(slow=0.001, fast=0.02))
    assert planned(folder) == counts(own=2, late=1), "no data stage, no score of the base"
    micro.write_config(folder, micro.CONFIG | variants(fast=0.02))
    micro.snakemake(folder)
    assert not (folder / "results/fast/scores/base.parquet").exists()
    (link,) = re.findall(r'href="([^"]*data.html)"', (folder / "results/fast/report.html").read_text(encoding="utf-8"))
    assert (folder / "results/fast" / link).resolve() == folder / "results/micro/data.html"
    assert len((folder / "results/leaderboard.csv").read_text().splitlines()) == 4
    micro.write_config(folder, micro.CONFIG | variants(fast=0.02, third=0.03))
    assert planned(folder) == counts(own=1)
    micro.write_config(folder, micro.CONFIG | variants())
    assert set(planned(folder)) <= {"leaderboard"}, "removing one reruns nothing of the others"
    micro.write_config(folder, micro.CONFIG | variants(renamed=0.02))
    assert planned(folder) == counts(own=1)
    said = micro.snakemake(folder, "results/renamed/model/config.json").stdout
    assert "from the store" in said, "a renamed variant is not trained again"


@pytest.mark.slow
def test_seeds_have_their_spread_in_the_report(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, micro.CONFIG | {"seeds": [1, 2]})
    shown = {"report", "gate", "card", "manifest"}  # of the run itself too: its settings have changed
    expected = dict.fromkeys({*OWN, "plan", "preflight"}, 2) | dict.fromkeys(shown, 3)
    assert planned(folder) == expected | {"spread": 1, "leaderboard": 1}
    # One of the seeds is the run's own: it trains nothing, and the run is what it says.
    micro.write_config(folder, micro.CONFIG | {"seeds": [1, 42], "probes": {"bias": "off", "general": "off"}})
    micro.snakemake(folder, "results/micro/spread.json", "results/micro/report.html")
    assert not (folder / "results/micro-seed-42").exists()
    seeds = json.loads((folder / "results/micro/spread.json").read_text(encoding="utf-8"))["seeds"]
    assert seeds["runs"] == ["micro-seed-1", "micro"]
    tuned = seeds["metrics"]["perplexity"]["tuned"]
    assert tuned["min"] < tuned["mean"] < tuned["max"]
    assert "Seeds" in (folder / "results/micro/report.html").read_text(encoding="utf-8")
