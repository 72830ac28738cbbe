"""Evaluate: base and tuned model on the test split, under the same settings, and the comparison of the two.

Reads   tokens/test, split/test.parquet, the base model, the tuned model
Writes  likelihood/<side>.parquet, generate/<side>.parquet, scores/<side>.parquet, metrics.json
Why     what needs the model is apart from what counts words: a changed metric costs seconds, and the base model is
        scored once for all variants that share it
"""


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
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=settings("likelihood"),
        model=model_folder,
    script:
        "../scripts/likelihood.py"


rule generate:
    """Answer the prompts of the test split."""
    input:
        tokens=of("tokens", "tokens/test.json"),
        state=ancient(of("tokens", "tokens/test/state.json")),
        texts=of("split", "split/test.parquet"),
        model=model_files,
        code=code("generate.py"),
    output:
        table="results/{run}/generate/{side}.parquet",
    log:
        "logs/{run}/generate-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/generate-{side}.tsv"
    threads: 8
    resources:
        gpu=1,
        mem_mb=8000,
    params:
        settings=settings("generate"),
        model=model_folder,
    script:
        "../scripts/generate.py"


rule score:
    """Measure every answer against its reference: statistics by row, from which any total follows."""
    input:
        likelihood=of("likelihood_{side}", "likelihood/{side}.parquet"),
        generated=of("generate_{side}", "generate/{side}.parquet"),
        test=of("split", "split/test.parquet"),
        code=code("score.py", *METRIC_FILES),
    output:
        scores="results/{run}/scores/{side}.parquet",
    log:
        "logs/{run}/score-{side}.log",
    benchmark:
        "logs/{run}/benchmarks/score-{side}.tsv"
    params:
        settings=settings("score"),
    script:
        "../scripts/score.py"


rule metrics:
    """Compare base and tuned: every published number, with paired bootstrap intervals."""
    input:
        base=of("score_base", "scores/base.parquet"),
        tuned=of("score_tuned", "scores/tuned.parquet"),
        leaks=of("leaks", "split/leaks.json"),  # no number before the check has passed
        code=code("compare.py", *METRIC_FILES),
    output:
        metrics="results/{run}/metrics.json",
    log:
        "logs/{run}/metrics.log",
    benchmark:
        "logs/{run}/benchmarks/metrics.tsv"
    params:
        settings=settings("metrics"),
    script:
        "../scripts/compare.py"
