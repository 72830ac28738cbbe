"""Train: the base model and the tokens to the tuned model.

Reads   tokens/{train,validation}, the base model
Writes  train/plan.{arrow,json}, train/preflight.json, model/ (without its card), train/{history,speed,samples}.jsonl,
        train/summary.json
Why     the plan fixes which rows meet in which step, whatever the hardware; the preflight finds faults in seconds, and
        how this device computes the plan best. Of the training only final files are declared: work in progress stands
        in results/.store/<fingerprint>/, which Snakemake does not touch. It survives failures, and an equal fingerprint
        hands the stored model back instead of training again
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


rule plan:
    """Deal the rows to blocks and the blocks to steps, for the whole training."""
    input:
        train=of("tokens", "tokens/train.json"),
        validation=of("tokens", "tokens/validation.json"),
        states=ancient(of("tokens", "tokens/train/state.json", "tokens/validation/state.json")),
        code=code("plan.py"),
    output:
        plan="results/{run}/train/plan.arrow",
        about="results/{run}/train/plan.json",
    log:
        "logs/{run}/plan.log",
    benchmark:
        "logs/{run}/benchmarks/plan.tsv"
    params:
        settings=settings("plan"),
    script:
        "../scripts/plan.py"


rule preflight:
    """Try model, data and device for some seconds before hours are spent; choose attention, precision and passes."""
    input:
        train=of("tokens", "tokens/train.json"),
        validation=of("tokens", "tokens/validation.json"),
        states=ancient(of("tokens", "tokens/train/state.json", "tokens/validation/state.json")),
        plan=of("plan", "train/plan.arrow"),
        about=of("plan", "train/plan.json"),
        base=base_files,
        code=code("preflight.py"),
    output:
        preflight="results/{run}/train/preflight.json",
    log:
        "logs/{run}/preflight.log",
    benchmark:
        "logs/{run}/benchmarks/preflight.tsv"
    threads: 8
    resources:
        gpu=devices,
        mem_mb=16000,
    params:
        settings=settings("preflight"),
        base=base_folder,
    script:
        "../scripts/preflight.py"


rule train:
    """Tune the model; keep the checkpoint with the best validation loss."""
    input:
        train=of("tokens", "tokens/train.json"),
        validation=of("tokens", "tokens/validation.json"),
        states=ancient(of("tokens", "tokens/train/state.json", "tokens/validation/state.json")),
        plan=of("plan", "train/plan.arrow"),
        about=of("plan", "train/plan.json"),
        preflight=of("preflight", "train/preflight.json"),
        base=base_files,
        code=code("train.py"),
    output:
        config="results/{run}/model/config.json",
        weights="results/{run}/model/model.safetensors",
        tokenizer="results/{run}/model/tokenizer.json",
        tokenizer_config="results/{run}/model/tokenizer_config.json",
        history="results/{run}/train/history.jsonl",
        speed="results/{run}/train/speed.jsonl",
        samples="results/{run}/train/samples.jsonl",
        summary="results/{run}/train/summary.json",
    log:
        "logs/{run}/train.log",
    benchmark:
        "logs/{run}/benchmarks/train.tsv"
    threads: 8
    resources:
        gpu=all_devices,
        nodes=nodes,
        # For Slurm: the job itself is no step, and starts one step of a task per node.
        mpi=over_nodes("srun"),
        tasks=over_nodes(nodes),
        tasks_per_gpu=over_nodes(0),
        mem_mb=16000,
    params:
        settings=settings("train"),
        base=base_folder,
        store="results/.store",
    script:
        "../scripts/train.py"
