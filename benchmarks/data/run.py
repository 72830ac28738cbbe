"""The data stages beside their peers, on one generated corpus: speed, memory, and the truth that was planted in it.

python benchmarks/data/run.py --work FOLDER --megabytes 500 --peer-megabytes 100 --peers-python PEERS/bin/python

Every program is timed from outside, as a whole: seconds of its processes on the processor (user + system, the
operating system's own account), seconds on the clock, the largest memory of any one process. Speed per core is
megabytes of raw text over processor seconds, start-up included. Writes FOLDER/results.json and prints a table.
"""

import argparse
import itertools
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TO_ARROW = [f"results/bench/tokens/{split}.json" for split in ("train", "validation", "test")]
REST = ["results/bench/split/leaks.json", "results/bench/ledger.parquet", "results/bench/data.html"]
NEAR = ["results/bench/dedup/clusters.parquet"]
Figures = dict[str, Any]


def timed(command: list[str], cwd: Path, log: Path) -> Figures:
    """Run a program to its end; its seconds, and the last line that it printed. Raises CalledProcessError."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = done.stdout.strip().splitlines()
    return {"cpu": used, "wall": time.monotonic() - started, "printed": lines[-1] if lines else ""}


def corpus(work: Path, megabytes: int) -> Path:
    """The corpus of a size, made once."""
    folder = work / f"corpus-{megabytes}"
    if not (folder / "truth.parquet").exists():
        command = [sys.executable, str(HERE / "corpus.py"), "--megabytes", str(megabytes), "--out", str(folder)]
        subprocess.run(command, check=True)
    return folder


def readable(folder: Path) -> Path:
    """The corpus without its broken lines, at the first of which datasets stops."""
    out = folder.with_name(f"{folder.name}-readable")
    out.mkdir(exist_ok=True)
    for path in folder.glob("*.jsonl"):
        with path.open("rb") as lines, (out / path.name).open("wb") as kept:
            kept.writelines(line for line in lines if _is_row(line))
    return out


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and isinstance(row.get("text"), str)


def size(folder: Path) -> float:
    """Raw megabytes of a corpus."""
    return sum(path.stat().st_size for path in folder.glob("*.jsonl")) / 1e6


def workflow(work: Path, data: Path, cores: int, targets: list[str], name: str) -> Figures:
    """The workflow from raw rows to some of its files, in a folder of its own without earlier results."""
    folder = work / f"{name}-{data.name}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    for part in ("Snakefile", "workflow", "profiles", "requirements.lock", "resources"):
        (folder / part).symlink_to(ROOT / part)
    config = {
        "run": "bench",
        "source": {"files": f"{data}/*.jsonl", "keep": "id"},
        "model": {"base": "resources/tiny-gpt"},
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *targets]
    figures = timed(command, folder, work / f"{name}-{data.name}.log")
    jobs = [_job(log) for log in sorted((folder / "logs/bench").glob("*.log"))]
    return figures | {"megabytes": size(data), "cores": cores, "jobs": jobs, "folder": str(folder)}


def _job(log: Path) -> Figures:
    cost = re.search(r"processor time ([\d.]+) s, peak memory (\d+) MB", log.read_text(encoding="utf-8"))
    assert cost, f"{log} tells no cost"
    return {"job": log.stem, "cpu": float(cost[1]), "peak_mb": int(cost[2])}


def peer(work: Path, data: Path, script: str, python: str, *arguments: str) -> Figures:
    """Another system's program on the same corpus."""
    out = work / f"{Path(script).stem}-{data.name}"
    for path in (out, Path(f"{out}-cache")):
        shutil.rmtree(path, ignore_errors=True)
    command = [python, str(HERE / script), str(data), *(argument.format(out=out) for argument in arguments)]
    figures = timed(command, work, work / f"{out.name}.log")
    return figures | {"megabytes": size(data), "answer": json.loads(figures.pop("printed"))}


