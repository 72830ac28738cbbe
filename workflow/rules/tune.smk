"""Tune: a search for the best configuration by the validation loss, one job a trial.

Reads   tokens/{train,validation}, the base model; tune/generation-<gg>.json says what a trial tries; the rows of the
        splits, where that changes the tokens
Writes  tune/generation-<gg>.json, results/<run>-trial-<ttt>/trial.json, tune/{best.json,best.yaml,trials.csv,report.html}
Why     a generation is proposed from the files of all earlier ones with a fixed seed, so that one core and a hundred try
        the same; a trial is a run that shares whatever it does not change. What it tries is known once its generation is
        there, and what the best run is once it is chosen: hence the two checkpoints
"""


localrules:
    propose,
    choose,
    tune_report,


checkpoint propose:
    """Propose the trials of a generation from the results of all earlier ones."""
    input:
        trials=earlier_trials,
        code=code("propose.py"),
    output:
        generation="results/{run}/tune/generation-{generation}.json",
    log:
        "logs/{run}/propose-{generation}.log",
    params:
        settings=settings_of_generation,
    script:
        "../scripts/propose.py"


rule trial:
    """Train one configuration; one that fails is written down, and stops no other."""
    input:
        # Tokens of its own it makes itself, of the rows: that may fail, as all else in a trial.
        train=tokens_of_trial("tokens/train.json"),
        validation=tokens_of_trial("tokens/validation.json"),
        states=ancient(tokens_of_trial("tokens/train/state.json", "tokens/validation/state.json")),
        rows=rows_of_trial,
        generation=generation_of_trial,
        base=base_files,
        code=code("trial.py"),
    output:
        trial="results/{run}/trial.json",
    log:
        "logs/{run}/trial.log",
    benchmark:
        "logs/{run}/benchmarks/trial.tsv"
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
        settings=settings_of_trial,
        base=base_folder,
        store="results/.store",
    script:
        "../scripts/trial.py"


checkpoint choose:
    """Choose the trial with the lowest validation loss, and write its configuration."""
    input:
        trials=all_trials,
        code=code("choose.py"),
    output:
        best="results/{run}/tune/best.json",
        config="results/{run}/tune/best.yaml",
        table="results/{run}/tune/trials.csv",
    log:
        "logs/{run}/choose.log",
    params:
        settings=settings("choose"),
    script:
        "../scripts/choose.py"


rule tune_report:
    """Draw the search: its history, what mattered, every trial."""
    input:
        trials=all_trials,
        generations=all_generations,
        best="results/{run}/tune/best.json",
        template=str(ROOT / "workflow/report/tune.html.j2"),
        code=code("tune_report.py", *SORTED_PARTS),
    output:
        page=report(
            "results/{run}/tune/report.html",
            category="Search",
            labels={"run": "{run}", "page": "Search"},
            caption="../report/captions/tune.rst",
        ),
    log:
        "logs/{run}/tune_report.log",
    params:
        settings=settings("tune_report"),
    script:
        "../scripts/tune_report.py"
