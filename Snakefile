import os

from snakemake.utils import min_version

min_version("9.20")


# A configuration that names its own source stands alone; any other is laid over the shipped example.
if "source" not in config:

    configfile: workflow.source_path("config/config.yaml")


# For `--sdm apptainer`: the image that `apptainer build snaketune.sif snaketune.def` makes, which every node of a cluster
# can read; else the one of `docker build -t snaketune:0.1.0 .`, on this machine alone
container: "snaketune.sif" if os.path.exists("snaketune.sif") else "docker-daemon://snaketune:0.1.0"


include: "workflow/rules/common.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/clean.smk"
include: "workflow/rules/dedup.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tune.smk"


wildcard_constraints:
    run="|".join({*dag.names, *dag.settings.parents}),
    generation=r"\d\d+",
    shard=r"\d{5}",
    part=r"\d{5}",
    split="|".join(SPLITS),
    side="|".join(SIDES),


rule all:
    default_target: True
    input:
        targets,  # every stage's files: what a failed rerun left out is missing, and so it is made
        searched,


onsuccess:
    prune_store()
    print(terminal.closing([*dag.names, *map(best_name, filter(searches, dag.names))]))


onerror:
    prune_store()
