"""The leaderboard as a CSV: one line a run, with everything that is known of it. leaderboard.py tells the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.pages.leaderboard_best import MEASURE_OF, Comparison
from snaketune.pages.leaderboard_cost import COSTS
from snaketune.pages.leaderboard_groups import Group
from snaketune.pages.leaderboard_settings import Difference, as_json
from snaketune.pages.pages import ordered

COLUMNS = (
    ("", "tuned", None),
    ("_low", "tuned_ci95", 0),
    ("_high", "tuned_ci95", 1),
    ("_base", "base", None),
    ("_delta", "delta", None),
    ("_delta_low", "ci95", 0),
    ("_delta_high", "ci95", 1),
    ("_p", "p", None),
    ("_n", "n", None),
)
BEST_COLUMNS = (
    ("_best_delta", "delta", None),
    ("_best_delta_low", "ci95", 0),
    ("_best_delta_high", "ci95", 1),
    ("_best_p", "p", None),
)


@dataclass(frozen=True)
class Part:
    """A group with what was found out about its runs."""

    group: Group
    comparison: Comparison
    front: list[str] | None  # of quality against cost; None where it is not drawn
    missing: list[str]  # the runs that are not in that drawing
    differences: list[Difference]


def write(path: Path, parts: Sequence[Part]) -> None:
    """Floats stand as Python writes them, so that nothing is lost. An absent number is an empty cell."""
    names = ordered({name: None for part in parts for name in part.group.metrics})
    compared = [name for name in names if name in MEASURE_OF]
    head = ["test_sha256", "test_rows", "rank", "run", *(name + end for name in names for end, _, _ in COLUMNS)]
    head += [name + end for name in compared for end in ("_best", *(end for end, _, _ in BEST_COLUMNS))]
    head += ["parent", *COSTS, "on_front", "config_reference", "config_differences"]
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(head)
        for part in parts:
            out.writerows(_lines(part, names, compared))


def _lines(part: Part, names: Sequence[str], compared: Sequence[str]) -> Iterator[list[Any]]:
    group, comparison = part.group, part.comparison
    for run, difference in zip(group.runs, part.differences, strict=True):
        line: list[Any] = [run.test, run.rows, group.ranks.get(run.name), run.name]
        line += [_cell(run.metrics.get(name, {}), key, at) for name in names for _, key, at in COLUMNS]
        for name in compared:
            entry = comparison.entries.get(name, {}).get(run.name, {})
            line += [comparison.best.get(name), *(_cell(entry, key, at) for _, key, at in BEST_COLUMNS)]
        line += [group.parents.get(run.name), *(getattr(run.cost, name) for name in COSTS)]
        line += [_on_front(part, run.name), difference.against, as_json(difference)]
        yield line


def _on_front(part: Part, run: str) -> str | None:
    if part.front is None or run in part.missing or run in part.group.parents or run not in part.group.ranks:
        return None
    return "true" if run in part.front else "false"


def _cell(metric: dict[str, Any], key: str, at: int | None) -> Any:
    value = metric.get(key)
    return value if at is None or value is None else value[at]
