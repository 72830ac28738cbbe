"""The section `checks` held against metrics.json: which bounds of which metrics hold, each in a sentence.

`min` and `max` bound the tuned model's value, `min_delta` and `max_delta` its difference from the base. With `certain`
it is the unfavourable end of the 95 % interval that must keep within the bound, not the value itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from snaketune.job import StageError

# bound -> the value that it bounds, its interval and the unfavourable end of that, and whether it is the least allowed
BOUNDS: dict[str, tuple[str, str, int, bool]] = {
    "min": ("tuned", "tuned_ci95", 0, True),
    "max": ("tuned", "tuned_ci95", 1, False),
    "min_delta": ("delta", "ci95", 0, True),
    "max_delta": ("delta", "ci95", 1, False),
}
ADVICE = {
    "general_": "look at the probe of general text in the report: fewer steps, a lower rate or LoRA forget less",
    "bias_": "look at the section on bias in the report, which says for which groups",
    "": "look at the slices and at the rows that lost most in the report",
}


def judged(metrics: Mapping[str, Any], checks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each bound that is set: metric, bound, limit, value, holds, and a sentence; in the order of their names.

    metrics: metrics.json; checks: metric -> {min, max, min_delta, max_delta, certain}, what is not set is null or not
    there. Raises StageError for a metric that was not computed.
    """
    entries = metrics["metrics"]
    return [
        _judged(metric, bound, limit, entries[_known(metric, entries)], bool(checks[metric].get("certain")))
        for metric in sorted(checks)
        for bound in BOUNDS
        if (limit := checks[metric].get(bound)) is not None
    ]


def failed(judgements: list[dict[str, Any]]) -> str:
    """What to tell the user of those that do not hold; empty where all do."""
    missed = [judgement for judgement in judgements if not judgement["holds"]]
    if not missed:
        return ""
    lines = [f"- {judgement['sentence']}; {_advice(judgement['metric'])}" for judgement in missed]
    count = f"{len(missed)} of {len(judgements)} checks {'does' if len(missed) == 1 else 'do'} not hold (`checks`)"
    return "\n  ".join([f"{count}:", *lines])


def _known(metric: str, entries: Mapping[str, Any]) -> str:
    if metric not in entries:
        near = get_close_matches(metric, entries, n=1)
        mean = f"did you mean `{near[0]}`? " if near else ""
        raise StageError(
            f"`checks.{metric}`: metrics.json has no such metric; {mean}There are {', '.join(sorted(entries))}. Others "
            "are computed where `score.metrics`, `score.own` or `probes` asks for them"
        )
    return metric


def _judged(metric: str, bound: str, limit: float, entry: Mapping[str, Any], certain: bool) -> dict[str, Any]:
    what, interval, end, least = BOUNDS[bound]
    value = entry[interval][end] if certain else entry[what]
    holds = value >= limit if least else value <= limit
    named = f"the {('lower', 'upper')[end]} end of the 95 % interval of " * certain
    named += f"{metric}, tuned - base," if what == "delta" else f"{metric}"
    number = f"{value:+.6g}" if what == "delta" else f"{value:.6g}"
    if holds:
        sentence = f"{named} is {number}, within `{bound}: {limit:g}`"
    else:
        side = "below" if least else "above"
        sentence = f"{named} is {number}, {abs(value - limit):.4g} {side} `{bound}: {limit:g}`"
    return {"metric": metric, "bound": bound, "limit": limit, "value": value, "holds": holds, "sentence": sentence}


def _advice(metric: str) -> str:
    return next(advice for start, advice in ADVICE.items() if metric.startswith(start))
