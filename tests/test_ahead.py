"""What a dry run says: which stages would run, why, and what they will take, from records as Snakemake makes them."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake_interface_logger_plugins.common import LogEvent

import micro
from snaketune import config, terminal
from snaketune.ahead import Ahead, Forecast
from snaketune.dag import Dag
from snaketune.expected import past
from snaketune.planned import Planned, changed_settings

TUNE = {"space": {"train.learning_rate": {"low": 0.1, "high": 0.3}}, "method": "random", "trials": 5, "generation": 2}


def announced(
    rule: str,
    output: str,
    reason: str = "Missing output files: x",
    benchmark: str | None = None,
    run: str | None = "micro",
    **more: Any,
) -> logging.LogRecord:
    """A record of `snakemake.jobs.Job.log_info`, with what is read of it."""
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, f" Rule: {rule}", (), None)
    told = {"event": LogEvent.JOB_INFO, "rule_name": rule, "output": [output] if output else [], "reason": reason}
    told |= {"benchmark": benchmark, "wildcards": {"run": run} if run else {}, "threads": 1, "resources": {}}
    record.__dict__.update(told | more)
    return record


def planned(*arguments: Any, **more: Any) -> Planned:
    return Planned.of(announced(*arguments, **more))


def dag(results: Path = Path("results"), **changes: Any) -> Dag:
    return Dag(config.load(micro.CONFIG | changes), micro.ROOT, results)


def benchmark(path: Path, seconds: float | str, megabytes: float | str = 500) -> Path:
    """A file as Snakemake's benchmarks are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\tmax_vms\n{seconds}\t0:00:01\t{megabytes}\t9000\n", encoding="utf-8")
    return path


def line(text: str, stage: str) -> str:
    """The line of a stage, with single spaces."""
    found = re.search(rf"^  {stage} .*$", text, re.MULTILINE)
    assert found, text
    return " ".join(found[0].split())


