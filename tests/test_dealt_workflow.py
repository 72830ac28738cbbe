"""Test rows dealt to several jobs, through Snakemake: the tables of one job, and what a change runs again."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import micro
from likelihood_runs import same
from planned_jobs import planned
from snaketune import config
from snaketune.dag import Dag

DEALT = {"likelihood": {"shards": 2}, "generate": micro.CONFIG["generate"] | {"shards": 2}}
PARTS = {"likelihood_part": 4, "likelihood_joined": 2, "generate_part": 4, "generate_joined": 2}  # of both sides
READERS = dict.fromkeys(("metrics", "errors", "judge", "judgement"), 1) | {"score": 2}
SHOWN = dict.fromkeys(("manifest", "report", "gate", "card", "leaderboard"), 1)


def dag(**changes: object) -> Dag:
    return Dag(config.load(micro.CONFIG | changes), micro.ROOT)


def parts(run: str, stage: str, side: str, count: int) -> list[str]:
    return [f"results/{run}/{stage}/parts/{side}-{number:05d}.parquet" for number in range(count)]


def test_the_parts_are_asked_for_and_of_one_job_there_are_none() -> None:
    alone = dag()
    alone._raw["micro"] = {"00000": []}
    assert not [path for path in alone.outputs() if "/parts/" in path]
    dealt = dag(**DEALT)
    dealt._raw["micro"] = {"00000": []}
    made = [path for path in dealt.outputs() if "/parts/" in path]
    wanted = {"likelihood": 2, "generate": 2}
    assert made == [
        path
        for stage, count in wanted.items()
        for side in ("base", "tuned")
        for path in parts("micro", stage, side, count)
    ]
    assert set(alone.outputs()) == set(dealt.outputs()) - set(made)


def test_a_variant_may_deal_otherwise_and_shares_what_it_shared() -> None:
    runs = dag(variants={"many": {"generate": {"shards": 5}}, "slow": {"train": {"learning_rate": 0.5}}}, **DEALT)
    assert runs.owner("many", "generate_tuned") == "micro"
    assert runs.part_files("slow", "generate_tuned") == parts("slow", "generate", "tuned", 2)
    assert runs.part_files("slow", "score_tuned") == []


def test_the_best_of_a_search_is_dealt_as_its_run_is_before_it_is_known() -> None:
    space = {"space": {"train.learning_rate": {"low": 0.1, "high": 0.3}}, "method": "random", "trials": 2}
    runs = dag(tune=space, **DEALT)
    assert runs.part_files("micro-best", "generate_base") == parts("micro-best", "generate", "base", 2)


@pytest.mark.slow
def test_several_jobs_make_the_tables_of_one_and_run_again_for_another_number_alone(
    workspace: Callable[[], Path],
) -> None:
    folder = workspace()
    tables = {stage: folder / f"results/micro/{stage}/base.parquet" for stage in DEALT}
    answers, likelihoods = tables["generate"].read_bytes(), pq.read_table(tables["likelihood"])
    micro.write_config(folder, micro.CONFIG | DEALT)
    assert planned(folder) == PARTS | READERS | SHOWN, "no training, no data stage"
    targets = [str(path.relative_to(folder)) for path in tables.values()]
    said = micro.snakemake(folder, *targets).stdout
    assert "generate_part part 2/2: " in said
    assert tables["generate"].read_bytes() == answers
    found = pq.read_table(tables["likelihood"])
    assert found["row_id"].equals(likelihoods["row_id"])
    same(*({row["row_id"]: row for row in table.to_pylist()} for table in (found, likelihoods)))
    assert planned(folder, *targets) == {}

    for change, (changes, expected) in {
        "another number": ({"likelihood": {"shards": 3}}, {"likelihood_part": 3, "likelihood_joined": 1}),
        "another setting": ({"likelihood": {"shards": 2, "window": 8}}, {"likelihood_part": 2, "likelihood_joined": 1}),
        "one job": ({"generate": micro.CONFIG["generate"]}, {"generate": 1}),
    }.items():
        micro.write_config(folder, micro.CONFIG | DEALT | changes)
        assert planned(folder, *targets) == expected, change
