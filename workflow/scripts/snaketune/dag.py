"""What the rules ask about the run: which settings a stage reads, whose files a variant shares, which code counts.

Plain Python without Snakemake, so that it can be tested by itself. It is imported by the Snakefile in every call and
must stay light.
"""

from __future__ import annotations

import ast
import glob
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from snaketune.config import ConfigError
from snaketune.sources import format_of

Settings = dict[str, Any]
RawFile = dict[str, str]  # path, name in the tables, format

SPLITS = ("train", "validation", "test")
SIDES = ("base", "tuned")

# Which stages a stage reads. `base` is added below for the models that are trained from scratch.
READS: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "clean": ("ingest",),
    "dedup": ("clean",),
    "split": ("dedup",),
    "base": (),
    "tokens": ("split", "base"),
    "ledger": ("tokens",),
    "train": ("tokens", "base"),
    "curves": ("train",),
    "likelihood_base": ("tokens", "base"),
    "likelihood_tuned": ("tokens", "train"),
    "generate_base": ("tokens", "base"),
    "generate_tuned": ("tokens", "train"),
    "score_base": ("likelihood_base", "generate_base"),
    "score_tuned": ("likelihood_tuned", "generate_tuned"),
    "metrics": ("score_base", "score_tuned"),
    "manifest": ("train",),
    "report": ("metrics", "ledger", "curves", "manifest"),
    "card": ("metrics",),
}

# What each stage leaves in results/<run>/; all of it is asked for, so that a missing middle file is always made.
STAGE_FILES: dict[str, tuple[str, ...]] = {
    "ingest": ("ingest/rows-{shard}.parquet", "ingest/quarantine-{shard}.parquet"),
    "clean": ("clean/rows-{shard}.parquet", "clean/dropped-{shard}.parquet"),
    "dedup": tuple(f"dedup/{name}.parquet" for name in ("rows-00000", "clusters", "evidence", "dropped")),
    "split": tuple(f"split/{split}.parquet" for split in SPLITS),
    "base": ("base/config.json", "base/model.safetensors"),
    "tokens": tuple(f"tokens/{split}{end}" for split in SPLITS for end in ("", ".json", ".notes.parquet")),
    "ledger": ("ledger.parquet", "ingest/quarantine.parquet"),
    "train": ("model/config.json", "model/model.safetensors", "train/history.jsonl", "train/summary.json"),
    "curves": ("train/curves.svg",),
    **{f"{stage}_{side}": (f"{stage}/{side}.parquet",) for stage in ("likelihood", "generate") for side in SIDES},
    **{f"score_{side}": (f"scores/{side}.parquet",) for side in SIDES},
    "metrics": ("metrics.json",),
    "manifest": ("manifest.json",),
    "report": ("report.html",),
    "card": ("model/README.md",),
}


def settings_of(settings: Settings, stage: str) -> Settings:
    """The one dict that a stage's rule gets as its params: what it reads, and no more."""
    model, seed = settings["model"], {"seed": settings["seed"]}
    remote = {"trust_remote_code": model["trust_remote_code"]}
    score = {"score": settings["score"], "compare": settings["compare"], "run": settings["run"]}
    parts: dict[str, Settings] = {
        "ingest": {key: value for key, value in settings["source"].items() if key != "shard_mb"},
        "clean": settings["clean"],
        "dedup": settings["dedup"],
        "split": settings["split"] | seed,
        "base": model["from_scratch"] | seed if model["from_scratch"] else _pick(model, "base", "revision") | remote,
        "tokens": settings["tokenize"] | remote,
        "train": settings["train"] | seed | remote | _pick(model, "save_dtype"),
        "likelihood": remote,
        "generate": settings["generate"] | seed | remote,
        "score": settings["score"],
        "metrics": score | seed,
        "report": settings,
        "card": settings,
        "manifest": settings,
    }
    return parts.get(stage.partition("_")[0], {})


def _pick(section: Settings, *keys: str) -> Settings:
    return {key: section[key] for key in keys}


def reads(settings: Settings, stage: str) -> tuple[str, ...]:
    """The stages that a stage of this run reads."""
    if stage == "base" and settings["model"]["from_scratch"]:
        return ("split",)
    return READS[stage]


