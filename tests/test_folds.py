"""Folds as a whole, on the micro example: what they share, and what they say together."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import micro
from planned_jobs import planned
from snaketune.dag import SPLITS

SPREAD = "results/micro/spread.json"
NAMES = [f"micro-fold-{number}" for number in range(3)]
CONFIG = micro.CONFIG | {
    "folds": 3,
    "train": micro.CONFIG["train"] | {"epochs": 1, "evaluations": 1, "samples": 0},
    "generate": {"max_new_tokens": 1, "limit": 1},
    "score": {"metrics": ["exact_match"]},
    "probes": {"bias": "off", "general": "off"},
}


def row_ids(tables: Iterable[Path]) -> list[str]:
    """The ids of the rows of some tables, sorted."""
    return sorted(row for table in tables for row in pq.read_table(table)["row_id"].to_pylist())


def test_folds_share_the_clean_rows(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, CONFIG)
    jobs = planned(folder, SPREAD)
    assert not {"ingest", "clean", "sign", "dedup"} & set(jobs)
    assert jobs["tokenize"] == jobs["tokens"] == 9
    assert {jobs[rule] for rule in ("split", "plan", "train", "metrics")} == {3}
    assert {jobs[rule] for rule in ("likelihood", "generate", "score")} == {6}, "of base and tuned"


@pytest.mark.slow
def test_folds_test_each_row_once_and_have_mean_and_spread_together(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, CONFIG)
    micro.snakemake(folder, SPREAD)
    assert {path.name for name in NAMES for path in (folder / "results" / name).iterdir()} & {"clean", "dedup"} == set()

    tested = row_ids(folder / "results" / name / "split/test.parquet" for name in NAMES)
    assert tested == row_ids(folder / f"results/micro/split/{split}.parquet" for split in SPLITS), "each row once"

    found = json.loads((folder / SPREAD).read_text(encoding="utf-8"))
    assert found["seeds"] is None
    assert found["folds"]["runs"] == NAMES
    for metric in ("perplexity", "token_accuracy"):
        runs = [json.loads((folder / "results" / name / "metrics.json").read_text(encoding="utf-8")) for name in NAMES]
        for side in ("base", "tuned", "delta"):
            values = [run["metrics"][metric][side] for run in runs]
            said = found["folds"]["metrics"][metric][side]
            assert said["values"] == values
            assert said["mean"] == pytest.approx(statistics.mean(values), abs=1e-6)
            assert said["sd"] == pytest.approx(statistics.stdev(values), abs=1e-6)
    perplexity = found["folds"]["metrics"]["perplexity"]["tuned"]
    assert perplexity["ci95"][0] < perplexity["min"] < perplexity["mean"] < perplexity["max"] < perplexity["ci95"][1]
