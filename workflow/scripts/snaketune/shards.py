"""Which raw files there are, and how they are dealt to jobs. Light, for the Snakefile imports it in every call."""

from __future__ import annotations

import glob
import importlib.util
import itertools
from pathlib import Path
from typing import Any

from snaketune.config import ConfigError
from snaketune.ingest.formats import COMPRESSED, format_of

# path, name (in the tables), format; start and end: the bytes of a piece where the file is cut, else 0 and None
RawFile = dict[str, Any]


def shards(source: dict[str, Any]) -> list[list[RawFile]]:
    """Deal the raw files, in the order of their names, to shards of about `shard_mb`.

    Raises ConfigError where a glob finds nothing or a format cannot be told.
    """
    if source["hub"]:
        slug = "--".join(filter(None, [source["hub"].replace("/", "--"), source["hub_config"], source["hub_split"]]))
        path = f"resources/hub/datasets--{slug}/{source['revision']}.parquet"
        name = f"{source['hub']}@{source['revision']}"
        return [[{"path": path, "name": name, "format": "parquet", "start": 0, "end": None}]]
    root, prefix = _root(source["package"])
    dealt: list[list[RawFile]] = []
    most = source["shard_mb"] * 1_000_000
    room = 0
    for path in _found(source["files"], root, source["package"]):
        relative = path.relative_to(root).as_posix() if root else path.as_posix()
        kind = format_of(path.name)
        if source["format"] != "auto" and kind != "zip":
            kind = source["format"]
        if kind is None:
            raise ConfigError(
                f"- `source.files`: the format of `{path}` cannot be told by its name; set `source.format`."
            )
        size = path.stat().st_size
        file = {"path": str(path), "name": prefix + relative, "format": kind}
        if size > most and _can_be_cut(path, kind, source["text_unit"]):
            cuts = [size * number // -(-size // most) for number in range(-(-size // most) + 1)]
            dealt += [[file | {"start": start, "end": end}] for start, end in itertools.pairwise(cuts)]
            room = 0
            continue
        if not dealt or size > room:
            dealt.append([])
            room = most
        dealt[-1].append(file | {"start": 0, "end": None})
        room -= size
    return dealt


def _can_be_cut(path: Path, kind: str, text_unit: str) -> bool:
    """Whether a row of the file can be told from the bytes around a cut; a quoted CSV field may hold any line."""
    return path.suffix not in COMPRESSED and (kind in ("jsonl", "parquet") or (kind, text_unit) == ("text", "line"))


def _root(package: str | None) -> tuple[Path | None, str]:
    if not package:
        return None, ""
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"- `source.package` is `{package}`, which is not installed here: `pip install {package}`.")
    return Path(found.submodule_search_locations[0]), f"{package}:"


def _found(patterns: list[str], root: Path | None, package: str | None) -> list[Path]:
    """The files of the patterns, in the order of their names; of a folder all files in it but the hidden ones."""
    paths: set[Path] = set()
    for pattern in patterns:
        hits = [Path(root or "", hit) for hit in glob.glob(pattern, root_dir=root, recursive=True)]
        files = [hit for hit in hits if hit.is_file()]
        if not files:
            files = [file for hit in hits for file in hit.rglob("*") if _visible(file, hit)]
        if not files:
            where = f"in the package `{package}`" if package else f"from {Path.cwd().name}/"
            raise ConfigError(f"- `source.files`: `{pattern}` finds no file {where}.")
        paths.update(files)
    return sorted(paths)


def _visible(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
