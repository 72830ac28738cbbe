"""Tokenize: rows of text to token ids, with the base model's own tokenizer; and the ledger of every raw row.

Reads   split/<split>.parquet, the base model's tokenizer and configuration
Writes  tokens/<split>/ (datasets.load_from_disk), tokens/<split>.json, tokens/<split>.notes.parquet, ledger.parquet
Why     no GPU waits for a tokenizer, and a change of the training leaves the tokens as they are. What follows reads
        the manifest, which has a hash of the content: a folder itself is never compared by content
"""


rule tokenize:
    """Tokenize one split straight to Arrow."""
    input:
        rows=of("split", "split/{split}.parquet"),
        base=base_files,
        code=code("encode.py"),
    output:
        folder=directory("results/{run}/tokens/{split}"),
        manifest="results/{run}/tokens/{split}.json",
        notes="results/{run}/tokens/{split}.notes.parquet",
    log:
        "logs/{run}/tokenize-{split}.log",
    benchmark:
        "logs/{run}/benchmarks/tokenize-{split}.tsv"
    params:
        settings=settings("tokens"),
        base=base_folder,
    script:
        "../scripts/encode.py"


rule ledger:
    """Account for every raw row: where it is now, or which rule dropped it."""
    input:
        raw=sharded("ingest", "ingest/rows-{shard}.parquet"),
        quarantine=sharded("ingest", "ingest/quarantine-{shard}.parquet"),
        dropped=sharded("clean", "clean/dropped-{shard}.parquet"),
        duplicates=of("dedup", "dedup/dropped.parquet"),
        splits=of("split", *(f"split/{split}.parquet" for split in SPLITS)),
        notes=of("tokens", *(f"tokens/{split}.notes.parquet" for split in SPLITS)),
        code=code("ledger.py"),
    output:
        ledger="results/{run}/ledger.parquet",
        quarantine="results/{run}/ingest/quarantine.parquet",
    log:
        "logs/{run}/ledger.log",
    benchmark:
        "logs/{run}/benchmarks/ledger.tsv"
    script:
        "../scripts/ledger.py"
