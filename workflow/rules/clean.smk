"""Clean: what is mended in a text, what is reported of it, and which rows cannot be kept.

Reads   ingest/rows-<shard>.parquet, the lists of words that the settings name, decisions of annotators
Writes  clean/rows-<shard>.parquet, clean/dropped-<shard>.parquet with the rule, the value and the threshold,
        clean/findings-<shard>.parquet (personal data and listed words: kinds and counts), clean/effects-<shard>.json
Why     text is mended before it is compared, so that duplicates are found through their damage
"""


rule clean:
    """Mend the texts of one shard, and drop the rows that no rule can save."""
    input:
        rows=of("ingest", "ingest/rows-{shard}.parquet"),
        beside=beside_files("clean"),
        code=code("clean.py"),
    output:
        rows="results/{run}/clean/rows-{shard}.parquet",
        dropped="results/{run}/clean/dropped-{shard}.parquet",
        findings="results/{run}/clean/findings-{shard}.parquet",
        effects="results/{run}/clean/effects-{shard}.json",
    log:
        "logs/{run}/clean-{shard}.log",
    benchmark:
        "logs/{run}/benchmarks/clean-{shard}.tsv"
    params:
        settings=settings("clean"),
        beside=beside("clean"),
    script:
        "../scripts/clean.py"
