"""The metrics as a reader meets them: in groups of one question each, the leading ones first, and their drawing."""

from __future__ import annotations

import math
from typing import Any

from snaketune.pages.charts import Scale, log_ticks, ticks
from snaketune.pages.pages import METRICS, direction, ordered

# The question that a group answers.
GROUPS = {
    "likelihood": ("Likelihood", "How well the model foresees the reference, token by token."),
    "answers": ("Answers", "How like the reference the answers are."),
    "classification": ("Classification", "Answers taken as one of the classes."),
    "own": ("Your own metrics", "Computed by the files and names under score.own."),
    "diversity": (
        "Diversity and copying",
        "Here neither direction is better by itself, save for repetition: look for a change that you did not expect.",
    ),
    "probes": ("Probes", "Texts beside the test split: general language, and sentences that differ in who is named."),
}

SCALES = {shown.axis for shown in METRICS.values()}


def group_of(metric: str) -> str:
    """The group of a metric; one that is not of the workflow is the user's own."""
    return METRICS[metric].group if metric in METRICS else "own"


def main(metric: str) -> bool:
    """Whether a metric leads its group; the user's own ones all do."""
    return METRICS[metric].main if metric in METRICS else True


def groups(metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups that hold a metric: `first` are shown at once, `rest` on demand. No group has a rest alone."""
    found = []
    for key, (title, note) in GROUPS.items():
        names = [name for name in ordered(metrics) if group_of(name) == key]
        first = [name for name in names if main(name)]
        if names:
            rest = [name for name in names if name not in first] if first else []
            found.append({"id": key, "title": title, "note": note, "first": first or names, "rest": rest})
    return found


def tracks(metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The interval plot of the leading metrics: one axis for each scale; positions are percentages of the width."""
    axes: dict[str, list[str]] = {}
    for name in ordered(metrics):
        axis = METRICS[name].axis if name in METRICS else name
        if axis and metrics[name].get("base_ci95") and metrics[name].get("tuned_ci95"):
            axes.setdefault(axis, []).append(name)
    return [group for axis, names in axes.items() if (group := _axis(axis, names, metrics))]


def _axis(axis: str, names: list[str], metrics: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    spans = {n: [metrics[n][who] for who in ("base", "tuned")] + _bounds(metrics[n]) for n in names}
    spans = {n: v for n, v in spans.items() if all(x is not None and math.isfinite(x) for x in v)}
    if not spans:
        return None
    low, high = min(map(min, spans.values())), max(map(max, spans.values()))
    log = axis == "perplexity" and low > 0
    marks = log_ticks(low, high) if log else ticks(0.0 if axis == "score" else low, high, 4)
    at = Scale(marks[0], marks[-1], 1.0, 99.0, log)
    ways = {direction(metrics[name]) for name in spans}
    return {
        "axis": (axis.capitalize() if axis in SCALES else axis) + (" (logarithmic)" if log else ""),
        "direction": ways.pop() if len(ways) == 1 else "0 to 100",
        "marks": [(round(at(mark), 2), f"{mark:,.10g}") for mark in marks],
        "rows": [
            {
                "name": name,
                "base": [round(at(x), 2) for x in (v[0], *v[2:4])],
                "tuned": [round(at(x), 2) for x in (v[1], *v[4:6])],
            }
            for name, v in spans.items()
        ],
    }


def _bounds(entry: dict[str, Any]) -> list[float]:
    return [*entry["base_ci95"], *entry["tuned_ci95"]]
