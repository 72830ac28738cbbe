"""Evaluate: base and tuned model on the test split, under the same settings, and the comparison of the two.

Reads   tokens/test, split/test.parquet, the base model, the tuned model, resources/probes/
Writes  likelihood/<side>.parquet, generate/<side>.parquet, probes/<side>.parquet, scores/<side>.parquet, metrics.json,
        errors.json, checks.json
Why     what needs the model is apart from what counts words: a changed metric costs seconds, and the base model is
        scored once for all variants that share it. Where `likelihood.shards` or `generate.shards` is more than 1, as
        many jobs have a part of the test rows each, and the same table is joined of theirs
"""


localrules:
    gate,
    likelihood_joined,
    generate_joined,


rule likelihood:
    """Sum the loss of every test row, token by token."""
    input:
        tokens=of("tokens", "tokens/test.json"),
        state=ancient(of("tokens", "tokens/test/state.json")),
        texts=of("split", "split/test.parquet"),
        model=model_files,
        code=code("likelihood.py"),
    output:
        table="results/{run}/likelihood/{side}.parquet",
    log:
        "logs/{run}/likelihood-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/likelihood-{side}.tsv"
    wildcard_constraints:
        run=runs_of("likelihood", dealt=False),
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=settings("likelihood"),
        model=model_folder,
    script:
        "../scripts/likelihood.py"


use rule likelihood as likelihood_part with:
    output:
        table="results/{run}/likelihood/parts/{side}-{part}.parquet",
    log:
        "logs/{run}/likelihood_part-{side}-{part}.log",
    benchmark:
        "logs/{run}/benchmarks/likelihood_part-{side}-{part}.tsv"
    wildcard_constraints:
        run=runs_of("likelihood", dealt=True),
    params:
        settings=settings_of_part("likelihood"),
        model=model_folder,


rule likelihood_joined:
    """Make one table of the parts of one side."""
    input:
        parts=parts_of_side("likelihood"),
        code=code("join.py"),
    output:
        table="results/{run}/likelihood/{side}.parquet",
    log:
        "logs/{run}/likelihood_joined-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/likelihood_joined-{side}.tsv"
    wildcard_constraints:
        run=runs_of("likelihood", dealt=True),
    script:
        "../scripts/join.py"


rule generate:
    """Answer the prompts of the test split."""
    input:
        tokens=of("tokens", "tokens/test.json"),
        state=ancient(of("tokens", "tokens/test/state.json")),
        texts=of("split", "split/test.parquet"),
        train=examples,
        model=model_files,
        code=code("generate.py"),
    output:
        table="results/{run}/generate/{side}.parquet",
    log:
        "logs/{run}/generate-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/generate-{side}.tsv"
    wildcard_constraints:
        run=runs_of("generate", dealt=False),
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=settings("generate_{side}"),
        model=model_folder,
    script:
        "../scripts/generate.py"


use rule generate as generate_part with:
    output:
        table="results/{run}/generate/parts/{side}-{part}.parquet",
    log:
        "logs/{run}/generate_part-{side}-{part}.log",
    benchmark:
        "logs/{run}/benchmarks/generate_part-{side}-{part}.tsv"
    wildcard_constraints:
        run=runs_of("generate", dealt=True),
    params:
        settings=settings_of_part("generate_{side}"),
        model=model_folder,


rule generate_joined:
    """Make one table of the parts of one side."""
    input:
        parts=parts_of_side("generate"),
        code=code("join.py"),
    output:
        table="results/{run}/generate/{side}.parquet",
    log:
        "logs/{run}/generate_joined-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/generate_joined-{side}.tsv"
    wildcard_constraints:
        run=runs_of("generate", dealt=True),
    script:
        "../scripts/join.py"


rule probe:
    """Read texts beside the test split: pairs that differ in who is named, and general language."""
    input:
        bias=probe_file("bias"),
        general=probe_file("general"),
        model=model_files,
        code=code("probe.py"),
    output:
        table="results/{run}/probes/{side}.parquet",
    log:
        "logs/{run}/probe-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/probe-{side}.tsv"
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=settings("probe"),
        model=model_folder,
    script:
        "../scripts/probe.py"


rule score:
    """Measure every answer against its reference: statistics by row, from which any total follows."""
    input:
        likelihood=of("likelihood_{side}", "likelihood/{side}.parquet"),
        generated=of("generate_{side}", "generate/{side}.parquet"),
        test=of("split", "split/test.parquet"),
        train=train_rows,
        own=own_metrics,
        code=code("score.py", *METRIC_FILES),
    output:
        scores="results/{run}/scores/{side}.parquet",
    log:
        "logs/{run}/score-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/score-{side}.tsv"
    resources:
        mem_mb=4000,  # 0.3 GB and 12 kB a row
    params:
        settings=settings("score"),
    script:
        "../scripts/score.py"


rule metrics:
    """Compare base and tuned: every published number, with paired bootstrap intervals."""
    input:
        base=of("score_base", "scores/base.parquet"),
        tuned=of("score_tuned", "scores/tuned.parquet"),
        probes=both_sides("probe", "probes"),
        leaks=of("leaks", "split/leaks.json"),  # no number before the check has passed
        code=code("compare.py", *METRIC_FILES),
    output:
        metrics=report(
            "results/{run}/metrics.json",
            category="Results",
            labels={"run": "{run}", "page": "Metrics (JSON)"},
            caption="../report/captions/metrics.rst",
        ),
    log:
        "logs/{run}/metrics.log",
    benchmark:
        "logs/{run}/benchmarks/metrics.tsv"
    params:
        settings=settings("metrics"),
    script:
        "../scripts/compare.py"


rule errors:
    """Look where tuning won and lost: rows, parts of the data, kinds of failure."""
    input:
        scores=both_sides("score", "scores"),
        answers=both_sides("generate"),
        likelihoods=both_sides("likelihood"),
        test=of("split", "split/test.parquet"),
        train=train_rows,
        model=base_files,
        code=code("errors.py", *METRIC_FILES),
    output:
        errors=report(
            "results/{run}/errors.json",
            category="Results",
            labels={"run": "{run}", "page": "Errors (JSON)"},
            caption="../report/captions/errors.rst",
        ),
    log:
        "logs/{run}/errors.log",
    benchmark:
        "logs/{run}/benchmarks/errors.tsv"
    params:
        settings=settings("errors"),
        model=base_folder,
    script:
        "../scripts/errors.py"


rule gate:
    """Hold the metrics against the bounds of `checks`; after the report, which shows what fails."""
    input:
        metrics=of("metrics", "metrics.json"),
        report=of("report", "report.html"),
        code=code("gate.py"),
    output:
        checks="results/{run}/checks.json",
    log:
        "logs/{run}/gate.log",
    params:
        settings=settings("gate"),
    script:
        "../scripts/gate.py"
