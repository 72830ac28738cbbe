"""Split: families of rows to train, validation and test; the proof that nothing leaks; further rows to learn from.

Reads   dedup/clusters.parquet, clean/rows-<shard>.parquet, decontaminate/hits-<shard>.parquet
Writes  split/{train,validation,test,dropped}.parquet, split/leaks.{json,parquet}, augment/train.parquet,
        annotate/{tasks.json,labels.xml} where they are asked for by name
Why     a family is dealt as one. The leak check looks for what the deal should have prevented by other means than the
        deal itself. It comes first among the jobs that can start, and no metric is published before it has passed.
        (Training does not wait for it through `ancient`: Snakemake takes what is downstream of an ancient input for
        decided, and would miss a changed setting of the training)
"""


rule split:
    """Deal families of rows to train, validation and test."""
    input:
        clusters=of("dedup", "dedup/clusters.parquet"),
        rows=sharded("clean", "clean/rows-{shard}.parquet"),
        hits=optional("decontaminate", "decontaminate/hits-{shard}.parquet"),
        code=code("split.py"),
    output:
        **{split: f"results/{{run}}/split/{split}.parquet" for split in (*SPLITS, "dropped")},
    log:
        "logs/{run}/split.log",
    benchmark:
        "logs/{run}/benchmarks/split.tsv"
    params:
        settings=settings("split"),
    script:
        "../scripts/split.py"


rule augment:
    """Make further train rows; off by default."""
    input:
        **{split: of("split", f"split/{split}.parquet") for split in SPLITS},
        beside=beside_files("augment"),
        code=code("augment.py"),
    output:
        train="results/{run}/augment/train.parquet",
    log:
        "logs/{run}/augment.log",
    benchmark:
        "logs/{run}/benchmarks/augment.tsv"
    params:
        settings=settings("augment"),
    script:
        "../scripts/augment.py"


rule leaks:
    """Look for rows of validation and test in train, by equality, by family, and by likeness; fail where one is."""
    input:
        train=train_rows,
        validation=of("split", "split/validation.parquet"),
        test=of("split", "split/test.parquet"),
        code=code("leaks.py"),
    output:
        checks="results/{run}/split/leaks.json",
        nearest="results/{run}/split/leaks.parquet",
    log:
        "logs/{run}/leaks.log",
    benchmark:
        "logs/{run}/benchmarks/leaks.tsv"
    priority: 100
    params:
        settings=settings("leaks"),
    script:
        "../scripts/leaks.py"


rule annotate:
    """Write rows as tasks for Label Studio; `snakemake results/<run>/annotate/tasks.json`."""
    input:
        **{split: of("split", f"split/{split}.parquet") for split in SPLITS},
        code=code("annotate.py"),
    output:
        tasks="results/{run}/annotate/tasks.json",
        labels="results/{run}/annotate/labels.xml",
    log:
        "logs/{run}/annotate.log",
    params:
        settings=settings("annotate"),
    script:
        "../scripts/annotate.py"
