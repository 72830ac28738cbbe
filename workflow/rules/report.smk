"""Report: everything that a person looks at, and what another person needs to check it.

Reads   the metrics, the errors, the judgement, the ledger, the history of the training, the configuration
Writes  data.html, train/curves.svg, manifest.json, report.html, model/README.md; results/leaderboard.{csv,html} over all
        runs; published.json where it is asked for. `snakemake --report` gathers the pages
Why     a page that opens anywhere, without a network, beside the numbers that it shows
"""


localrules:
    curves,
    report,
    card,
    leaderboard,
    publish,
    spread,


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
        page=report(
            "results/{run}/data.html",
            category="Data",
            labels={"run": "{run}", "page": "Data report"},
            caption="../report/captions/data.rst",
        ),
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
        curves=report(
            "results/{run}/train/curves.svg",
            category="Training",
            labels={"run": "{run}", "page": "Loss curves"},
            caption="../report/captions/curves.rst",
        ),
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
        errors=of("errors", "errors.json"),
        judgement=of("judgement", "judgement.json"),
        spread=spread_file,
        tokens=of("tokens", *(f"tokens/{split}.json" for split in SPLITS)),
        manifest=of("manifest", "manifest.json"),
        template=str(ROOT / "workflow/report/report.html.j2"),
        code=code("report.py", *REPORT_PARTS),
    output:
        page=report(
            "results/{run}/report.html",
            category="Results",
            labels={"run": "{run}", "page": "Report"},
            caption="../report/captions/report.rst",
        ),
    log:
        "logs/{run}/report.log",
    params:
        settings=settings("report"),
        data_page=page_of("data", "data.html"),  # a variant that shares the data shares its report
        judge_page=page_of("judge", "judge/page.html"),
    script:
        "../scripts/report.py"


rule spread:
    """Gather what several seeds and folds say."""
    input:
        seeds=children("seeds"),
        folds=children("folds"),
        code=code("spread.py"),
    output:
        spread="results/{run}/spread.json",
    log:
        "logs/{run}/spread.log",
    params:
        settings=settings("spread"),
    script:
        "../scripts/spread.py"


rule card:
    """Write the model card."""
    input:
        metrics=of("metrics", "metrics.json"),
        summary=of("train", "train/summary.json"),
        tokens=of("tokens", *(f"tokens/{split}.json" for split in SPLITS)),
        template=str(ROOT / "workflow/report/model_card.md.j2"),
        code=code("card.py"),
    output:
        card=report(
            "results/{run}/model/README.md",
            category="Results",
            labels={"run": "{run}", "page": "Model card"},
            caption="../report/captions/card.rst",
        ),
    log:
        "logs/{run}/card.log",
    params:
        settings=settings("card"),
    script:
        "../scripts/card.py"


rule publish:
    """Put the model on the Hugging Face Hub; only where `snakemake results/<run>/published.json` asks for it."""
    input:
        model=model_files,
        card=of("card", "model/README.md"),
        checks=of("gate", "checks.json"),
        code=code("publish.py"),
    output:
        published="results/{run}/published.json",
    log:
        "logs/{run}/publish.log",
    params:
        settings=settings("publish"),
        model=model_folder,
    script:
        "../scripts/publish.py"


rule leaderboard:
    """List all runs and variants, those of this configuration and those that stand in results/ already."""
    input:
        files=leaderboard_entries,
        template=str(ROOT / "workflow/report/leaderboard.html.j2"),
        code=code("leaderboard.py", *SORTED_PARTS, *METRIC_FILES),
    output:
        table=report(
            "results/leaderboard.csv",
            category="Results",
            labels={"page": "Leaderboard (CSV)"},
            caption="../report/captions/leaderboard.rst",
        ),
        page=report(
            "results/leaderboard.html",
            category="Results",
            labels={"page": "Leaderboard"},
            caption="../report/captions/leaderboard.rst",
        ),
    log:
        "logs/leaderboard.log",
    params:
        runs=leaderboard_runs,
        settings=settings_of(dag.settings[dag.names[0]], "leaderboard"),
    script:
        "../scripts/leaderboard.py"
