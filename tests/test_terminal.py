"""What a person sees, and what stays in the logs."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from snaketune import terminal

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
JOB = """
import sys, types
sys.path.insert(0, sys.argv[1])
from snaketune.job import StageError, run, say

def stage(job):
    print("a library's warning", file=sys.stderr)
    {body}
    return "3 rows"

run(stage, types.SimpleNamespace(log=[sys.argv[2]], wildcards={{"run": "mine"}}, rule="clean"))
"""


def record(message: str, level: int = logging.INFO, event: LogEvent | None = None) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, message, (), None)
    made.event = event
    return made


def run_job(body: str, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", JOB.format(body=body), str(SCRIPTS), str(log)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("local", [True, False])
def test_errors_and_nothing_to_be_done_are_always_shown(local: bool) -> None:
    assert terminal.worth_showing(record("Nothing to be done (…)"), local)
    assert terminal.worth_showing(record("", logging.ERROR, LogEvent.JOB_ERROR), local)
    assert terminal.worth_showing(record("wrong", logging.ERROR), local)


def test_scheduling_is_shown_on_a_cluster_only() -> None:
    assert not terminal.worth_showing(record("Select jobs to execute..."), local=True)
    assert not terminal.worth_showing(record("", event=LogEvent.JOB_INFO), local=False)
    assert not terminal.worth_showing(record("", event=LogEvent.JOB_FINISHED), local=True)
    assert terminal.worth_showing(record("", event=LogEvent.JOB_FINISHED), local=False)


def test_scores_of_an_older_model_are_not_shown_at_the_end(tmp_path: Path) -> None:
    entry = {"base": 2.0, "tuned": 1.0, "delta": -1.0, "ci95": [-1, -1], "base_ci95": [2, 2], "tuned_ci95": [1, 1]}
    metrics, model = tmp_path / "mine/metrics.json", tmp_path / "mine/model/config.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    metrics.write_text(json.dumps({"run": "mine", "metrics": {"perplexity": entry}}))
    os.utime(model, (1, 1))
    assert "mine/report.html" in terminal.closing(["mine", "absent"], tmp_path)
    os.utime(metrics, (0, 0))
    assert terminal.closing(["mine"], tmp_path) == ""


def test_a_stage_shows_its_sentence_and_libraries_go_to_the_log(tmp_path: Path) -> None:
    done = run_job("pass", tmp_path / "logs/clean.log")
    assert done.returncode == 0
    assert done.stderr.startswith("mine  clean        3 rows")
    assert "warning" not in done.stdout + done.stderr
    assert "a library's warning" in (tmp_path / "logs/clean.log").read_text()


def test_what_a_user_can_mend_is_a_sentence_and_anything_else_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    told = run_job("raise StageError('no rows: mend the file')", tmp_path / "told.log")
    assert told.returncode == 1
    assert "mine  clean        failed: no rows: mend the file" in told.stderr
    assert "Traceback" not in (tmp_path / "told.log").read_text()
    fell = run_job("1 / 0", tmp_path / "fell.log")
    assert fell.returncode == 1
    assert "ZeroDivisionError" in fell.stderr
    assert "Traceback" not in fell.stderr
    assert "Traceback" in (tmp_path / "fell.log").read_text()
