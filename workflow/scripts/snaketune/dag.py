"""What the rules ask about the run: which settings a stage reads, whose files a variant shares, which code counts.

Plain Python without Snakemake, so that it can be tested by itself. It is imported by the Snakefile in every call and
must stay light.
"""

from __future__ import annotations

import ast
import glob
import itertools
from functools import lru_cache
from pathlib import Path
from typing import Any

from snaketune.config import ConfigError
from snaketune.runs import Runs
from snaketune.shards import RawFile, shards

Settings = dict[str, Any]

SPLITS = ("train", "validation", "test")
SIDES = ("base", "tuned")
# What the plan of the batches reads of the section `train`, and what the preflight reads of it. The rest (learning
# rate, schedule, stopping, ...) reruns neither.
PLANNED = ("batching", "batch_size", "epochs", "max_steps", "loss_on")
CHECKED = (
    *("method", "freeze", "features", "lora", "optimizer", "optimizer_args", "weight_decay", "batching", "batch_size"),
    *("gradient_accumulation", "loss_on", "precision", "attention", "attention_dropout", "compile"),
    *("gradient_checkpointing", "deterministic", "devices", "nodes", "parallel", "average"),
)
DATA_SECTIONS = ("clean", "dedup", "decontaminate", "split", "leaks", "augment", "annotate", "tokenize")

# Which stages a stage reads; `reads` has what depends on the settings.
READS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "clean": ("ingest",),
    "sign": ("clean",),
    "dedup": ("sign",),
    "decontaminate": ("clean",),
    "split": ("dedup", "decontaminate"),
    "augment": ("split",),
    "leaks": ("augment",),
    "base": (),
    "tokens": ("augment", "base"),
    "ledger": ("tokens",),
    "data": ("ledger", "leaks"),
    "plan": ("tokens",),
    "preflight": ("plan", "tokens", "base"),
    "train": ("plan", "preflight", "tokens", "base"),
    "curves": ("train",),
    "likelihood_base": ("tokens", "base"),
    "likelihood_tuned": ("tokens", "train"),
    "generate_base": ("tokens", "base"),
    "generate_tuned": ("tokens", "train"),
    "score_base": ("likelihood_base", "generate_base"),
    "score_tuned": ("likelihood_tuned", "generate_tuned"),
    "probe_base": ("base",),
    "probe_tuned": ("train",),
    "metrics": ("score_base", "score_tuned", "probe_base", "probe_tuned", "leaks"),
    "errors": ("score_base", "score_tuned"),
    "judge": ("generate_base", "generate_tuned"),
    "judgement": ("judge",),
    "manifest": ("train",),
    "report": ("metrics", "errors", "judgement", "spread", "ledger", "curves", "preflight", "manifest"),
    "gate": ("report",),
    "card": ("metrics",),
    "spread": ("metrics",),
    "trial": ("tokens", "base"),
}

# What each stage leaves in results/<run>/; all of it is asked for, so that a missing middle file is always made.
STAGE_FILES: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest/rows-{shard}.parquet", "ingest/quarantine-{shard}.parquet"),
    "clean": (
        *(f"clean/{name}-{{shard}}.parquet" for name in ("rows", "dropped", "findings")),
        "clean/effects-{shard}.json",
    ),
    "sign": ("dedup/signatures-{shard}.parquet",),
    "dedup": tuple(f"dedup/{name}.parquet" for name in ("clusters", "evidence", "dropped")),
    "decontaminate": ("decontaminate/hits-{shard}.parquet",),
    "split": tuple(f"split/{name}.parquet" for name in (*SPLITS, "dropped")),
    "augment": ("augment/train.parquet",),
    "leaks": ("split/leaks.json", "split/leaks.parquet"),
    "base": ("base/config.json", "base/model.safetensors"),
    "tokens": tuple(
        f"tokens/{split}{end}"
        for split in SPLITS
        for end in ("/data-{part}.arrow", "/state.json", "/dataset_info.json", ".json", ".notes.parquet")
    ),
    "ledger": ("ledger.parquet", "ingest/quarantine.parquet"),
    "data": ("data.html",),
    "plan": ("train/plan.arrow", "train/plan.json"),
    "preflight": ("train/preflight.json",),
    "train": (
        *(f"model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")),
        *(f"train/{name}" for name in ("history.jsonl", "speed.jsonl", "samples.jsonl", "summary.json")),
    ),
    "curves": ("train/curves.svg",),
    **{f"{stage}_{side}": (f"{stage}/{side}.parquet",) for stage in ("likelihood", "generate") for side in SIDES},
    **{f"score_{side}": (f"scores/{side}.parquet",) for side in SIDES},
    **{f"probe_{side}": (f"probes/{side}.parquet",) for side in SIDES},
    "metrics": ("metrics.json",),
    "errors": ("errors.json",),
    "judge": ("judge/page.html", "judge/key.json"),
    "judgement": ("judgement.json",),
    "manifest": ("manifest.json",),
    "report": ("report.html",),
    "gate": ("checks.json",),
    "card": ("model/README.md",),
    "spread": ("spread.json",),
    "trial": ("trial.json",),
}
# What the jobs leave to which the test rows are dealt, where they are several.
DEALT = ("likelihood", "generate")
PART_FILES = {f"{stage}_{side}": f"{stage}/parts/{side}-{{part}}.parquet" for stage in DEALT for side in SIDES}


