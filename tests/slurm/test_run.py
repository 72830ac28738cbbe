"""The micro example through Slurm, in two shards, beside the same run on this machine."""

import filecmp
from collections import Counter
from pathlib import Path

import pytest
from cluster import GPU_RULES

pytestmark = pytest.mark.example

TIMED = {"leaderboard.csv", "leaderboard.html", "micro/train/preflight.json", "micro/train/speed.jsonl"}  # by a clock


def test_the_results_are_those_of_the_local_run_to_the_byte(both):
    run, local = both
    there, here = (files(folder / "results") for folder in (run.folder, local))
    assert there == here
    assert {"micro/model/model.safetensors", "micro/metrics.json", "micro/tokens/train/data-00001.arrow"} < here
    different = {
        name for name in here if not filecmp.cmp(run.folder / "results" / name, local / "results" / name, False)
    }
    assert different <= TIMED


def test_every_rule_that_wants_a_gpu_gets_one_and_no_other_rule_any(both):
    gpus = {job.name: job.given.get("gres/gpu", "0") for job in both[0].jobs}
    wanting = {name for name in gpus if name.startswith(tuple(f"rule_{rule}" for rule in GPU_RULES))}
    assert len(wanting) == 8, "preflight and train once, the three others for base and tuned"
    assert gpus == {name: "1" if name in wanting else "0" for name in gpus}


def test_shards_are_jobs_of_their_own_and_light_rules_share_one(both):
    names = Counter(job.name for job in both[0].jobs)
    assert names["rule_shard-micro_clean_ingest_sign"] == 2
    assert sum(count for name, count in names.items() if name.startswith("rule_tokenize_")) == 6
    assert names["rule_deal-micro_dedup_split"] == 1
    assert sum(count for name, count in names.items() if "numbers-micro" in name) == 1
    assert not [name for name in names if name.startswith(("rule_report", "rule_card", "rule_curves"))], "local"


def files(results: Path) -> set[str]:
    """The files of a run, but those of the store, which are for the workflow itself."""
    found = (path.relative_to(results) for path in results.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] != ".store"}