REASONS = {
    "Missing output files: a, b; Updated input files: d; Input files updated by another job: c": ["output missing"],
    "Updated input files: workflow/scripts/likelihood.py, workflow/report/style.css": [
        "code: likelihood.py, style.css"
    ],
    "Updated input files: ../snaketune/requirements.lock, data/rows.jsonl": [
        "packages changed",
        "changed: data/rows.jsonl",
    ],
    "Updated input files: a, b, c, d, e": ["changed: a, b, c and 2 more"],
    "Set of input files has changed since last execution; Params have changed since last execution: Union of exclusive "
    "params before and now across all output: before: {'seed': 1; 'x'} now: 'y' ": [
        "other input files",
        "settings changed",
    ],
    "Forced execution": ["forced"],
    "A reason of tomorrow: a file": ["A reason of tomorrow: a file"],
    "Input files updated by another job: c": [],
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_said_in_words(reason: str) -> None:
    assert list(planned("train", "x", reason).reasons) == REASONS[reason]


def test_changed_settings_are_named_with_short_values() -> None:
    before = {"learning_rate": 0.01, "lora": {"rank": 8, "alpha": 16}, "seed": 1, "stop": " now: {"}
    now = {"learning_rate": 0.02, "lora": {"rank": 4, "alpha": 16}, "seed": 1, "stop": [1]}
    assert (
        changed_settings(f"Union of params: before: {before!r},'base' now: {now!r} ")
        == "settings changed: learning_rate 0.01 -> 0.02, lora.rank 8 -> 4, stop"
    )


def test_a_stage_is_known_by_its_files_and_any_other_rule_by_its_name() -> None:
    made = [
        planned("tokenize", "results/micro/tokens/train/data-00012.arrow"),
        planned("likelihood", "results/micro/likelihood/base.parquet"),
        planned("data_report", "results/micro/data.html"),
        planned("leaderboard", "results/leaderboard.csv", run=None),
    ]
    assert [job.stage for job in made] == ["tokens", "likelihood_base", "data", "leaderboard"]


def test_a_job_takes_as_long_as_the_last_time_of_its_own_run_else_of_the_run_that_it_varies_else_of_any(
    tmp_path: Path,
) -> None:
    logs = tmp_path / "logs"
    own = logs / "slow/benchmarks/score-base.tsv"
    job = planned("score", "results/slow/scores/base.parquet", benchmark=str(own), run="slow")
    assert past(job, ["micro"]) is None
    benchmark(logs / "stranger/benchmarks/score-base.tsv", 4)
    assert past(job, ["micro"]) == (4, 500)
    benchmark(logs / "micro/benchmarks/score-base.tsv", 3)
    assert past(job, ["micro"]) == (3, 500)
    benchmark(logs / "slow/benchmarks/score-tuned.tsv", 1, 100)
    benchmark(logs / "slow/benchmarks/score-other.tsv", 2, 300)
    benchmark(logs / "slow/benchmarks/scores.tsv", 99)  # another rule's
    assert past(job, ["micro"]) == (1.5, 300)
    benchmark(own, 5, "NA")
    assert past(job, ["micro"]) == (5, None)


@pytest.mark.parametrize("content", ["", "s\th:m:s\n", "s\tmax_rss\n-\t-\n", "something else\n1\n"])
def test_a_benchmark_that_cannot_be_read_is_none(content: str, tmp_path: Path) -> None:
    path = benchmark(tmp_path / "logs/micro/benchmarks/plan.tsv", 1)
    path.write_text(content, encoding="utf-8")
    assert past(planned("plan", "results/micro/train/plan.json", benchmark=str(path)), []) is None


def train_facts(results: Path) -> None:
    """What plan, preflight and tokens leave of the run."""
    (results / "micro/train").mkdir(parents=True)
    (results / "micro/tokens").mkdir()
    for path, facts in {
        "train/plan.json": {"rows": 600, "tokens": 473324, "steps": 188},
        "train/preflight.json": {"run_seconds": 300.0},
        "tokens/test.json": {"rows": 75, "tokens": 23887},
    }.items():
        (results / "micro" / path).write_text(json.dumps(facts), encoding="utf-8")


def test_rows_tokens_steps_and_the_time_of_a_training_come_from_files_that_stay(tmp_path: Path) -> None:
    train_facts(tmp_path)
    measured = str(benchmark(tmp_path / "logs/micro/benchmarks/train.tsv", 20, 2369.44))
    jobs = [
        planned("train", "results/micro/model/config.json", "Forced execution", measured, threads=8),
        planned("generate", "results/micro/generate/tuned.parquet", resources={"gpu": 1, "mem_mb": 8000}),
    ]
    text = Ahead(jobs, dag(), 2, tmp_path).summary()
    assert line(text, "train") == "train 1 5 min 2.37 GB forced (600 rows, 473,324 tokens, 188 steps)"
    assert line(text, "generate_tuned") == "generate_tuned 1 - <= 8 GB output missing (75 rows)"
    benchmark(Path(measured), 900)  # with the evaluations, which the preflight leaves out
    assert line(Ahead(jobs, dag(), 2, tmp_path).summary(), "train").startswith("train 1 15 min 500 MB")

    remade = [
        *jobs,
        planned("plan", "results/micro/train/plan.json"),
        planned("preflight", "results/micro/train/preflight.json"),
    ]
    text = Ahead(remade, dag(), 2, tmp_path).summary()
    assert line(text, "train") == "train 1 15 min 500 MB forced (steps not known before plan)"
    assert line(text, "plan").endswith("(tokens not known before tokens)")  # no such file


def test_the_sum_lets_light_jobs_share_the_cores_and_names_what_was_never_measured(tmp_path: Path) -> None:
    logs = tmp_path / "logs/micro/benchmarks"
    jobs = [
        planned(
            "probe", "results/micro/probes/base.parquet", benchmark=str(benchmark(logs / "probe.tsv", 30)), threads=2
        ),
        planned("split", "results/micro/split/train.parquet", benchmark=str(benchmark(logs / "split.tsv", 40))),
        planned("dedup", "results/micro/dedup/clusters.parquet", benchmark=str(logs / "dedup.tsv")),
        planned("gate", "results/micro/checks.json"),
    ]
    end = Ahead(jobs, dag(), 4, tmp_path).together()
    assert end.startswith("Together 4 jobs, about 40 s on 4 cores, if ")
    assert end.endswith("\nNot in the sum, as it was never measured: dedup.")


def test_a_variant_says_what_it_shares_and_equal_seeds_stand_together(tmp_path: Path) -> None:
    runs = dag(tmp_path, variants={"slow": {"train": {"learning_rate": 0.5}}}, seeds=[1, 2])
    path = "results/{}/model/config.json"
    jobs = [planned("train", path.format(run), run=run) for run in ("micro-seed-2", "slow", "micro-seed-1")]
    text = Ahead(jobs, runs, 2, tmp_path).summary()
    shared = "ingest to preflight, likelihood, generate, score, probe of the base model with micro"
    assert f"\nslow: shares {shared}\n" in text
    assert "\nmicro-seed-1, micro-seed-2, each: shares ingest to data, " in text
    assert text.count("train ") >= 2


def test_a_job_after_another_says_after_which_stage_and_of_which_other_run(tmp_path: Path) -> None:
    runs = dag(tmp_path, variants={"slow": {"train": {"learning_rate": 0.5}}})
    after = "Input files updated by another job: results/micro/scores/base.parquet, results/slow/scores/tuned.parquet"
    jobs = [
        planned("metrics", "results/slow/metrics.json", after, run="slow"),
        planned("score", "results/micro/scores/base.parquet"),
        planned("score", "results/slow/scores/tuned.parquet", run="slow"),
    ]
    text = Ahead(jobs, runs, 2, tmp_path).summary()
    assert line(text, "metrics").endswith("after score_base of micro, score_tuned")
    assert text.index("score_tuned") < text.index("metrics ")  # the order of the DAG, not of the announcements


def test_a_search_says_how_many_trials_follow(tmp_path: Path) -> None:
    runs = dag(tmp_path, tune=TUNE)
    propose = planned("propose", "results/micro/tune/generation-00.json")
    choose = planned("choose", "results/micro/tune/best.json")
    assert "5 trials in 3 generations, and the training of the best will follow" in Ahead([propose], runs, 1).summary()
    assert "\n  the training of the best will follow" in Ahead([choose], runs, 1).summary()
    alone = dag(tmp_path, tune=TUNE | {"final": False})
    assert "  5 trials in 3 generations will follow" in Ahead([propose], alone, 1).summary()
    assert "follow" not in Ahead([choose], alone, 1).summary()


def test_in_a_dry_run_the_summary_stands_for_the_paragraphs_of_the_jobs() -> None:
    said: list[str] = []
    logger = SimpleNamespace(info=said.append)
    table = announced("", "", event=LogEvent.RUN_INFO)
    job, everything = announced("gate", "results/micro/checks.json"), announced("all", "")
    shown = Forecast(logger, dag(), lambda: 2, blocks=False)
    assert [shown(each) for each in (table, job, everything, table)] == [True, False, False, False]
    assert len(said) == 1
    assert "Together 1 job; nothing like them was ever measured" in said[0]
    whole = Forecast(logger, dag(), lambda: 2, blocks=True)
    assert all(whole(each) for each in (table, job, table))
    nothing = Forecast(logger, dag(), lambda: 2, blocks=False)
    assert nothing(table)
    assert nothing(table)
    assert len(said) == 2


def test_a_dry_run_loads_no_heavy_library() -> None:
    check = "import snaketune.ahead, sys; print(sorted({'numpy', 'pandas', 'pyarrow', 'torch'} & set(sys.modules)))"
    scripts = micro.ROOT / "workflow/scripts"
    done = subprocess.run([sys.executable, "-c", check], cwd=scripts, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("dry", "filters"), [(True, 2), (False, 1)])
def test_only_a_dry_run_is_listened_to(dry: bool, filters: int) -> None:
    handler = logging.StreamHandler()
    handler.name = "DefaultStreamHandler"
    handler.addFilter(SimpleNamespace(filter=lambda record: True, dryrun=dry, verbose=False, printshellcmds=False))
    terminal.look_ahead(SimpleNamespace(handlers=[handler]), dag(), lambda: 2)
    assert len(handler.filters) == filters


def test_a_dry_run_of_the_whole_workflow_says_what_a_changed_setting_and_a_new_variant_cost(
    workspace: Callable[[], Path],
) -> None:
    folder = workspace()
    assert "What would run" not in micro.snakemake(folder, "-n").stdout
    given = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
    given["train"]["learning_rate"] = 0.02
    given["variants"] = {"slow": {"train": {"learning_rate": 0.001}}}
    micro.write_config(folder, given)
    text = micro.snakemake(folder, "-n").stdout
    assert text.count("job ") >= 1  # Snakemake's own table of counts
    assert "reason:" not in text
    mine, slow = re.split(r"^slow: shares ", text, flags=re.MULTILINE)
    assert re.match(
        r"train 1 \d+ s .*settings changed: learning_rate 0.01 -> 0.02 \(\d+ rows, [\d,]+ tokens, \d+ steps\)",
        line(mine, "train"),
    )
    assert line(mine, "likelihood_tuned").endswith("after train (4 rows)")
    assert "likelihood_base" not in mine
    assert slow.startswith("ingest to preflight, likelihood, generate, score, probe of the base model with micro\n")
    assert "output missing" in line(slow, "train")
    assert re.search(r"^Together \d+ jobs, about \d+ (s|min) on 2 cores, ", slow, re.MULTILINE)
    assert "What would run" in micro.snakemake(folder, "-n", "results/slow/metrics.json").stdout
    whole = micro.snakemake(folder, "-n", "-p").stdout
    assert "    reason: " in whole
    assert "What would run" in whole
    assert "What would run" not in micro.snakemake(folder, "-n", "--quiet", "rules", "reason").stdout