def settings_of(settings: Settings, stage: str) -> Settings:
    """The one dict that a stage's rule gets as its params: what it reads, and no more."""
    model, seed = settings["model"], {"seed": settings["seed"]}
    remote = {"trust_remote_code": model["trust_remote_code"]}
    run, score = _pick(settings, "run"), _pick(settings, "score", "compare")
    told = {key: value for key, value in settings.items() if key not in ("store", "variants")}
    told["model"] = model | {"base": base_name(model)}
    learning = {"seed": seed["seed"] if settings["train"]["seed"] is None else settings["train"]["seed"]}
    likelihood, generate = ({key: of[key] for key in of if key != "shards"} for of in map(settings.get, DEALT))
    examples = {"few_shot": 0} if stage == "generate_tuned" else {}  # they are for the base alone
    near = _pick(settings["leaks"], "similarity") | _pick(settings["dedup"], "shingle_words")
    parts: dict[str, Settings] = {
        "ingest": {key: value for key, value in settings["source"].items() if key != "shard_mb"},
        "clean": settings["clean"] | {"annotations": settings["annotate"]["files"]},
        "sign": _pick(settings["dedup"], "shingle_words", "bands", "rows_per_band"),
        "dedup": settings["dedup"],
        "decontaminate": settings["decontaminate"],
        "split": settings["split"] | seed | {"contaminated": settings["decontaminate"]["action"]},
        "augment": {"methods": settings["augment"]} | seed | near,
        "leaks": settings["leaks"] | near,
        "annotate": settings["annotate"] | seed,
        "base": model["from_scratch"] | seed if model["from_scratch"] else _pick(model, "base", "revision") | remote,
        "tokens": settings["tokenize"] | remote,
        "plan": _pick(settings["train"], *PLANNED) | learning,
        "preflight": _pick(settings["train"], *CHECKED) | learning | remote,
        "train": settings["train"] | learning | remote | _pick(model, "save_dtype") | {"base_name": base_name(model)},
        "likelihood": likelihood | remote | _pick(settings["tokenize"], "special_tokens"),
        "generate": generate | examples | _pick(settings["tokenize"], "separator") | seed | remote,
        "score": settings["score"],
        "probe": settings["probes"] | remote,
        "metrics": score | run | seed,
        "errors": settings["errors"] | score | seed | remote,
        "judge": _pick(settings["judge"], "rows") | run | seed,
        "judgement": run,
        "gate": _pick(settings, "checks") | run,
        "publish": settings["publish"] | run,
        "data": _pick(settings, "run", "source", *DATA_SECTIONS) | seed,
        "report": told,
        "card": told,
        "manifest": told,
        "spread": _pick(settings, "seeds", "folds") | run,
        "leaderboard": settings["compare"] | seed,
    }
    if stage == "trial":
        return {name: settings_of(settings, name) for name in ("tokens", "plan", "preflight", "train")}
    if stage == "choose":
        return {"config": settings | {"variants": {}}, "tune": settings["tune"]}
    if stage == "tune_report":
        return _pick(settings, "tune") | seed | run
    if stage == "propose":
        return _pick(settings["tune"], "method", "space", "generation", "pruning") | seed
    return parts.get(stage.partition("_")[0], {})


def base_name(model: Settings) -> str | None:
    """The base model in a word."""
    return f"run {model['base']['run']}" if isinstance(model["base"], dict) else model["base"]


def _pick(section: Settings, *keys: str) -> Settings:
    return {key: section[key] for key in keys}


def reads(settings: Settings, stage: str) -> tuple[str, ...]:
    """The stages that a stage of this run reads."""
    if stage == "base" and settings["model"]["from_scratch"]:
        return ("split",)
    return READS[stage]