class Dag:
    """The runs of one configuration: the run itself, first, and its variants."""

    def __init__(self, settings: dict[str, Settings], root: Path) -> None:
        self.settings = settings
        self.names = list(settings)
        self.root = root
        self._owners: dict[tuple[str, str], str] = {}
        self._raw: dict[str, dict[str, list[RawFile]]] = {}

    def owner(self, name: str, stage: str) -> str:
        """Whose files a run uses at a stage: the main run's, up to the first stage that the variant changes."""
        main = self.names[0]
        if (name, stage) not in self._owners:
            mine, theirs = self.settings[name], self.settings[main]
            changed = _comparable(mine, stage) != _comparable(theirs, stage) or any(
                self.owner(name, earlier) != main for earlier in reads(mine, stage)
            )
            self._owners[name, stage] = name if changed else main
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

    def outputs(self) -> list[str]:
        """The files of every stage of every run, once each."""
        wanted = ["results/leaderboard.csv", "results/leaderboard.html"]
        for name in self.names:
            for stage, paths in STAGE_FILES.items():
                made = stage != "base" or self.settings[name]["model"]["from_scratch"]
                if made and self.owns(name, stage):
                    wanted += [
                        f"results/{name}/{path}".format(shard=shard) for path in paths for shard in self.raw(name)
                    ]
        return list(dict.fromkeys(wanted))

    def base(self, name: str) -> tuple[str, list[str]]:
        """The folder of a run's base model, and the files that stand for its content."""
        model = self.settings[name]["model"]
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


def shards(source: Settings) -> list[list[RawFile]]:
    """Deal the raw files, in the order of their names, to shards of about `shard_mb`.

    Raises ConfigError where a glob finds nothing or a format cannot be told.
    """
    if source["hub"]:
        slug = "--".join(filter(None, [source["hub"].replace("/", "--"), source["hub_config"], source["hub_split"]]))
        path = f"resources/hub/datasets--{slug}/{source['revision']}.parquet"
        return [[{"path": path, "name": f"{source['hub']}@{source['revision']}", "format": "parquet"}]]
    root, prefix = _root(source["package"])
    dealt: list[list[RawFile]] = []
    room = 0
    for path in _found(source["files"], root, source["package"]):
        relative = path.relative_to(root).as_posix() if root else path.as_posix()
        kind = source["format"] if source["format"] != "auto" else format_of(path.name)
        if kind is None:
            raise ConfigError(
                f"- `source.files`: the format of `{path}` cannot be told by its name; set `source.format`."
            )
        size = path.stat().st_size
        if not dealt or size > room:
            dealt.append([])
            room = source["shard_mb"] * 1_000_000
        dealt[-1].append({"path": str(path), "name": prefix + relative, "format": kind})
        room -= size
    return dealt


def _root(package: str | None) -> tuple[Path | None, str]:
    if not package:
        return None, ""
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"- `source.package` is `{package}`, which is not installed here: `pip install {package}`.")
    return Path(found.submodule_search_locations[0]), f"{package}:"


def _found(patterns: list[str], root: Path | None, package: str | None) -> list[Path]:
    paths: set[Path] = set()
    for pattern in patterns:
        hits = [Path(root or "", hit) for hit in glob.glob(pattern, root_dir=root, recursive=True)]
        hits = [hit for hit in hits if hit.is_file()]
        if not hits:
            where = f"in the package `{package}`" if package else f"from {Path.cwd().name}/"
            raise ConfigError(f"- `source.files`: `{pattern}` finds no file {where}.")
        paths.update(hits)
    return sorted(paths)


@lru_cache
def code_of(script: Path) -> tuple[Path, ...]:
    """A script and every module of the workflow that it imports, directly or through others."""
    found = {script}
    waiting = [script]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        for module in _imports(tree):
            path = script.parent / f"{module.replace('.', '/')}.py"
            if path.exists() and path not in found:
                found.add(path)
                waiting.append(path)
    return tuple(sorted(found))


def _imports(tree: ast.AST) -> set[str]:
    """The modules that a file names in its imports, with `from package import module` counted as both readings."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names
