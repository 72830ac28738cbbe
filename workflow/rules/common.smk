"""What the rules share: names bound to the configuration. The logic, and its tests, are in snaketune/dag.py.

Rules read as data: `settings("clean")` is the one dict that a stage reads, `of("split", path)` is a file of an earlier
stage (a variant's own, or the main run's where the variant changes nothing), `code("clean.py")` is a script with every
module that it imports, so that an edit reruns exactly the stages that use it and a mere touch reruns none.
"""

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

ROOT = Path(os.path.relpath(workflow.basedir))
sys.path.insert(0, str(Path(workflow.basedir) / "workflow/scripts"))

from snaketune import config as configuration, terminal, versions
from snaketune.config import best_name, fold_name, seed_name, trial_name
from snaketune.dag import SIDES, SPLITS, Dag, code_of, files_of, happens, settings_of
from snaketune.runs import generations
from snaketune.store import prune

terminal.quieten(logger, local=lambda: workflow.local_exec)

try:
    dag = Dag(configuration.load(config), ROOT)
    for name in dag.names:
        dag.base(name)
        for stage in ("clean", "decontaminate", "augment", "probe"):
            files_of(dag.settings[name], stage, ROOT)
    targets = dag.outputs()
except configuration.ConfigError as error:
    raise WorkflowError(f"the configuration cannot be run:\n{error}") from None

terminal.look_ahead(logger, dag, cores=lambda: workflow.cores)

LOCK = str(ROOT / "requirements.lock")
if workflow.is_main_process and (differing := versions.warning(Path(LOCK), dag.names)):
    logger.warning(differing)
PAGE_PARTS = ("workflow/report/macros.html.j2", "workflow/report/style.css")
SORTED_PARTS = (*PAGE_PARTS, "workflow/report/sort.js")
REPORT_PARTS = (
    *SORTED_PARTS,
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("workflow/report/parts/*")),
)
JUDGE_PARTS = ("workflow/report/judge.js", "workflow/report/style.css")
CODE_FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "Snakefile", *ROOT.glob("workflow/**/*.*")]
    if "__pycache__" not in path.parts
)
METRIC_FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("workflow/metrics/*/*.py"))


def settings(stage):
    """The params of a rule: what the stage reads of the configuration; `stage` may name wildcards."""
    return lambda wildcards: settings_of(dag.settings[wildcards.run], stage.format(**wildcards))


def of(stage, *paths):
    """Files of an earlier stage; `stage` and `paths` may name wildcards."""

    def files(wildcards):
        owner = dag.owner(wildcards.run, stage.format(**wildcards))
        found = [f"results/{owner}/{path}".format(**wildcards) for path in paths]
        return found if len(found) > 1 else found[0]

    return files


def sharded(stage, *paths):
    """Files of an earlier stage for every shard of the run."""

    def files(wildcards):
        owner = dag.owner(wildcards.run, stage)
        return [f"results/{owner}/{path}".format(shard=shard) for path in paths for shard in dag.raw(wildcards.run)]

    return files


def code(script, *others):
    """A script and the modules that it uses, and the lock: whatever decides what the stage does."""
    return [*map(str, code_of(ROOT / "workflow/scripts" / script)), *(str(ROOT / other) for other in others), LOCK]


def optional(stage, *paths):
    """Files of an earlier stage for every shard of the run, or none where the run leaves that stage out."""
    files = sharded(stage, *paths)
    return lambda wildcards: files(wildcards) if happens(dag.settings[wildcards.run], stage) else []


def beside(stage):
    """The files beside the rows that the settings of a stage name, by their use."""
    return lambda wildcards: files_of(dag.settings[wildcards.run], stage, ROOT)


def beside_files(stage):
    """The same as a list; of a folder, the files in it."""

    def files(wildcards):
        named = [Path(path) for paths in beside(stage)(wildcards).values() for path in paths]
        inside = [[path] if path.is_file() else sorted(filter(Path.is_file, path.iterdir())) for path in named]
        return [str(file) for files in inside for file in files]

    return files


def train_rows(wildcards):
    """The table that a run learns from."""
    return dag.train_rows(wildcards.run)


def rows_of_split(wildcards):
    """The table of a split, as it is tokenized."""
    return train_rows(wildcards) if wildcards.split == "train" else of("split", "split/{split}.parquet")(wildcards)


def parts(path):
    """A file for each Arrow file of a split."""
    return lambda wildcards: [path.format(**wildcards, part=part) for part in dag.parts(wildcards.run)]


def runs_of(stage, dealt):
    """The runs of whose test rows several jobs have a part each in a stage of evaluation, or the others: a pattern."""
    names = sorted({*dag.names, *dag.settings.parents})
    chosen = [re.escape(name) for name in names if bool(dag.part_files(name, f"{stage}_base")) == dealt]
    return "|".join(chosen) or "(?!)"  # which matches nothing