def truth(data: Path, folder: Path, threshold: float) -> Figures:
    """What was planted against what was found: recall by similarity, and pairs that should not be there."""
    ids = _ids(folder)
    planted = pq.read_table(data / "truth.parquet").to_pandas().query("kind == 'near'")
    clusters = pq.read_table(folder / "results/bench/dedup/clusters.parquet", columns=["row_id", "cluster"]).to_pandas()
    cluster_of = clusters.drop_duplicates("row_id").set_index("row_id")["cluster"]
    together = planted["id_a"].map(ids).map(cluster_of).eq(planted["id_b"].map(ids).map(cluster_of))
    bounds = [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.01]
    recall = {
        f"{low:g} to {min(high, 1):g}": (float(together[chosen].mean()), int(chosen.sum()))
        for low, high in itertools.pairwise(bounds)
        if (chosen := planted["jaccard"].between(low, high, inclusive="left")).any()
    }
    evidence = pq.read_table(folder / "results/bench/dedup/evidence.parquet", columns=["similarity"])
    lowest = min(evidence["similarity"].to_pylist(), default=None)
    return {
        "recall": recall,
        "pairs": evidence.num_rows,
        "lowest": lowest,
        "below": bool(lowest and lowest < threshold),
    }


def _ids(folder: Path) -> dict[str, str]:
    """The row_id of each document of the corpus, by the id that it has there."""
    found = {}
    for path in sorted((folder / "results/bench/ingest").glob("rows-*.parquet")):
        table = pq.read_table(path, columns=["row_id", "meta"])
        names = (json.loads(text)["id"] for text in table["meta"].to_pylist())
        found.update(zip(names, table["row_id"].to_pylist(), strict=True))
    return found


def main() -> None:
    """Run everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--peer-megabytes", type=int, default=100)
    parser.add_argument("--peers-python", help="a Python with requirements-peers.txt; without it no peer runs")
    parser.add_argument("--twice", action="store_true", help="also a corpus of twice the size, for the memory")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    large, small = corpus(work, given.megabytes), readable(corpus(work, given.peer_megabytes))
    results: Figures = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"}
    workflow(work, small, given.cores, TO_ARROW + REST, "warm-up")  # compiles the kernels, once for all runs after it
    results["to Arrow"] = workflow(work, large, given.cores, TO_ARROW, "arrow")
    results["everything"] = workflow(work, large, given.cores, TO_ARROW + REST, "whole")
    results["truth"] = truth(large, Path(results["everything"]["folder"]), 0.8)
    if given.twice:
        twice = corpus(work, 2 * given.megabytes)
        results["everything, twice"] = workflow(work, twice, given.cores, TO_ARROW + REST, "whole")
    results["to Arrow, small"] = workflow(work, small, 1, TO_ARROW, "arrow")
    results["near-duplicates, small"] = workflow(work, small, 1, NEAR, "near")
    if given.peers_python:
        tokenizer = str(ROOT / "resources/tiny-gpt")
        results["usual stack"] = peer(work, small, "usual_stack.py", given.peers_python, tokenizer, "{out}")
        results["datatrove"] = peer(work, small, "datatrove_stages.py", given.peers_python, "{out}")
    (work / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    show(results)


def show(results: Figures) -> None:
    """The table."""
    print("| what | MB | processor s | clock s | MB/s per core | largest job |\n| --- | --- | --- | --- | --- | --- |")
    for name, run in results.items():
        if isinstance(run, dict) and "cpu" in run:
            peak = max((job["peak_mb"] for job in run.get("jobs", [])), default=None)
            speed = run["megabytes"] / run["cpu"]
            print(
                f"| {name} | {run['megabytes']:.0f} | {run['cpu']:.1f} | {run['wall']:.1f} | {speed:.2f} | {peak} MB |"
            )
    print(json.dumps(results["truth"], indent=2))


if __name__ == "__main__":
    main()
