"""Clean: mark-up, mojibake, Unicode, control characters and white space; empty, short and long rows.

Reads   ingest/rows-<shard>.parquet
Writes  clean/rows-<shard>.parquet, and clean/dropped-<shard>.parquet with the rule, the value and the threshold
Why     text is mended before it is compared, so that duplicates are found through their damage
"""


rule clean:
    """Mend the texts of one shard, and drop the rows that no rule can save."""
    input:
        rows=of("ingest", "ingest/rows-{shard}.parquet"),
        code=code("clean.py"),
    output:
        rows="results/{run}/clean/rows-{shard}.parquet",
        dropped="results/{run}/clean/dropped-{shard}.parquet",
    log:
        "logs/{run}/clean-{shard}.log",
    benchmark:
        "logs/{run}/benchmarks/clean-{shard}.tsv"
    params:
        settings=settings("clean"),
    script:
        "../scripts/clean.py"
