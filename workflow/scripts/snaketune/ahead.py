"""What a dry run says in words: which stages would run for which run, why, and what they will take.

Snakemake announces each planned job to its loggers (the event `job_info`, as its logger plugins get it). The records
are gathered here, and shown as one line a stage instead of a paragraph a job. Plain Python, loaded in dry runs only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from snaketune.dag import STAGE_FILES, Dag, happens, reads
from snaketune.expected import mean, past, training_seconds, work
from snaketune.planned import Planned, listed
from snaketune.runs import generations

# What Snakemake says around its listing of the jobs, and of its own scheduling. `-p` and `--verbose` show it.
LISTING = (
    *(
        "Assuming unrestricted shared filesystem",
        "Building DAG",
        "Using shell",
        "Singularity containers: ignored",
        "Reasons:",
    ),
    *("Some jobs were triggered by provenance", "Rules with provenance triggered jobs"),
    "DAG of jobs will be updated after completion",
)
LISTING_EVENTS = {"job_info", "shellcmd", "workflow_started", "resources_info", "progress"}
HEAD = ("stage", "jobs", "time", "memory", "why")


class Forecast:
    """A filter of Snakemake's terminal in a dry run: it gathers the jobs, and says the summary when all are there.

    blocks: leave Snakemake's own listing as it is.
    """

    def __init__(self, logger: logging.Logger, dag: Dag, cores: Callable[[], int], blocks: bool) -> None:
        self._logger, self._dag, self._cores, self._blocks = logger, dag, cores, blocks
        self._jobs: list[Planned] = []

    def __call__(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        name = getattr(event, "value", event)
        if name == "job_info" and vars(record)["output"]:
            self._jobs.append(Planned.of(record))
        if name == "run_info" and self._jobs:  # the table of counts, a second time: all jobs have been announced
            jobs, self._jobs = self._jobs, []
            self._logger.info(Ahead(jobs, self._dag, self._cores()).summary())
            return self._blocks
        return self._blocks or not (name in LISTING_EVENTS or record.getMessage().startswith(LISTING))


@dataclass(frozen=True)
class Line:
    """A stage of a run. `seconds`: of the jobs that were ever measured; `unknown`: some that are measured never ran."""

    stage: str
    jobs: int
    seconds: float | None
    unknown: bool
    heavy: bool
    memory: str
    why: str

    def cells(self) -> tuple[str, ...]:
        """The line as the columns of the table."""
        time = "-" if self.seconds is None else duration(self.seconds) + " +" * self.unknown
        return self.stage, str(self.jobs), time, self.memory, self.why


class Ahead:
    """The planned jobs by run and stage, in the order of the DAG."""

    def __init__(self, jobs: list[Planned], dag: Dag, cores: int, results: Path = Path("results")) -> None:
        self.dag, self.cores, self.results = dag, cores, results
        self._mean = cache(mean)  # of the files as they are in this call
        order = [*STAGE_FILES, *(job.stage for job in jobs)]
        self.stages: dict[tuple[str, str], list[Planned]] = {}
        for job in sorted(jobs, key=lambda job: order.index(job.stage)):
            self.stages.setdefault((job.run, job.stage), []).append(job)
        self.makers = {path: key for key, found in self.stages.items() for job in found for path in job.outputs}
        self.lines = {key: self._line(*key) for key in self.stages}

    def summary(self) -> str:
        """A table for each run; those that do the same share one, as seeds, folds and trials mostly do."""
        alike: dict[tuple[Any, ...], list[str]] = {}
        order = [*self.dag.names, *sorted(self.dag.settings.parents), ""]
        for run in sorted({run for run, _ in self.stages}, key=order.index):
            own = tuple(line for (name, _), line in self.lines.items() if name == run)
            alike.setdefault((self.shares(run), own, self.follows(run)), []).append(run)
        rows = [HEAD, *(line.cells() for line in self.lines.values())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        parts = ["What would run, and why. Time and memory are as last measured, not scaled."]
        for (shared, own, following), runs in alike.items():
            table = [f"{_names(runs)}{': ' * bool(shared)}{shared}", _aligned(HEAD, widths)]
            table += [_aligned(line.cells(), widths) for line in own]
            parts.append("\n".join([*table, *([f"  {following}"] if following else [])]))
        return "\n" + "\n\n".join([*parts, self.together()]) + "\n"

    def _line(self, run: str, stage: str) -> Line:
        jobs = self.stages[run, stage]
        known = self._known(run)
        measured = [past(job, self._ancestors(run), self._mean) for job in jobs]
        seconds = [found[0] if found else None for found in measured]
        if stage == "train" and known:
            told = training_seconds(self.dag, run, set(self.stages), self.results)
            # The preflight counts no evaluations; a benchmark may be of a training that the store handed back.
            seconds = [max(told, each or 0.0) if told else each for each in seconds]
        used = [found[1] for found in measured if found and found[1]]
        asked = [job.memory_mb for job in jobs if job.memory_mb]
        done = work(self.dag, run, stage, set(self.stages), self.results) if known else ""
        return Line(
            stage=stage,
            jobs=len(jobs),
            seconds=sum(filter(None, seconds)) if any(each is not None for each in seconds) else None,
            unknown=any(each is None and job.benchmark for each, job in zip(seconds, jobs, strict=True)),
            heavy=any(job.heavy for job in jobs),
            memory=_size(max(used)) if used else f"<= {_size(max(asked))}" if asked else "-",
            why=self._why(run, jobs) + f" ({done})" * bool(done),
        )

    def _why(self, run: str, jobs: list[Planned]) -> str:
        """What changed for these jobs themselves; else whose new files they read."""
        if own := list(dict.fromkeys(reason for job in jobs for reason in job.reasons)):
            return "; ".join(own)
        makers = dict.fromkeys(self.makers[path] for job in jobs for path in job.updated if path in self.makers)
        makers.pop((run, jobs[0].stage), None)  # parts of this stage, which another of its jobs joins
        names = dict.fromkeys(stage if maker == run or not run else f"{stage} of {maker}" for maker, stage in makers)
        return f"after {listed(list(names))}"

    def _known(self, run: str) -> bool:
        """Whether a run is one of this configuration; the jobs that all runs share are of none."""
        return run in self.dag.names or run in self.dag.settings.parents

    def _ancestors(self, run: str) -> Iterator[str]:
        """The run that a run varies, the run that that one varies, and so on."""
        while run := self.dag.settings.parents.get(run, ""):
            yield run

    def shares(self, run: str) -> str:
        """The stages that a run takes from others, in words; those of the base model apart, as they stand between."""
        if run not in self.dag.settings.parents:
            return ""
        settings = self.dag.settings[run]
        planned = {stage for name, stage in self.stages if name == run}
        wanted = _upstream(settings, "trial") if planned == {"trial"} else set(STAGE_FILES) - {"trial"}
        line = [stage for stage in STAGE_FILES if stage in wanted and happens(settings, stage)]
        owners: dict[str, set[str]] = {}
        for stage in line:
            if (owner := self.dag.owner(run, stage)) != run:
                owners.setdefault(owner, set()).add(stage)
        told = []
        for owner, stages in owners.items():
            words = list(_ranges([stage for stage in line if not stage.endswith("_base")], stages))
            if base := [stage.removesuffix("_base") for stage in line if stage in stages and stage.endswith("_base")]:
                words.append(f"{', '.join(base)} of the base model")
            told.append(f"{', '.join(words)} with {owner}")
        return f"shares {'; '.join(told)}" if told else ""

    def follows(self, run: str) -> str:
        """What becomes known only while the workflow runs: the trials of a search, and the best of them."""
        planned = {job.rule for (name, _), jobs in self.stages.items() for job in jobs if name == run}
        if run not in self.dag.names or not planned & {"propose", "choose"}:
            return ""
        dealt = generations(self.dag.settings[run])
        count = f"{sum(map(len, dealt))} trials in {len(dealt)} generations"
        told = [count] * ("propose" in planned) + ["the training of the best"] * self.dag.settings[run]["tune"]["final"]
        return f"{', and '.join(told)} will follow: not in the sum" if told else ""

    def together(self) -> str:
        """The sum of the times, and what it takes for granted."""
        known = [line for line in self.lines.values() if line.seconds is not None]
        alone = sum(line.seconds for line in known if line.heavy)
        aside = sum(line.seconds for line in known if not line.heavy) / self.cores
        told = f"Together {_count(sum(line.jobs for line in self.lines.values()), 'job')}"
        if not known:
            return f"{told}; nothing like them was ever measured, so no time is known."
        told += f", about {duration(alone + aside)} on {_count(self.cores, 'core')}"
        told += ", if what takes a GPU or several cores runs one after the other"
        unknown = dict.fromkeys(line.stage for line in self.lines.values() if line.unknown)
        return f"{told}." + f"\nNot in the sum, as it was never measured: {', '.join(unknown)}." * bool(unknown)


def _upstream(settings: dict[str, Any], stage: str) -> set[str]:
    """All stages that a stage reads, directly or through others."""
    return {found for earlier in reads(settings, stage) for found in (earlier, *_upstream(settings, earlier))}


def _ranges(line: list[str], chosen: set[str]) -> Iterator[str]:
    """Neighbours in a line as `first to last`."""
    group: list[str] = []
    for stage in [*line, ""]:
        if stage in chosen:
            group.append(stage)
        elif group:
            yield f"{group[0]} to {group[-1]}" if len(group) > 2 else ", ".join(group)
            group = []


def _names(runs: list[str]) -> str:
    if runs == [""]:
        return "all runs"
    if len(runs) > 4:
        return f"{runs[0]} to {runs[-1]} ({len(runs)} runs), each"
    return ", ".join(runs) + ", each" * (len(runs) > 1)


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    """A row of the table: numbers at the right of their column, words at the left."""
    stage, *numbers, why = cells
    shown = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True)]
    return "  ".join(["", f"{stage:<{widths[0]}}", *shown, why])


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:.3g} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"
