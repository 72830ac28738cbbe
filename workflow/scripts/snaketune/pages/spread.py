"""What several seeds and folds say, in words and in the rows of a table."""

from __future__ import annotations

from typing import Any

from snaketune.pages.metric_groups import main
from snaketune.pages.pages import clipped, interval, label, measured, ordered

KINDS = ("seeds", "folds")
NAMED = 3  # metrics that a caution names

Part = dict[str, Any]  # `seeds` or `folds` of spread.json


def parts(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The tables of the section: of seeds, of folds, of both, or none. Leading metrics stand in `first`."""
    found = []
    for kind in KINDS:
        if part := (document or {}).get(kind):
            names = ordered(part["metrics"])
            first = [name for name in names if main(name)] or names
            rest = [name for name in names if name not in first]
            found.append({"kind": kind, "verdict": verdict(part, kind), "first": first, "rest": rest, **part})
    return found


def verdict(part: Part, kind: str) -> str:
    """The leading metric over runs, and whether its difference from the base keeps its sign."""
    n = len(part["runs"])
    over = f"Over {n} {kind if n != 1 else kind[:-1]}"
    names = ordered(part["metrics"])
    if not names:
        return f"{over} no metric is common to all runs."
    name = next(filter(main, names), names[0])
    tuned, deltas = part["metrics"][name]["tuned"], part["metrics"][name]["delta"]["values"]
    reach = f" ± {measured((bounds[1] - bounds[0]) / 2, name)}" if (bounds := tuned["ci95"]) else ""
    title = "perplexity" if name == "perplexity" else clipped(label(name))
    told = f"{over} {title} is {measured(tuned['mean'], name)}{reach}"
    if n == 1:
        return f"{told}; one run shows no spread."
    above, below = (sum(sign * delta > 0 for delta in deltas) for sign in (1, -1))
    if n in (above, below):
        return f"{told}; the difference from the base keeps its sign in {'both' if n == 2 else 'all'}."
    even = f" and is zero in {n - above - below}" if above + below < n else ""
    return f"{told}; the difference from the base is above zero in {above}, below in {below}{even}."


def cautions(document: dict[str, Any] | None, metrics: dict[str, dict[str, Any]]) -> list[str]:
    """Where one run's bootstrap interval hides how far another seed moves the score: a sentence, or none.

    metrics: those of the single run. A metric counts where the seeds' scores, from least to largest, span more than
    the bootstrap interval of its tuned score. That few seeds span less than many would is in the metric's favour.
    """
    part = (document or {}).get("seeds")
    if not part:
        return []
    shared = [name for name in ordered(part["metrics"]) if (metrics.get(name) or {}).get("tuned_ci95")]
    wider = []
    for name in shared:
        tuned, (low, high) = part["metrics"][name]["tuned"], metrics[name]["tuned_ci95"]
        if tuned["max"] - tuned["min"] > high - low:
            wider.append(name)
    if not wider:
        return []
    wider.sort(key=lambda name: not main(name))
    told = "; ".join(
        f"{clipped(label(name))} {_span(part['metrics'][name]['tuned'], name)}, interval "
        f"{interval(metrics[name]['tuned_ci95'], name)}"
        for name in wider[:NAMED]
    )
    more = f"; and {len(wider) - NAMED} more" if len(wider) > NAMED else ""
    return [
        f"Over {len(part['runs'])} seeds the scores of {len(wider)} of {len(shared)} metrics spread wider than the "
        f"95\u00a0% interval of this run ({told}{more}). Such an interval knows of the test rows alone, not of chance "
        "in training."
    ]


def _span(tuned: dict[str, Any], metric: str) -> str:
    return interval([tuned["min"], tuned["max"]], metric)
