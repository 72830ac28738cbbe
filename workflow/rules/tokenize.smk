"""Tokenize: rows of text to token ids, with the base model's own tokenizer; and the ledger of every raw row.

Reads   split/<split>.parquet or augment/train.parquet, the base model's tokenizer and configuration
Writes  tokens/<split>/ (datasets.load_from_disk), tokens/<split>.json, tokens/<split>.notes.parquet, ledger.parquet
Why     no GPU waits for a tokenizer, and a change of the training leaves the tokens as they are. What follows reads
        the manifest, which has a hash of the content: it is the same however many jobs wrote the tokens
"""


rule tokenize:
    """Tokenize one part of one split straight to Arrow."""
    input:
        rows=rows_of_split,
        base=base_files,
        code=code("encode.py"),
    output:
        tokens="results/{run}/tokens/{split}/data-{part}.arrow",
        about="results/{run}/tokens/parts/{split}-{part}.json",
        notes="results/{run}/tokens/parts/{split}-{part}.notes.parquet",
    log:
        "logs/{run}/tokenize-{split}-{part}.log",
    benchmark:
        "logs/{run}/benchmarks/tokenize-{split}-{part}.tsv"
    params:
        settings=settings("tokens"),
        base=base_folder,
        part=lambda wildcards: int(wildcards.part),
    script:
        "../scripts/encode.py"


rule tokens:
    """Make one data set of the parts of a split; nothing is copied."""
    input:
        tokens=parts("results/{run}/tokens/{split}/data-{part}.arrow"),
        about=parts("results/{run}/tokens/parts/{split}-{part}.json"),
        notes=parts("results/{run}/tokens/parts/{split}-{part}.notes.parquet"),
        code=code("gather.py"),
    output:
        state="results/{run}/tokens/{split}/state.json",
        info="results/{run}/tokens/{split}/dataset_info.json",
        manifest="results/{run}/tokens/{split}.json",
        notes="results/{run}/tokens/{split}.notes.parquet",
    log:
        "logs/{run}/tokens-{split}.log",
    script:
        "../scripts/gather.py"


rule ledger:
    """Account for every raw row: where it is now, or which rule dropped it."""
    input:
        raw=sharded("ingest", "ingest/rows-{shard}.parquet"),
        quarantine=sharded("ingest", "ingest/quarantine-{shard}.parquet"),
        clean=sharded("clean", "clean/rows-{shard}.parquet"),
        dropped=sharded("clean", "clean/dropped-{shard}.parquet"),
        clusters=of("dedup", "dedup/clusters.parquet"),
        duplicates=of("dedup", "dedup/dropped.parquet"),
        undealt=of("split", "split/dropped.parquet"),
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
