"""Deduplicate: which rows are the same, which are related, and which stand in a test set given by the user.

Reads   clean/rows-<shard>.parquet
Writes  dedup/signatures-<shard>.parquet, dedup/{clusters,evidence,dropped}.parquet, decontaminate/hits-<shard>.parquet
Why     families of like rows are known before the split, and the split deals families: nothing that the model has
        seen in training comes back in the test, not even reworded
"""


rule sign:
    """Compute the MinHash band keys of the rows of one shard."""
    input:
        rows=of("clean", "clean/rows-{shard}.parquet"),
        code=code("sign.py"),
    output:
        signatures="results/{run}/dedup/signatures-{shard}.parquet",
    log:
        "logs/{run}/sign-{shard}.log",
    benchmark:
        "logs/{run}/benchmarks/sign-{shard}.tsv"
    params:
        settings=settings("sign"),
    script:
        "../scripts/sign.py"


rule dedup:
    """Find exact and verified near-duplicates over all shards; name the cluster of every row."""
    input:
        signatures=sharded("sign", "dedup/signatures-{shard}.parquet"),
        rows=sharded("clean", "clean/rows-{shard}.parquet"),
        code=code("deduplicate.py"),
    output:
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


rule decontaminate:
    """Look for runs of words of the given test sets in the rows of one shard."""
    input:
        rows=of("clean", "clean/rows-{shard}.parquet"),
        tests=beside_files("decontaminate"),
        code=code("decontaminate.py"),
    output:
        hits="results/{run}/decontaminate/hits-{shard}.parquet",
    log:
        "logs/{run}/decontaminate-{shard}.log",
    benchmark:
        "logs/{run}/benchmarks/decontaminate-{shard}.tsv"
    params:
        settings=settings("decontaminate"),
    script:
        "../scripts/decontaminate.py"