def happens(settings: Settings, stage: str) -> bool:
    """Whether a stage has files of its own in this run; the optional ones are off by default."""
    optional = {
        "base": settings["model"]["from_scratch"] is not None,
        "decontaminate": bool(settings["decontaminate"]["files"]),
        "augment": bool(settings["augment"]),
        "spread": bool(settings["seeds"] or settings["folds"]),
        "probe": any(file != "off" for file in settings["probes"].values()),
    }
    return optional.get(stage.partition("_")[0], True)


class Dag:
    """The runs of one configuration: the run itself, first, its variants, their seeds and folds, and their searches."""

    def __init__(self, settings: dict[str, Settings], root: Path, results: Path = Path("results")) -> None:
        self.settings = Runs(settings, results)
        self.names = list(settings)
        self.root = root
        self._parents = self.settings.parents
        self._owners: dict[tuple[str, str], str] = {}
        self._raw: dict[str, dict[str, list[RawFile]]] = {}

    def owner(self, name: str, stage: str) -> str:
        """Whose files a run uses at a stage: those of the run that it varies, up to the first stage that it changes.

        A variant varies the main run; a seed, a fold, a trial and the best of a search vary the run that they are of.
        """
        parent = self._parents.get(name)
        if parent is None:
            return name
        if (name, stage) not in self._owners:
            mine, theirs = self.settings[name], self.settings[parent]
            changed = _comparable(mine, stage) != _comparable(theirs, stage) or any(
                self.owner(name, earlier) != self.owner(parent, earlier) for earlier in reads(mine, stage)
            )
            self._owners[name, stage] = name if changed else self.owner(parent, stage)
        return self._owners[name, stage]

    def owns(self, name: str, stage: str) -> bool:
        """Whether a run has files of its own at a stage."""
        return self.owner(name, stage) == name

    def raw(self, name: str) -> dict[str, list[RawFile]]:
        """The raw files that a run reads, by the number of their shard."""
        owner = self.owner(name, "ingest")
        if owner not in self._raw:
            dealt = shards(self.settings[owner]["source"])
            self._raw[owner] = {f"{number:05d}": files for number, files in enumerate(dealt)}
        return self._raw[owner]

    def outputs(self, names: list[str] | None = None) -> list[str]:
        """The files of every stage of these runs, once each; of all that are known from the start."""
        wanted = ["results/leaderboard.csv", "results/leaderboard.html"]
        for name in self.names if names is None else names:
            for stage, paths in STAGE_FILES.items():
                if stage != "trial" and happens(self.settings[name], stage) and self.owns(name, stage):
                    wanted += [
                        f"results/{name}/{path}".format(shard=shard, part=part)
                        for path in paths
                        for shard in (self.raw(name) if "{shard}" in path else [""])
                        for part in (self.parts(name) if "{part}" in path else [""])
                    ] + self.part_files(name, stage)
        return list(dict.fromkeys(wanted))

    def parts(self, name: str) -> list[str]:
        """The numbers of the Arrow files of a split of a run."""
        return [f"{number:05d}" for number in range(self.settings[name]["tokenize"]["shards"])]

    def part_files(self, name: str, stage: str) -> list[str]:
        """The tables of the jobs to which a stage deals the test rows, if several; of a later run, as of its parent."""
        known = self.settings[name if name in self.settings else self._parents[name]]
        shards = known[stage.partition("_")[0]]["shards"] if stage in PART_FILES else 1
        numbers = range(shards if shards > 1 else 0)
        return [f"results/{name}/{PART_FILES[stage]}".format(part=f"{number:05d}") for number in numbers]

    def train_rows(self, name: str) -> str:
        """The table that a run learns from: the train split, or what augmentation made of it."""
        if happens(self.settings[name], "augment"):
            return f"results/{self.owner(name, 'augment')}/augment/train.parquet"
        return f"results/{self.owner(name, 'split')}/split/train.parquet"

    def base(self, name: str) -> tuple[str, list[str]]:
        """The folder of a run's base model, and the files that stand for its content."""
        model = self.settings[name]["model"]
        if isinstance(model["base"], dict):
            return self._base_of_run(name)
        if model["from_scratch"]:
            folder = f"results/{self.owner(name, 'base')}/base"
            names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
            return folder, [f"{folder}/{file}" for file in names]
        for place in (Path(model["base"]), self.root / model["base"]):
            if place.is_dir():
                return str(place), local_files(place, model)
        if not model["revision"]:
            raise ConfigError(
                f"- `model.base` is `{model['base']}`: there is no such folder. For a model of the Hub, set "
                "`model.revision` to a commit of it, so that a rerun fetches the same weights."
            )
        folder = f"resources/hub/{model['base'].replace('/', '--')}/{model['revision']}"
        return folder, [f"{folder}/manifest.json"]

    def _base_of_run(self, name: str) -> tuple[str, list[str]]:
        """The model that another run makes. Raises ConfigError where there is no such run, or a circle of them."""
        seen, other = [name], self.settings[name]["model"]["base"]["run"]
        while other not in seen:
            if other not in self.names:
                raise ConfigError(
                    f"- `model.base.run` of `{seen[-1]}` is `{other}`, which is no run of this configuration. There "
                    f"are {', '.join(self.names)}."
                )
            seen.append(other)
            base = self.settings[other]["model"]["base"]
            if not isinstance(base, dict):
                break
            other = base["run"]
        else:
            raise ConfigError(f"- `model.base`: {' needs '.join([*seen, other])}. One of them must begin elsewhere.")
        if self.settings[name]["model"]["revision"]:
            raise ConfigError(
                f"- `model.revision` of `{name}` is set, but its base is a run, which has none: remove it."
            )
        folder = f"results/{self.owner(seen[1], 'train')}/model"
        names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        return folder, [f"{folder}/{file}" for file in names]


