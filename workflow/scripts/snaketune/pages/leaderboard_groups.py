"""Which runs are ranked together, in which order, and which of them is the best of a column.

- Runs of equal test rows stand together; a run whose test rows are unknown stands alone.
- A metric that was computed in several ways (its signatures differ) counts in the way of most runs; the others stand
  in its column, but are not ranked by it.
- The seeds and folds of a run stand below it, and are neither ranked nor best: the run would compete with itself. The
  folds, each of which has test rows of its own, are listed together, unranked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from snaketune.pages.leaderboard_runs import Run, natural, root
from snaketune.pages.metric_groups import main
from snaketune.pages.pages import ordered

SORTED_BY = ("bits_per_byte", "perplexity")


@dataclass(frozen=True)
class Group:
    """Runs of one test split, in their order; or the folds of a run, which have each their own."""

    runs: list[Run]
    parents: dict[str, str]  # of the children, by name
    ranks: dict[str, int]  # by name, from 1; without the children and those that cannot be ranked
    sort: str | None  # the metric that they are ranked by
    metrics: list[str]
    ways: dict[str, list[tuple[str, list[str]]]]  # metric -> (signature, names of runs), that of most runs first
    best: dict[str, list[str]]  # metric -> names of the runs with the best value, where there are worse ones
    folds_of: str | None = None

    @property
    def test(self) -> str:
        """The hash of the test rows; "" where it is unknown, or where each run has its own."""
        return "" if self.folds_of else self.runs[0].test

    @property
    def rows(self) -> int | None:
        """How many test rows there are."""
        return None if self.folds_of else self.runs[0].rows

    @property
    def shown(self) -> list[str]:
        """The metrics that the page shows."""
        return [name for name in self.metrics if main(name)]

    @property
    def candidates(self) -> list[Run]:
        """The runs that are nobody's seed or fold."""
        return [run for run in self.runs if run.name not in self.parents]

    @property
    def mixed(self) -> dict[str, list[tuple[str, list[str]]]]:
        """The metrics that were computed in several ways."""
        return {name: ways for name, ways in self.ways.items() if len(ways) > 1}

    def apart(self, run: str, metric: str) -> bool:
        """Whether a run's value of a metric was computed in another way than that of most."""
        return any(run in names for _, names in self.ways.get(metric, [])[1:])


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The largest group first; then the folds; those of unknown test data, each alone, at the end."""
    by_test: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_test.setdefault((run.test, "" if run.test else run.name), []).append(run)
    names = {run.name for run in runs}
    folds: dict[str, list[Run]] = {}
    for key, members in list(by_test.items()):
        parent = root(members[0].name, names)
        if len(members) == 1 and parent and "-fold-" in members[0].name:
            folds.setdefault(parent, []).extend(by_test.pop(key))
    known = sorted((item for item in by_test.items() if item[0][0]), key=lambda item: (-len(item[1]), item[0]))
    alone = sorted(item for item in by_test.items() if not item[0][0])
    return [
        *(group(members) for _, members in known),
        *(group(members, parent) for parent, members in sorted(folds.items())),
        *(group(members) for _, members in alone),
    ]


def group(members: Sequence[Run], folds_of: str | None = None) -> Group:
    """Runs that may stand in one table, ranked unless they are the folds of a run."""
    names = {run.name for run in members}
    parents = {run.name: parent for run in members if (parent := folds_of or root(run.name, names))}
    metrics = ordered({name: None for run in members for name in run.metrics})
    ways = {metric: _ways(members, metric) for metric in metrics}
    candidates = [run for run in members if run.name not in parents]
    sort = next((m for m in SORTED_BY if candidates and all(value(run, m) is not None for run in candidates)), None)
    first = set(ways[sort][0][1]) if sort else set()
    candidates.sort(key=lambda run: (run.name not in first, value(run, sort) if sort else 0.0, run.name))
    children = sorted((run for run in members if run.name in parents), key=lambda run: natural(run.name))
    below: dict[str, list[Run]] = {}
    for run in children:
        below.setdefault(parents[run.name], []).append(run)
    ranked = [run.name for run in candidates if run.name in first]
    return Group(
        runs=children if folds_of else [one for run in candidates for one in (run, *below.get(run.name, []))],
        parents=parents,
        ranks={name: place for place, name in enumerate(ranked, start=1)},
        sort=sort,
        metrics=metrics,
        ways=ways,
        best={metric: best for metric in metrics if (best := _best(candidates, metric, ways[metric][0][1]))},
        folds_of=folds_of,
    )


def value(run: Run, metric: str) -> float | None:
    """The tuned model's value of a metric; None where there is none, or it is no finite number."""
    found = run.metrics.get(metric, {}).get("tuned")
    return found if found is not None and math.isfinite(found) else None


def _ways(members: Sequence[Run], metric: str) -> list[tuple[str, list[str]]]:
    """The signatures of a metric and the runs that have them; the most frequent first, of equal ones the first."""
    having = [run for run in members if metric in run.metrics]
    told = {run.name: str(run.signatures.get(metric, "not recorded")) for run in having}
    counts = Counter(told.values())
    return [
        (signature, sorted(name for name, found in told.items() if found == signature))
        for signature in sorted(counts, key=lambda found: (-counts[found], found))
    ]


def _best(candidates: Sequence[Run], metric: str, comparable: Sequence[str]) -> list[str]:
    """The names of the runs with the best value; none where all are equal or neither direction is better."""
    found = {run.name: v for run in candidates if run.name in comparable and (v := value(run, metric)) is not None}
    ways = {run.metrics[metric]["higher_is_better"] for run in candidates if run.name in found}
    if len(set(found.values())) < 2 or ways not in ({True}, {False}):
        return []
    best = (max if True in ways else min)(found.values())
    return [name for name, v in found.items() if v == best]
