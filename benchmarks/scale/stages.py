"""What each data stage costs at several sizes: the points that the cost model is fitted to.

    python benchmarks/scale/stages.py --work /tmp/scale --megabytes 100 400 900 2400

Makes the corpora of benchmarks/data, runs the workflow from raw rows to the data report on each, one job at a time, and
writes what every rule took to FOLDER/stages.json: its jobs, processor seconds, peak memory (MB), and the bytes that it
left. A size that is there already is not run again: its logs are read.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "data"))

from run import REST, TO_ARROW, corpus, size, workflow  # noqa: E402

# Rule -> what it leaves in results/bench/. Those of `tokens` and `split` stand for what follows them.
LEFT = {
    "ingest": ("ingest/rows-*", "ingest/quarantine-*"),
    "clean": ("clean/*",),
    "sign": ("dedup/signatures-*",),
    "dedup": ("dedup/clusters.parquet", "dedup/evidence.parquet", "dedup/dropped.parquet"),
    "split": ("split/train.parquet", "split/validation.parquet", "split/test.parquet", "split/dropped.parquet"),
    "leaks": ("split/leaks.*",),
    "tokenize": ("tokens/*/*.arrow", "tokens/parts/*"),
    "tokens": ("tokens/*.json", "tokens/*.parquet"),
    "ledger": ("ledger.parquet", "ingest/quarantine.parquet"),
    "data_report": ("data.html",),
}
COST = re.compile(r"processor time ([\d.]+) s, peak memory (\d+) MB")


def measured(work: Path, megabytes: int) -> dict[str, Any]:
    """The costs of the rules on a corpus of a size, which is made and run through if it was not before."""
    data = corpus(work, megabytes)
    folder = work / f"scale-{data.name}"
    if not (folder / "results/bench/data.html").exists():
        workflow(work, data, 1, TO_ARROW + REST, "scale")
    return {
        "megabytes": round(size(data), 1),
        "rows": pq.read_metadata(folder / "results/bench/ledger.parquet").num_rows,
        "rules": {rule: costs(folder, rule) for rule in LEFT},
    }


def costs(folder: Path, rule: str) -> dict[str, Any]:
    """Jobs, processor seconds together, the largest peak memory, and bytes left of one rule."""
    logs = [log for log in (folder / "logs/bench").glob(f"{rule}*.log") if re.fullmatch(rf"{rule}(-[\w-]+)?", log.stem)]
    found = [COST.search(log.read_text(encoding="utf-8")) for log in logs]
    assert found, f"{folder} has no log of {rule}"
    assert all(found), f"a log of {rule} in {folder} tells no cost"
    left = [path for pattern in LEFT[rule] for path in (folder / "results/bench").glob(pattern)]
    return {
        "jobs": len(logs),
        "cpu_s": round(sum(float(cost[1]) for cost in found if cost), 2),
        "peak_mb": max(int(cost[2]) for cost in found if cost),
        "bytes": sum(path.stat().st_size for path in left),
    }


def main() -> None:
    """Measure the sizes that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 400, 900, 2400])
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    points = [measured(work, megabytes) for megabytes in given.megabytes]
    (work / "stages.json").write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    for point in points:
        rules = point["rules"].values()
        print(
            f"{point['megabytes']:,.0f} MB, {point['rows']:,} rows: {sum(rule['cpu_s'] for rule in rules):.1f} s on the"
            f" processor, {max(rule['peak_mb'] for rule in rules):,} MB, {sum(rule['bytes'] for rule in rules):,} bytes"
        )


if __name__ == "__main__":
    main()
