"""Train: the base model and the tokens to the tuned model.

Reads   tokens/{train,validation}, the base model
Writes  model/ (without its card), train/history.jsonl, train/summary.json, train/curves.svg
Why     only final files are declared. Work in progress stands in results/.store/<fingerprint>/, which Snakemake does
        not touch: it survives failures, and an equal fingerprint hands the stored model back instead of training again
"""


localrules:
    fetch_base,


rule fetch_base:
    """Fetch a model of the Hub at its pinned revision, once; every run shares it, offline from then on."""
    input:
        code=ancient(code("fetch_base.py")),  # the revision is pinned: newer code fetches the same
    output:
        manifest="resources/hub/{model}/{revision}/manifest.json",
    log:
        "logs/hub/{model}-{revision}.log",
    params:
        settings=hub_model,
    script:
        "../scripts/fetch_base.py"


rule init_base:
    """Make a new, untrained base model with a tokenizer of its own, from the train split."""
    input:
        rows=of("split", "split/train.parquet"),
        code=code("init_base.py"),
    output:
        config="results/{run}/base/config.json",
        weights="results/{run}/base/model.safetensors",
        tokenizer="results/{run}/base/tokenizer.json",
        tokenizer_config="results/{run}/base/tokenizer_config.json",
    log:
        "logs/{run}/init_base.log",
    benchmark:
        "logs/{run}/benchmarks/init_base.tsv"
    params:
        settings=settings("base"),
    script:
        "../scripts/init_base.py"


rule train:
    """Tune the model; keep the checkpoint with the best validation loss."""
    input:
        train=of("tokens", "tokens/train.json"),
        validation=of("tokens", "tokens/validation.json"),
        states=ancient(of("tokens", "tokens/train/state.json", "tokens/validation/state.json")),
        base=base_files,
        code=code("train.py"),
    output:
        config="results/{run}/model/config.json",
        weights="results/{run}/model/model.safetensors",
        tokenizer="results/{run}/model/tokenizer.json",
        tokenizer_config="results/{run}/model/tokenizer_config.json",
        history="results/{run}/train/history.jsonl",
        summary="results/{run}/train/summary.json",
    log:
        "logs/{run}/train.log",
    benchmark:
        "logs/{run}/benchmarks/train.tsv"
    threads: 8
    resources:
        gpu=1,
        mem_mb=16000,
    params:
        settings=settings("train"),
        base=base_folder,
        store="results/.store",
    script:
        "../scripts/train.py"
