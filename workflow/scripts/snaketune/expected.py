"""What a planned job will take: the time and the memory of past benchmarks, and how much there is to do.

Nothing is scaled: a number is one that was measured, or none is given.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snaketune.dag import Dag
from snaketune.planned import Planned

LEAST_MB = 30  # a Python process takes more: such a job was over before Snakemake measured it
Key = tuple[str, str]  # run, stage
Measured = tuple[float, float | None]  # seconds, peak memory in MB


def mean(folder: Path, rule: str) -> Measured | None:
    """Mean seconds and highest peak (MB) of all jobs of a rule; a rule may have ten thousand."""
    like = [folder / f"{rule}.tsv", *sorted(folder.glob(f"{rule}-*.tsv"))]
    known = [found for file in like if (found := _measured(file))]
    if not known:
        return None
    return sum(seconds for seconds, _ in known) / len(known), max((peak for _, peak in known if peak), default=None)


def past(job: Planned, parents: Iterable[str], mean: Callable[[Path, str], Measured | None] = mean) -> Measured | None:
    """Seconds and peak memory (MB) of an equal job: of this run, else of those that it varies, else of any run.

    In each run the same job comes first, then the mean over all jobs of its rule; who asks for many jobs gives a
    `mean` that remembers.
    """
    if job.benchmark is None:
        return None
    own = Path(job.benchmark)
    logs = own.parents[2]
    others = sorted(logs.glob("*/benchmarks"), key=lambda folder: -folder.stat().st_mtime)
    for folder in dict.fromkeys([own.parent, *(logs / name / "benchmarks" for name in parents), *others]):
        if found := _measured(folder / own.name) or mean(folder, job.rule):
            return found
    return None


def _measured(benchmark: Path) -> Measured | None:
    """Seconds and MB of one file; None where there is none, or none that can be read."""
    try:
        with benchmark.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        seconds = float(row["s"])
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return None
    memory = row.get("max_rss") or ""
    peak = float(memory) if re.fullmatch(r"\d+(\.\d+)?", memory) else 0.0
    return seconds, peak if peak > LEAST_MB else None


def training_seconds(dag: Dag, run: str, planned: set[Key], results: Path) -> float | None:
    """What the preflight expects of the training, unless it is about to be made anew."""
    owner = dag.owner(run, "preflight")
    if (owner, "preflight") in planned:
        return None
    return _read(results / owner / "train/preflight.json").get("run_seconds")


def work(dag: Dag, run: str, stage: str, planned: set[Key], results: Path) -> str:
    """How much a stage has to do, where the files that tell it are there and not about to be made anew."""
    if stage in ("preflight", "train"):
        source, path, units = "plan", "train/plan.json", ("rows", "tokens", "steps")
    elif stage == "plan":
        source, path, units = "tokens", "tokens/train.json", ("rows", "tokens")
    elif stage.startswith(("likelihood_", "generate_")):
        source, path, units = "tokens", "tokens/test.json", ("rows",)
    else:
        return ""
    owner = dag.owner(run, source)
    found = {} if (owner, source) in planned else _read(results / owner / path)
    if any(unit not in found for unit in units):
        return f"{units[-1]} not known before {source}"
    return ", ".join(f"{found[unit]:,} {unit}" for unit in units)


def _read(path: Path) -> dict[str, Any]:
    """A stage's facts; none where a stopped run has left no whole file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
