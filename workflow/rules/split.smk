"""Deduplicate and split: the two steps that look at all rows at once.

Reads   clean/rows-<shard>.parquet, all shards
Writes  dedup/…, split/{train,validation,test}.parquet
Why     families of like rows are known before the split, and the split deals families: nothing that the model has
        seen in training comes back in the test, not even reworded
"""


rule dedup:
    """Remove exact and verified near-duplicates; name the cluster of every row."""
    input:
        rows=sharded("clean", "clean/rows-{shard}.parquet"),
        code=code("deduplicate.py"),
    output:
        rows="results/{run}/dedup/rows-00000.parquet",
        clusters="results/{run}/dedup/clusters.parquet",
        evidence="results/{run}/dedup/evidence.parquet",
        dropped="results/{run}/dedup/dropped.parquet",
    log:
        "logs/{run}/dedup.log",
    benchmark:
        "logs/{run}/benchmarks/dedup.tsv"
    params:
        settings=settings("dedup"),
    script:
        "../scripts/deduplicate.py"


rule split:
    """Deal families of rows to train, validation and test."""
    input:
        rows=of("dedup", "dedup/rows-00000.parquet"),
        clusters=of("dedup", "dedup/clusters.parquet"),
        code=code("split.py"),
    output:
        **{split: f"results/{{run}}/split/{split}.parquet" for split in SPLITS},
    log:
        "logs/{run}/split.log",
    benchmark:
        "logs/{run}/benchmarks/split.tsv"
    params:
        settings=settings("split"),
    script:
        "../scripts/split.py"
