"""What a corpus of a size takes: a model of time, memory, disk and jobs, fitted to the points of points.json.

    python benchmarks/scale/model.py            # the fit, its check, and the table of docs/scaling.md
    python benchmarks/scale/model.py --gigabytes 50 --row-kb 1.2 --shard-mb 1024

For each rule, with x megabytes of raw text in n rows, dealt to j jobs:

    processor seconds = start * j + per_mb * x          least squares, no coefficient below zero
    peak memory       = base + per_row * n              where one job sees all rows; else the largest seen
    disk              = per_mb * x
    planning          = start + per_shard * shards      seconds, and the same for memory

The check: the largest corpus is left out of the fit, and predicted. Beyond it everything is extrapolated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

POINTS = Path(__file__).resolve().parent / "points.json"
SHARDED = ("ingest", "clean", "sign")  # a job a shard; tokenize: a job a part, of which a split has one by default
# Bytes a row of the jobs that hold something of every row: as their modules count it (split), or from runs that are
# larger than those fitted here (dedup: two million rows; ledger: seven million). Small runs mislead: what a job holds
# of a batch or a chunk grows with the first rows, and then no more.
ROW_BYTES = {"dedup": 220, "split": 90, "ledger": 180}
FITTED = ("leaks", "data_report")  # the same, from the points alone; leaks holds evaluation rows, here one in five
OTHER_JOBS = 32  # of a run that trains and evaluates
SIZES = {"1 GB": 1e3, "100 GB": 1e5, "1 TB": 1e6, "100 TB": 1e8}
Point = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What a rule costs. Seconds are those of a processor, memory is in MB, `disk` in MB for each raw MB."""

    start: float
    per_mb: float
    base: float
    per_row: float  # bytes
    disk: float

    def seconds(self, megabytes: float, jobs: int) -> float:
        """Processor seconds of all jobs of the rule."""
        return self.start * jobs + self.per_mb * megabytes

    def memory(self, rows: float) -> float:
        """The peak of the largest job in MB."""
        return self.base + self.per_row * rows / 1e6


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Intercept and slope of the least squares line, neither below zero."""
    return two(np.ones(len(x)), np.asarray(x, float), np.asarray(y, float))


def two(one: np.ndarray, other: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The coefficients a, b >= 0 with the least squares of a * one + b * other - y, relative to y."""
    one, other, y = (
        one / y,
        other / y,
        np.ones(len(y)),
    )  # a second too much is much in a small run, and little in a large
    both = np.linalg.lstsq(np.stack([one, other], axis=1), y, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = [float(feature @ y / (feature @ feature)) for feature in (one, other)]
    errors = [float(np.square(alone[at] * feature - y).sum()) for at, feature in enumerate((one, other))]
    return (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])


def fit(points: list[Point]) -> dict[str, Rule]:
    """The costs of each rule, from the points of stages.py."""
    megabytes = np.array([point["megabytes"] for point in points])
    rows = [point["rows"] for point in points]
    found = {}
    for rule in points[0]["rules"]:
        of = [point["rules"][rule] for point in points]
        jobs, cpu = (np.array([each[key] for each in of], float) for key in ("jobs", "cpu_s"))
        peaks = [each["peak_mb"] for each in of]
        slope = ROW_BYTES.get(rule, 0) / 1e6
        base = max(peak - slope * count for peak, count in zip(peaks, rows, strict=True))
        if rule in FITTED:
            base, slope = line(rows, peaks)
        disk = float(np.mean([each["bytes"] for each in of] / megabytes) / 1e6)
        found[rule] = Rule(*two(jobs, megabytes, np.maximum(cpu, 0.01)), base, slope * 1e6, disk)
    return found


def predict(rules: dict[str, Rule], megabytes: float, rows: float, shards: int) -> dict[str, Any]:
    """What the data stages take: seconds that can be shared out and those that cannot, memory, disk, by rule too."""
    jobs = {rule: shards if rule in SHARDED else 3 if rule in ("tokenize", "tokens") else 1 for rule in rules}
    seconds = {rule: cost.seconds(megabytes, jobs[rule]) for rule, cost in rules.items()}
    memory = {rule: cost.memory(rows) for rule, cost in rules.items()}
    largest = max(memory, key=lambda rule: memory[rule])
    return {
        "jobs": 3 * shards + OTHER_JOBS,
        "shared_s": sum(seconds[rule] for rule in rules if rule in SHARDED),
        "alone_s": sum(seconds[rule] for rule in rules if rule not in SHARDED),
        "memory_mb": memory[largest],
        "largest": largest,
        "disk_mb": sum(cost.disk for cost in rules.values()) * megabytes,
        "seconds": seconds,
        "memory": memory,
    }


def planning(points: list[Point], shards: float) -> tuple[float, float]:
    """Seconds and memory (MB) of a dry run of so many shards of which nothing is made."""
    fresh = [point for point in points if point["state"] == "fresh"]
    costs = [
        line([point["shards"] for point in fresh], [point[key] for point in fresh]) for key in ("cpu_s", "peak_mb")
    ]
    (start, each), (base, more) = costs
    return start + each * shards, base + more * shards


