"""A job that Snakemake plans, and why, in words.

The reason is the sentence of Snakemake's `job_info` event (`Reason.__str__`), which names the files and both states of
changed settings. A kind of reason that is not known here is shown as it is.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from snaketune.dag import PART_FILES, STAGE_FILES

HEADS = {
    "Missing output files": "output missing",
    "Incomplete output files": "output incomplete",
    "Forced execution": "forced",
    "Updated input files": "",
    "Input files updated by another job": "",
    "Set of input files has changed since last execution": "other input files",
    "Code has changed since last execution": "code changed",
    "Params have changed since last execution": "settings changed",
    "Software environment definition has changed since last execution": "software environment changed",
}
BETWEEN = re.compile(f"; (?={'|'.join(map(re.escape, HEADS))})")
LISTED = 3  # names in one list
SHORT = 24  # characters of a value that is shown


@dataclass(frozen=True)
class Planned:
    """A planned job. `run`: "" where it is of none; `updated`: inputs that other jobs make anew; `heavy`: takes a GPU
    or several cores."""

    rule: str
    run: str
    stage: str
    reasons: tuple[str, ...]
    updated: tuple[str, ...]
    outputs: tuple[str, ...]
    benchmark: str | None
    heavy: bool
    memory_mb: int | None

    @classmethod
    def of(cls, record: logging.LogRecord) -> Planned:
        """The job of a record of the event `job_info`."""
        told: dict[str, Any] = vars(record)
        resources = {name: value for name, value in told["resources"].items() if isinstance(value, int)}
        parts = [(head.strip(), rest.strip()) for head, _, rest in _parts(told["reason"])]
        if any(head == "Missing output files" for head, _ in parts):  # it would be made whatever else changed
            parts = [(head, rest) for head, rest in parts if head == "Missing output files"]
        return cls(
            rule=told["rule_name"],
            run=told["wildcards"].get("run", ""),
            stage=stage_of(told["rule_name"], told["output"]),
            reasons=tuple(dict.fromkeys(words for head, rest in parts for words in _in_words(head, rest))),
            updated=tuple(path for head, rest in parts if "by another job" in head for path in rest.split(", ")),
            outputs=tuple(told["output"]),
            benchmark=told["benchmark"],
            heavy=told["threads"] > 1 or resources.get("gpu", 0) > 0,
            memory_mb=resources.get("mem_mb"),
        )


def stage_of(rule: str, outputs: list[str]) -> str:
    """The stage that makes these files; where it is none of the DAG's, the rule's name."""
    for output in outputs:
        inside = output.partition("results/")[2].partition("/")[2]
        for stage, pattern in _patterns().items():
            if pattern.fullmatch(inside):
                return stage
    return rule


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Stage -> its files in results/<run>/."""
    files = {stage: (*paths, PART_FILES.get(stage, paths[0])) for stage, paths in STAGE_FILES.items()}
    texts = {stage: "|".join(map(re.escape, paths)) for stage, paths in files.items()}
    return {stage: re.compile(re.sub(r"\\{\w+\\}", r"\\d+", text)) for stage, text in texts.items()}


def _parts(reason: str) -> Iterator[tuple[str, str, str]]:
    for part in BETWEEN.split(reason):
        yield part.partition(":")


def _in_words(head: str, rest: str) -> list[str]:
    if head == "Params have changed since last execution":
        return [changed_settings(rest)]
    if head == "Updated input files":
        return list(changed_files(rest.split(", ")))
    return list(filter(None, [HEADS.get(head, f"{head}: {rest}" if rest else head)]))


def changed_files(paths: list[str]) -> Iterator[str]:
    """Changed inputs by what they are: the lock, the workflow's own code and templates, anything else."""
    lock = [path for path in paths if Path(path).name == "requirements.lock"]
    code = [path for path in paths if "workflow" in Path(path).parts or Path(path).name == "Snakefile"]
    if lock:
        yield "packages changed"
    if code:
        yield f"code: {listed(sorted({Path(path).name for path in code}))}"
    if rest := [path for path in paths if path not in (*lock, *code)]:
        yield f"changed: {listed(sorted(rest))}"


def changed_settings(told: str) -> str:
    """Which settings changed, of `before: <values> now: <values>`; a plain sentence where that cannot be told."""
    text = told.partition("before: ")[2]
    for middle in re.finditer(" now: ", text):
        sides = [_sections(text[: middle.start()]), _sections(text[middle.end() :])]
        if all(len(side) == 1 for side in sides):
            found = list(_differences(sides[0][0], sides[1][0], ""))
            return f"settings changed: {listed(found)}"
    return "settings changed"


def _sections(text: str) -> list[dict[str, Any]]:
    """The dicts among values that Snakemake has written with `repr`, with commas between them."""
    try:
        values = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return []
    return [value for value in (values if isinstance(values, tuple) else (values,)) if isinstance(value, dict)]


def _differences(old: dict[str, Any], new: dict[str, Any], where: str) -> Iterator[str]:
    for key in sorted({*old, *new}, key=str):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(before, now, f"{where}{key}.")
        elif key not in old or key not in new or before != now:
            shown = f" {before!r} -> {now!r}"
            short = not isinstance(before, list | dict) and not isinstance(now, list | dict) and len(shown) <= 2 * SHORT
            yield f"{where}{key}{shown if short else ''}"


def listed(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + f" and {more} more" * (more > 0)