def parts_of_side(stage):
    """The tables of all parts of one side."""
    return lambda wildcards: dag.part_files(wildcards.run, f"{stage}_{wildcards.side}")


def settings_of_part(stage):
    """What a stage reads, and which part of the test rows it has."""

    def found(wildcards):
        parts = parts_of_side(stage.partition("_")[0])(wildcards)
        return settings(stage)(wildcards) | {"part": {"number": int(wildcards.part), "of": len(parts)}}

    return found


def base_folder(wildcards):
    """The folder of the base model."""
    return dag.base(wildcards.run)[0]


def base_files(wildcards):
    """The files that stand for the content of the base model."""
    return dag.base(wildcards.run)[1]


def model_folder(wildcards):
    """The folder of the model of one side, base or tuned; without a side, the tuned one."""
    if getattr(wildcards, "side", "tuned") == "base":
        return base_folder(wildcards)
    return f"results/{dag.owner(wildcards.run, 'train')}/model"


def model_files(wildcards):
    """The files that stand for the model of one side; without a side, of the tuned one."""
    if getattr(wildcards, "side", "tuned") == "base":
        return base_files(wildcards)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return [f"{model_folder(wildcards)}/{name}" for name in names]


def devices(wildcards):
    """How many processes train on each node, and so how many GPUs one needs."""
    return dag.settings[wildcards.run]["train"]["devices"]


def nodes(wildcards):
    """How many machines train together."""
    return dag.settings[wildcards.run]["train"]["nodes"]


def all_devices(wildcards):
    """How many processes train, on all nodes."""
    return devices(wildcards) * nodes(wildcards)


def over_nodes(value):
    """A resource that a training asks for only where it runs over several nodes; `value` may be a function."""
    return lambda wildcards: (value(wildcards) if callable(value) else value) if nodes(wildcards) > 1 else None


def raw_files(wildcards):
    """The raw files of a shard, each with its path, its name in the tables, and its format."""
    return dag.raw(wildcards.run)[wildcards.shard]


def raw_paths(wildcards):
    """The paths of the raw files of a shard."""
    return [file["path"] for file in raw_files(wildcards)]


def hub_source(wildcards):
    """The source of the Hub that a fetched file belongs to."""
    path = f"resources/hub/datasets--{wildcards.slug}/{wildcards.revision}.parquet"
    owners = (name for name in dag.names if dag.raw(name)["00000"][0]["path"] == path)
    return settings_of(dag.settings[next(owners)], "ingest")


def hub_model(wildcards):
    """The model of the Hub that a fetched folder is of: a run's, or one that a search tries."""
    trusted = any(dag.settings[name]["model"]["trust_remote_code"] for name in dag.names)
    name = wildcards.model.replace("--", "/", 1)
    return {"base": name, "revision": wildcards.revision, "trust_remote_code": trusted}


def raw_inputs(wildcards):
    """All raw files of a run, and the files of its base model."""
    return [file["path"] for files in dag.raw(wildcards.run).values() for file in files] + base_files(wildcards)


def examples(wildcards):
    """The rows that few-shot prompts of the base model are made of."""
    wanted = wildcards.side == "base" and dag.settings[wildcards.run]["generate"]["few_shot"]
    return [of("split", "split/train.parquet")(wildcards)] if wanted else []


def own_metrics(wildcards):
    """The files of metrics that are not the workflow's, with what stands beside them; those of the Hub have none."""
    places = [Path(path) for path in dag.settings[wildcards.run]["score"]["own"]]
    folders = {path if path.is_dir() else path.parent for path in places if path.exists()}
    return sorted(str(path) for folder in folders for path in folder.glob("*.py"))


def judgements(wildcards):
    """What the judges exported."""
    folder = Path(dag.settings[wildcards.run]["judge"]["folder"], wildcards.run)
    return sorted(str(path) for path in folder.glob("*") if path.suffix.lower() in (".json", ".csv"))


def probe_file(use):
    """The file of a probe, as a list that may be empty."""
    return lambda wildcards: files_of(dag.settings[wildcards.run], "probe", ROOT)[use]


def page_of(stage, path):
    """The way from the report of a run to another page; a variant may share it."""
    return lambda wildcards: os.path.relpath(of(stage, path)(wildcards), f"results/{wildcards.run}")


def both_sides(stage, folder=None):
    """The tables of base and tuned, or none where the run leaves that stage out."""
    places = {side: of(f"{stage}_{side}", f"{folder or stage}/{side}.parquet") for side in SIDES}
    return lambda wildcards: [
        places[side](wildcards) for side in SIDES if happens(dag.settings[wildcards.run], f"{stage}_{side}")
    ]


def earlier_trials(wildcards):
    """The results of all generations before one."""
    return trials_until(wildcards.run, int(wildcards.generation))


