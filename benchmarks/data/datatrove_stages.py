"""datatrove's four stages of near-duplicate removal on the same rows, with the parameters of FineWeb.

python datatrove_stages.py CORPUS OUT [--tasks N]

Signatures, buckets, clusters, filter: 5-word shingles, 14 bands of 8, 64-bit hashes, as in datatrove's own example.
Prints one line of JSON.
"""

import argparse
import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig


def main() -> None:
    """Run the four stages one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", type=int, default=1)
    given = parser.parse_args()
    config = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8)
    reader = JsonlReader(str(given.corpus), glob_pattern="*.jsonl")
    work = {name: str(given.out / name) for name in ("signatures", "buckets", "removed", "kept")}
    stages = [
        (given.tasks, [reader, MinhashDedupSignature(output_folder=work["signatures"], config=config)]),
        (14, [MinhashDedupBuckets(work["signatures"], work["buckets"], config=config)]),
        (1, [MinhashDedupCluster(work["buckets"], work["removed"], config=config)]),
        (
            given.tasks,
            [reader, MinhashDedupFilter(work["removed"]), JsonlWriter(work["kept"], compression=None)],
        ),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=given.tasks, logging_dir=str(given.out / f"logs-{number}")
        ).run()
    kept = sum(path.read_bytes().count(b"\n") for path in Path(work["kept"]).rglob("*.jsonl"))
    json.dump({"kept": kept}, sys.stdout)


if __name__ == "__main__":
    main()
