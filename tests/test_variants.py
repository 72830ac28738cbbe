"""Variants, seeds and folds as a whole, on the micro example: what each of them runs, and nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import micro

OWN = {
    *("train", "curves", "likelihood", "generate", "probe", "score", "metrics", "errors", "judge", "judgement"),
    *("manifest", "report", "gate", "card"),
}  # of a variant that trains otherwise


def planned(folder: Path) -> dict[str, int]:
    """The jobs that a run would start, by rule."""
    said = micro.snakemake(folder, "--dry-run", "--quiet", "rules", "reason").stdout
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\n\n", said + "\n\n", re.DOTALL | re.MULTILINE)
    counts = dict(line.split() for line in table[1].splitlines()) if table else {}
    return {rule: int(count) for rule, count in counts.items() if rule not in ("all", "total")}


def variants(**rates: float) -> dict[str, object]:
    return {"variants": {name: {"train": {"learning_rate": rate}} for name, rate in rates.items()}}


def test_a_variant_runs_its_own_stages_and_leaves_the_others_alone(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, micro.CONFIG | variants(slow=0.001, fast=0.02))
    assert planned(folder) == dict.fromkeys(OWN, 2) | {"leaderboard": 1}, "no data stage, no score of the base"
    micro.snakemake(folder)
    micro.write_config(folder, micro.CONFIG | variants(slow=0.001, fast=0.02, third=0.03))
    assert planned(folder) == dict.fromkeys({*OWN, "leaderboard"}, 1)
    micro.write_config(folder, micro.CONFIG | variants(slow=0.001))
    assert set(planned(folder)) <= {"leaderboard"}, "removing one reruns nothing of the others"
    micro.write_config(folder, micro.CONFIG | variants(slow=0.001, renamed=0.02))
    assert planned(folder) == dict.fromkeys({*OWN, "leaderboard"}, 1)
    said = micro.snakemake(folder, "results/renamed/model/config.json").stdout
    assert "from the store" in said, "a renamed variant is not trained again"


def test_seeds_and_folds_have_their_spread_in_the_report(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, micro.CONFIG | {"seeds": [1, 2]})
    shown = {"report", "gate", "card", "manifest"}  # of the run itself too: its settings have changed
    expected = dict.fromkeys({*OWN, "plan", "preflight"}, 2) | dict.fromkeys(shown, 3)
    assert planned(folder) == expected | {"spread": 1, "leaderboard": 1}
    micro.snakemake(folder)
    seeds = json.loads((folder / "results/micro/spread.json").read_text(encoding="utf-8"))["seeds"]
    assert seeds["runs"] == ["micro-seed-1", "micro-seed-2"]
    tuned = seeds["metrics"]["perplexity"]["tuned"]
    assert tuned["min"] < tuned["mean"] < tuned["max"]
    assert "Seeds" in (folder / "results/micro/report.html").read_text(encoding="utf-8")