def all_trials(wildcards):
    """The results of all trials of a search."""
    return trials_until(wildcards.run, len(generations(dag.settings[wildcards.run])))


def trials_until(run, end):
    """The results of the first generations, once they are proposed."""
    found = []
    for number, trials in enumerate(generations(dag.settings[run])[:end]):
        checkpoints.propose.get(run=run, generation=f"{number:02d}")
        found += [f"results/{trial_name(run, trial)}/trial.json" for trial in trials]
    return found


def all_generations(wildcards):
    """What was proposed in a search."""
    count = len(generations(dag.settings[wildcards.run]))
    return [f"results/{wildcards.run}/tune/generation-{number:02d}.json" for number in range(count)]


def settings_of_generation(wildcards):
    """What a proposal reads: the search, and how many trials there are once it is made."""
    run, number = dag.settings[wildcards.run], int(wildcards.generation)
    made = sum(map(len, generations(run)[: number + 1]))
    return settings_of(run, "propose") | {"trials": made, "number": number}


def tokens_of_trial(*paths):
    """Files of the tokens that a trial shares; none where it tokenizes otherwise, which it does itself."""
    return lambda wildcards: [] if dag.owns(wildcards.run, "tokens") else of("tokens", *paths)(wildcards)


def rows_of_trial(wildcards):
    """The tables that a trial tokenizes itself."""
    own = dag.owns(wildcards.run, "tokens")
    return [train_rows(wildcards), of("split", "split/validation.parquet")(wildcards)] if own else []


def generation_of_trial(wildcards):
    """The file that says what a trial tries."""
    number = dag.settings.generation(wildcards.run)
    return f"results/{dag.settings.parents[wildcards.run]}/tune/generation-{number:02d}.json"


def settings_of_trial(wildcards):
    """What a trial reads: its number, and the settings of the stages that it goes through."""
    own = {"number": dag.settings.number(wildcards.run), "generation": dag.settings.generation(wildcards.run)}
    return settings_of(dag.settings[wildcards.run], "trial") | own


def searched(wildcards):
    """What a search ends in: its page, and the best configuration, trained in full and scored once."""
    found = []
    for name in dag.names:
        if dag.settings[name]["tune"]:
            found += [f"results/{name}/tune/{file}" for file in ("report.html", "best.json", "best.yaml", "trials.csv")]
            found += trials_until(name, len(generations(dag.settings[name])))
    return found + dag.outputs(best_runs())


def children(kind):
    """The metrics of the runs of each seed, or of each fold."""
    name_of = {"seeds": seed_name, "folds": fold_name}[kind]

    def files(wildcards):
        given = dag.settings[wildcards.run][kind]
        names = [name_of(wildcards.run, each) for each in (given if kind == "seeds" else range(given))]
        return [f"results/{dag.owner(name, 'metrics')}/metrics.json" for name in names]

    return files


def spread_file(wildcards):
    """The spread over seeds and folds, as a list that is empty where a run has none."""
    return [of("spread", "spread.json")(wildcards)] if happens(dag.settings[wildcards.run], "spread") else []


def prune_store():
    """Keep the stored trainings within their limit; what was used longest ago goes first."""
    if done := prune(Path("results/.store"), dag.settings[dag.names[0]]["store"]["limit_gb"]):
        print(done)


def leaderboard_runs(wildcards):
    """The files of the runs of this configuration, and of every other run that stands in results/, by their use."""
    names = [name for name in (*dag.names, *best_runs()) if dag.owns(name, "metrics")]
    others = {path.parent.name for path in Path("results").glob("*/metrics.json")} - set(names)
    own = [{use: f"results/{dag.owner(name, stage)}/{path}" for use, (stage, path) in RANKED.items()} for name in names]
    old = [{use: f"results/{name}/{path}" for use, (_, path) in RANKED.items()} for name in sorted(others)]
    return own + [{use: path for use, path in files.items() if Path(path).exists()} for files in old]


RANKED = {
    "metrics": ("metrics", "metrics.json"),
    "scores": ("score_tuned", "scores/tuned.parquet"),
    "manifest": ("manifest", "manifest.json"),
    "summary": ("train", "train/summary.json"),
    "speed": ("train", "train/speed.jsonl"),
    "report": ("report", "report.html"),
}


def searches(name):
    """Whether a run is a search whose best configuration is trained in full."""
    return bool(dag.settings[name]["tune"] and dag.settings[name]["tune"]["final"])


def best_runs():
    """The runs of the best configurations; their searches must have ended."""
    found = []
    for name in filter(searches, dag.names):
        checkpoints.choose.get(run=name)
        found.append(best_name(name))
    return found


def leaderboard_entries(wildcards):
    """All files that the leaderboard reads."""
    return [path for files in leaderboard_runs(wildcards) for use, path in files.items() if use != "report"]
