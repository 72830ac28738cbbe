"""Where a result comes from: the files that went in, the code, and which stage made what of which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from snaketune.dag import READS, STAGE_FILES, happens, reads

MOST_INPUTS = 24
# What the stages that read no other take.
GIVEN = {"ingest": "the raw files", "base": "the base model"}


def lineage(manifest: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Inputs with their hashes, at most MOST_INPUTS; one hash of all code; the stages in their order.

    The hash of the code is that of the lines `hash  path` by path: what `sha256sum` prints of the files, hashed again.
    """
    inputs, code = sorted(manifest["inputs"].items()), sorted(manifest["code"].items())
    lines = "".join(f"{digest}  {path}\n" for path, digest in code)
    return {
        "inputs": inputs[:MOST_INPUTS],
        "more_inputs": max(0, len(inputs) - MOST_INPUTS),
        "code": hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest(),
        "code_files": len(code),
        "commit": manifest.get("commit"),
        "stages": stages(settings),
    }


def stages(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Each stage of this run that leaves files: its name, what it was made from, and its files."""
    found = []
    for stage in READS:
        if happens(settings, stage) and stage in STAGE_FILES:
            files = [file.format(shard="*", part="*") for file in STAGE_FILES[stage]]
            found.append(
                {"name": _words(stage), "reads": list(dict.fromkeys(_sources(settings, stage))), "files": files}
            )
    return found


def _sources(settings: dict[str, Any], stage: str) -> Iterator[str]:
    """What a stage reads: stages, in place of one that this run leaves out what that would have read, or inputs."""
    earlier = reads(settings, stage)
    if not earlier:
        yield GIVEN.get(stage, "the inputs")
    for source in earlier:
        if happens(settings, source):
            yield _words(source)
        else:
            yield from _sources(settings, source)


def _words(stage: str) -> str:
    name, _, side = stage.partition("_")
    return f"{name} of {side}" if side else name