def training_hours(weights: float, tokens: float, peak_tflops: float, mfu: float) -> float:
    """Hours of one device: 6 FLOPs a weight and token, at a share `mfu` of the device's peak."""
    return 6 * weights * tokens / (peak_tflops * 1e12 * mfu) / 3600


def check(points: list[Point]) -> list[tuple[str, float, float]]:
    """Name, predicted and measured of the largest corpus, by a fit to the others."""
    *smaller, last = sorted(points, key=lambda point: point["megabytes"])
    rules = fit(smaller)
    told = predict(rules, last["megabytes"], last["rows"], last["rules"]["ingest"]["jobs"])
    true = last["rules"]
    rows = [("processor seconds, all", sum(told["seconds"].values()), sum(each["cpu_s"] for each in true.values()))]
    rows += [(f"processor seconds, {rule}", told["seconds"][rule], true[rule]["cpu_s"]) for rule in true]
    rows += [(f"peak MB, {rule}", told["memory"][rule], true[rule]["peak_mb"]) for rule in true]
    return [*rows, ("MB on disk, all", told["disk_mb"], sum(each["bytes"] for each in true.values()) / 1e6)]


def table(points: dict[str, Any], *, row_kb: float, shard_mb: dict[str, int], cores: int) -> str:
    """The table of docs/scaling.md."""
    rules = fit(points["stages"])
    head = (
        f"| raw text | rows | `shard_mb` | jobs | core hours | hours at {cores} cores | largest job | disk | planning |"
    )
    lines = [head, "|" + " --- |" * 9]
    for name, megabytes in SIZES.items():
        rows, shards = megabytes * 1000 / row_kb, -(-int(megabytes) // shard_mb[name])
        told = predict(rules, megabytes, rows, shards)
        seconds, memory = planning(points["planning"], shards)
        hours = (told["shared_s"] / min(cores, shards) + told["alone_s"]) / 3600
        cells = [
            name,
            count(rows),
            f"{shard_mb[name]:,}",
            f"{told['jobs']:,}",
            number(sum(told["seconds"].values()) / 3600),
        ]
        cells += [number(hours), f"{told['largest']}, {size(told['memory_mb'])}", size(told["disk_mb"])]
        lines.append("| " + " | ".join([*cells, f"{duration(seconds)}, {size(memory)}"]) + " |")
    return "\n".join(lines)


def count(rows: float) -> str:
    """A number of rows in thousands, millions, or thousands of millions."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rows >= unit:
            return f"{number(rows / unit)}{name}"
    return number(rows)


def duration(seconds: float) -> str:
    """Seconds, or minutes where these are more than two."""
    return f"{number(seconds)} s" if seconds < 120 else f"{number(seconds / 60)} min"


def size(megabytes: float) -> str:
    """A size with its unit."""
    for unit, name in ((1e6, "TB"), (1e3, "GB")):
        if megabytes >= unit:
            return f"{number(megabytes / unit)} {name}"
    return f"{number(megabytes)} MB"


def number(value: float) -> str:
    """Two digits that count."""
    return f"{float(f'{value:.2g}'):,.10g}"


def main() -> None:
    """Print the fit, the check and the table; or one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=POINTS)
    parser.add_argument("--gigabytes", type=float, help="only this size")
    parser.add_argument(
        "--row-kb", type=float, default=2.37, help="kilobytes of a row; 2.37 is that of the corpus measured"
    )
    parser.add_argument("--shard-mb", type=int, help="as in the configuration; 256 there")
    parser.add_argument("--cores", type=int, default=64)
    given = parser.parse_args()
    points = json.loads(given.points.read_text(encoding="utf-8"))
    if given.gigabytes:
        SIZES.clear()
        SIZES[f"{given.gigabytes:g} GB"] = given.gigabytes * 1000
    shard_mb = dict.fromkeys(SIZES, given.shard_mb or 256) if given.gigabytes or given.shard_mb else points["shard_mb"]
    if not given.gigabytes:
        for rule, cost in fit(points["stages"]).items():
            print(
                f"{rule:<12} {cost.start:6.2f} s a job + {1000 * cost.per_mb:7.2f} s a GB;"
                f" {cost.base:5.0f} MB + {cost.per_row:5.0f} bytes a row; {cost.disk:.3f} bytes a raw byte"
            )
        (start, base), (more, higher) = (planning(points["planning"], shards) for shards in (0, 1000))
        print(
            f"planning     {start:.1f} s + {more - start:.1f} s a thousand shards;"
            f" {base:.0f} MB + {higher - base:.0f} MB a thousand shards"
        )
        print("\nthe largest corpus, predicted from the others")
        for name, told, true in check(points["stages"]):
            print(f"{name:<32} {told:9.1f} predicted {true:9.1f} measured {100 * (told / true - 1):+6.0f} %")
        print()
    print(table(points, row_kb=given.row_kb, shard_mb=shard_mb, cores=given.cores))


if __name__ == "__main__":
    main()
