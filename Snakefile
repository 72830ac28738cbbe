from snakemake.utils import min_version

min_version("9.20")


# A configuration that names its own source stands alone; any other is laid over the shipped example.
if "source" not in config:

    configfile: workflow.source_path("config/config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/ingest.smk"
include: "workflow/rules/clean.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


wildcard_constraints:
    run="|".join(dag.names),
    shard=r"\d{5}",
    split="|".join(SPLITS),
    side="|".join(SIDES),


rule all:
    default_target: True
    input:
        everything(),
