"""What `snakemake -n` costs by the number of shards: seconds, processor seconds, peak memory.

    python benchmarks/scale/planning.py --work /tmp/plan --shards 100 1000 10000

A sparse file of N MB, cut into N shards (`source.shard_mb: 1`), is a workflow of three jobs a shard and some thirty
more; nothing of it is read. States of the results:

fresh  nothing was made
half   nothing was made, but half of the shards were measured before: the summary looks for times like theirs
done   everything is there and recorded: Snakemake compares all of it, and finds nothing to do

Writes FOLDER/planning.json. `--profile` also says what share of the time is spent in the workflow's own code.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "requirements.lock", "resources")
CONFIG = "run: bench\nsource: {files: data/*.jsonl, shard_mb: 1}\nmodel: {base: resources/tiny-gpt}\n"
MEASURED = "s\th:m:s\tmax_rss\n1.5\t0:00:01\t200.0\n"
Figures = dict[str, Any]


def folder_of(work: Path, shards: int, state: str) -> Path:
    """A clone of the workflow with N shards in a state."""
    folder = work / f"{state}-{shards}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("config", "data", "logs/bench/benchmarks"):
        (folder / name).mkdir(parents=True)
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    (folder / "config/config.yaml").write_text(CONFIG, encoding="utf-8")
    with (folder / "data/one.jsonl").open("wb") as file:
        file.truncate(shards * 1_000_000)
    if state == "half":
        for rule in ("ingest", "clean", "sign"):
            for shard in range(shards // 2):
                (folder / f"logs/bench/benchmarks/{rule}-{shard:05d}.tsv").write_text(MEASURED, encoding="utf-8")
    if state == "done":
        pretend(folder)
    return folder


def pretend(folder: Path) -> None:
    """Let every output be there, empty, and let Snakemake record it as made."""
    told = snakemake(folder, "--summary")
    for line in told.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        if "\t" in line:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    snakemake(folder, "--touch", "--cores", "1", "--no-hooks")  # the hooks would read the empty files


def snakemake(folder: Path, *arguments: str) -> str:
    """What Snakemake prints to its standard output. Raises CalledProcessError."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def planned(folder: Path, *, python: tuple[str, ...] = ()) -> Figures:
    """A dry run: seconds on the clock and on the processor, peak memory (MB), and how many jobs it found."""
    started = time.monotonic()
    log = folder / "plan.log"
    with log.open("wb") as out:
        command = [sys.executable, *python, "-m", "snakemake", "--dry-run"]
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    text = log.read_text(encoding="utf-8")
    assert os.waitstatus_to_exitcode(status) == 0, text[-2000:]
    jobs = re.search(r"^Together ([\d,]+) jobs?", text, re.MULTILINE)
    return {
        "jobs": int(jobs[1].replace(",", "")) if jobs else 0,
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1000),
    }


def own_share(folder: Path) -> dict[str, float]:
    """The share of a dry run's time under a profiler that is spent in functions of the workflow, by file."""
    planned(folder, python=("-m", "cProfile", "-o", "plan.profile"))
    spent = pstats.Stats(str(folder / "plan.profile"))
    found: dict[str, float] = {}
    for (file, _, _), (_, _, itself, _, _) in spent.stats.items():  # type: ignore[attr-defined]
        if "/workflow/" in file and "site-packages" not in file:
            found[Path(file).name] = found.get(Path(file).name, 0.0) + itself / spent.total_tt  # type: ignore[attr-defined]
    return {name: round(share, 4) for name, share in sorted(found.items(), key=lambda item: -item[1]) if share > 1e-4}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--states", nargs="+", choices=["fresh", "half", "done"], default=["fresh"])
    parser.add_argument("--profile", action="store_true", help="of the fresh state only")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results: list[Figures] = []
    for state in given.states:
        for shards in given.shards:
            folder = folder_of(given.work.resolve(), shards, state)
            results.append({"shards": shards, "state": state} | planned(folder))
            if given.profile and state == "fresh":
                results[-1]["own"] = own_share(folder)
            print(json.dumps(results[-1]), flush=True)
    (given.work / "planning.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
