"""Report: everything that a person looks at, and what another person needs to check it.

Reads   the metrics, the ledger, the history of the training, answers, scores, the configuration
Writes  data.html, train/curves.svg, manifest.json, report.html, model/README.md; results/leaderboard.{csv,html} over all runs
Why     a page that opens anywhere, without a network, beside the numbers that it shows
"""


localrules:
    data_report,
    curves,
    manifest,
    report,
    card,
    leaderboard,


rule data_report:
    """Show what became of the raw rows: the funnel, reasons, duplicates, lengths, languages, the leak check."""
    input:
        ledger=of("ledger", "ledger.parquet"),
        quarantine=of("ledger", "ingest/quarantine.parquet"),
        raw=sharded("ingest", "ingest/rows-{shard}.parquet"),
        findings=sharded("clean", "clean/findings-{shard}.parquet"),
        effects=sharded("clean", "clean/effects-{shard}.json"),
        clusters=of("dedup", "dedup/clusters.parquet"),
        evidence=of("dedup", "dedup/evidence.parquet"),
        hits=optional("decontaminate", "decontaminate/hits-{shard}.parquet"),
        splits=of("split", *(f"split/{split}.parquet" for split in SPLITS)),
        checks=of("leaks", "split/leaks.json"),
        nearest=of("leaks", "split/leaks.parquet"),
        tokens=of("tokens", *(f"tokens/{split}.json" for split in SPLITS)),
        template=str(ROOT / "workflow/report/data.html.j2"),
        code=code("data_report.py", *PAGE_PARTS),
    output:
        page="results/{run}/data.html",
    log:
        "logs/{run}/data_report.log",
    benchmark:
        "logs/{run}/benchmarks/data_report.tsv"
    params:
        settings=settings("data"),
    script:
        "../scripts/data_report.py"


rule curves:
    """Draw training and validation loss."""
    input:
        history=of("train", "train/history.jsonl"),
        code=code("curves.py"),
    output:
        curves="results/{run}/train/curves.svg",
    log:
        "logs/{run}/curves.log",
    script:
        "../scripts/curves.py"


rule manifest:
    """Hash the inputs and the code; list the versions and the hardware."""
    input:
        raw=raw_inputs,
        model=of("train", "model/config.json"),
        code=code("manifest.py", *CODE_FILES),
    output:
        manifest="results/{run}/manifest.json",
    log:
        "logs/{run}/manifest.log",
    params:
        settings=settings("manifest"),
    script:
        "../scripts/manifest.py"


rule report:
    """Write the page."""
    input:
        metrics=of("metrics", "metrics.json"),
        ledger=of("ledger", "ledger.parquet"),
        quarantine=of("ledger", "ingest/quarantine.parquet"),
        history=of("train", "train/history.jsonl"),
        summary=of("train", "train/summary.json"),
        curves=of("curves", "train/curves.svg"),
        preflight=of("preflight", "train/preflight.json"),
        answers=both_sides("generate"),
        scores=both_sides("score", "scores"),
        tokens=of("tokens", *(f"tokens/{split}.json" for split in SPLITS)),
        manifest=of("manifest", "manifest.json"),
        template=str(ROOT / "workflow/report/report.html.j2"),
        code=code("report.py", *PAGE_PARTS),
    output:
        page="results/{run}/report.html",
    log:
        "logs/{run}/report.log",
    params:
        settings=settings("report"),
        data_page=data_page,  # a variant that shares the data shares its report
    script:
        "../scripts/report.py"


rule card:
    """Write the model card."""
    input:
        metrics=of("metrics", "metrics.json"),
        summary=of("train", "train/summary.json"),
        tokens=of("tokens", *(f"tokens/{split}.json" for split in SPLITS)),
        template=str(ROOT / "workflow/report/model_card.md.j2"),
        code=code("card.py"),
    output:
        card="results/{run}/model/README.md",
    log:
        "logs/{run}/card.log",
    params:
        settings=settings("card"),
    script:
        "../scripts/card.py"


rule leaderboard:
    """List all runs and variants, those of this configuration and those that stand in results/ already."""
    input:
        metrics=leaderboard_entries,
        template=str(ROOT / "workflow/report/leaderboard.html.j2"),
        code=code("leaderboard.py", *PAGE_PARTS),
    output:
        table="results/leaderboard.csv",
        page="results/leaderboard.html",
    log:
        "logs/leaderboard.log",
    script:
        "../scripts/leaderboard.py"
