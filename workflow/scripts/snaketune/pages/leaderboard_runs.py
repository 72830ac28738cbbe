"""What the leaderboard knows of a run: its numbers, what it cost, how it was configured; and which runs are children.

A run that was made by an older workflow lacks some of the files; what they would tell is None.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from snaketune.pages.leaderboard_cost import Cost, cost_of

# The workflow names the copies of a run that differ in the seed or in the fold so.
CHILD = re.compile(r"(.+)-(?:seed|fold)-[0-9]+", re.DOTALL)
WHOLE = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Run:
    """A run as the leaderboard reads it."""

    name: str
    metrics: dict[str, dict[str, Any]]
    signatures: dict[str, str]
    test: str  # sha256 of the row ids of the test split; "" where it is not recorded
    rows: int | None  # of the test split
    report: str | None  # a relative URL
    scores: str | None  # a path
    cost: Cost
    config: dict[str, Any] | None  # the complete settings


def read(files: Mapping[str, str], home: Path) -> Run:
    """A run from its files: `metrics`, and where they are known scores, manifest, summary, speed, report.

    home: the folder of the page, which the link to the report starts from.
    """
    result = _json(files["metrics"])
    test, report, manifest = result.get("test") or {}, files.get("report"), files.get("manifest")
    return Run(
        name=result["run"],
        metrics=result["metrics"],
        signatures=result.get("signatures") or {},
        test=test.get("sha256") or "",
        rows=test.get("rows"),
        report=quote(Path(os.path.relpath(report, home)).as_posix()) if report else None,
        scores=files.get("scores"),
        cost=cost_of(files.get("summary"), files.get("speed")),
        config=_json(manifest).get("config") if manifest else None,
    )


def root(name: str, names: Container[str]) -> str | None:
    """The run among `names` whose seed or fold a run is; None for a run that is nobody's."""
    found = None
    while match := CHILD.fullmatch(name):
        name = match[1]
        found = name if name in names else found
    return found


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts names with their numbers by value: seed-9 before seed-10."""
    return tuple((int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in WHOLE.split(name))


def _json(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))
