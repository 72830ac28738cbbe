"""Ingest: raw files to typed rows.

Reads   the files of `source`; a data set of the Hub is fetched into one Parquet file first
Writes  ingest/rows-<shard>.parquet, and ingest/quarantine-<shard>.parquet for what cannot become a row
Why     everything after it sees one schema, and nothing that was raw is ever lost silently
"""


localrules:
    fetch_data,


rule fetch_data:
    """Fetch a data set of the Hub, once; every run that names it shares the file."""
    input:
        code=ancient(code("fetch_data.py")),  # the revision is pinned: newer code fetches the same
    output:
        rows="resources/hub/datasets--{slug}/{revision}.parquet",
    log:
        "logs/hub/datasets--{slug}-{revision}.log",
    params:
        settings=hub_source,
    script:
        "../scripts/fetch_data.py"


rule ingest:
    """Read the raw files of one shard; set aside what cannot become a row."""
    input:
        files=raw_paths,
        code=code("ingest.py"),
    output:
        rows="results/{run}/ingest/rows-{shard}.parquet",
        quarantine="results/{run}/ingest/quarantine-{shard}.parquet",
    log:
        "logs/{run}/ingest-{shard}.log",
    benchmark:
        "logs/{run}/benchmarks/ingest-{shard}.tsv"
    params:
        settings=settings("ingest"),
        files=raw_files,
        alone=lambda wildcards: len(dag.raw(wildcards.run)) == 1,
    script:
        "../scripts/ingest.py"