def _comparable(settings: Settings, stage: str) -> Settings:
    """What decides a stage's result; the name of the run is no part of it."""
    return {key: value for key, value in settings_of(settings, stage).items() if key not in ("run", "variants")}


def local_files(folder: Path, model: Settings) -> list[str]:
    """The files of a local base model. Raises ConfigError where it has no safetensors or a revision is asked of it."""
    if model["revision"]:
        raise ConfigError(f"- `model.revision` is set, but `{folder}` is a folder, which has none: remove it.")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigError(
            f"- `model.base` is `{folder}`, which holds no .safetensors file. Save the model with `save_pretrained`."
        )
    return [str(path) for path in files]


def files_of(settings: Settings, stage: str, root: Path) -> dict[str, list[str]]:
    """The files beside the rows that a stage's settings name, by their use. Raises ConfigError where one is missing."""
    clean = settings["clean"]
    wanted: dict[str, dict[str, list[str]]] = {
        "clean": {
            "toxicity": _list_of(clean["toxicity"], root / "resources/words/toxicity.txt"),
            "identity_terms": _list_of(clean["identity_terms"], root / "resources/words/identity_terms.txt"),
            "dictionary": list(filter(None, [clean["spelling"]["dictionary"]])) if clean["spelling"]["enabled"] else [],
            "annotations": settings["annotate"]["files"],
        },
        "decontaminate": {"tests": settings["decontaminate"]["files"]},
        "augment": {
            key: [way[key] for way in settings["augment"] if way[key]] for key in ("lexicon", "model", "back_model")
        },
        "probe": {
            "bias": _probe(settings["probes"]["bias"], root / "resources/probes/bias.yaml"),
            "general": _probe(settings["probes"]["general"], root / "resources/probes/general.jsonl"),
        },
    }
    where = {"dictionary": "clean.spelling.dictionary", "annotations": "annotate.files", "tests": "decontaminate.files"}
    found = {}
    for use, patterns in wanted[stage].items():
        hits = {pattern: sorted(glob.glob(pattern, recursive=True)) for pattern in patterns}
        for pattern, paths in hits.items():
            if not paths:
                key = where.get(use, f"{'probes' if stage == 'probe' else stage}.{use}")
                raise ConfigError(f"- `{key}`: `{pattern}` finds no file from {Path.cwd().name}/.")
        found[use] = list(dict.fromkeys(itertools.chain.from_iterable(hits.values())))
    return found


def _probe(file: str, shipped: Path) -> list[str]:
    return {"off": [], "shipped": [glob.escape(str(shipped))]}.get(file, [glob.escape(file)])


def _list_of(terms: Settings, shipped: Path) -> list[str]:
    return [] if terms["action"] == "off" else [terms["words"] or glob.escape(str(shipped))]


@lru_cache
def code_of(script: Path) -> tuple[Path, ...]:
    """A script and every module of the workflow that it imports, directly or through others."""
    found = {script}
    waiting = [script]
    while waiting:
        for module in _imports(waiting.pop()):
            path = script.parent / f"{module.replace('.', '/')}.py"
            if path not in found and path.exists():
                found.add(path)
                waiting.append(path)
    return tuple(sorted(found))


@lru_cache
def _imports(path: Path) -> frozenset[str]:
    """The modules that a file names in its imports, with `from package import module` counted as both readings."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)
