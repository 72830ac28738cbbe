"""What a person sees while the workflow runs: a line for each stage, errors in full, and a small table at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snaketune.dag import Dag

# Snakemake's account of its own scheduling. It stays in .snakemake/log/, and is shown by -n and --verbose.
CHATTER = (
    "Assuming unrestricted shared filesystem",
    "Building DAG",
    "Using shell",
    "Select jobs to execute",
    "Execute ",
    "Complete log",
    "Singularity containers: ignored",
    "Shutting down, this might take some time",
)
CHATTER_EVENTS = {
    *("workflow_started", "run_info", "resources_info", "progress"),
    *("job_info", "job_started", "job_finished", "group_info"),
}


def quieten(logger: logging.Logger, local: Callable[[], bool]) -> None:
    """Keep Snakemake's chatter off the terminal, unless this is a dry run or the user asked for more.

    `local` says whether jobs run on this machine. On a cluster they speak into their own logs, and Snakemake's lines
    about finished jobs stay; which it is, Snakemake knows only after the Snakefile has been read.
    """
    for handler in logger.handlers:
        asked = any(getattr(each, "dryrun", False) or getattr(each, "verbose", False) for each in handler.filters)
        if handler.name == "DefaultStreamHandler" and not asked:
            handler.addFilter(lambda record: worth_showing(record, local()))


def look_ahead(logger: logging.Logger, dag: Dag, cores: Callable[[], int]) -> None:
    """In a dry run, say what would run and why in a table by run and stage, in place of a paragraph for each job.

    `-p` and `--verbose` keep Snakemake's paragraphs, before the table; `--quiet rules` leaves both out.
    """
    for handler in logger.handlers:
        dry = [each for each in handler.filters if getattr(each, "dryrun", False)]
        if handler.name == "DefaultStreamHandler" and dry:
            from snaketune.ahead import Forecast

            blocks = any(each.verbose or each.printshellcmds for each in dry)
            handler.addFilter(Forecast(logger, dag, cores, blocks))


def worth_showing(record: logging.LogRecord, local: bool) -> bool:
    """Whether a record of Snakemake's log is for the person at the terminal."""
    if record.getMessage().startswith(CHATTER):
        return False
    if record.levelno >= logging.WARNING:
        return True
    event = getattr(record, "event", None)
    name = getattr(event, "value", event)
    if name in CHATTER_EVENTS:
        return not local and name in ("job_finished", "progress")
    return True


def closing(names: list[str], results: Path = Path("results")) -> str:
    """Base beside tuned for each run whose scores are those of its model, and where its report is."""
    from snaketune.scoring.measures import table

    parts = []
    for name in names:
        metrics, model = results / name / "metrics.json", results / name / "model/config.json"
        # After a call that made the model only, the scores beside it are still those of the model before.
        if metrics.exists() and not (model.exists() and model.stat().st_mtime > metrics.stat().st_mtime):
            parts.append(f"\n{table(json.loads(metrics.read_text(encoding='utf-8')))}\n{results}/{name}/report.html")
    return "\n".join(parts)
