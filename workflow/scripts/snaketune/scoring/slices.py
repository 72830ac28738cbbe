"""Base against tuned on parts of the test split: which rows the tuning helped, and which it harmed.

Rows are cut by the length of their reference and of their prompt (in tokens, at the quartiles), by source, by label
and by kind. Each part has the few metrics that a reader looks at first, compared by the paired bootstrap of
compare.py on the families of that part. With many parts some look different by chance: of twenty whose truth is no
difference, one interval leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.scoring.bootstrap import LIKELIHOOD, codes_of, entries, groups, rounded, statistics_of
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.measures import Measure

VALUES = 12  # of one column; where there are more, the rarest are one slice together
FEWEST = 5  # families; rows of fewer are left out: so few witnesses give intervals that are too narrow, or of no width
QUARTILES = (0.25, 0.5, 0.75)
LENGTHS = {"length": "n_tokens", "prompt length": "n_prompt_tokens"}
NAMES = ("source", "label", "kind")
SHOWN = ("perplexity", "rougeL", "bleu")


def slices(
    base: pa.Table, tuned: pa.Table, measures: Mapping[str, Measure], resamples: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The slices, and what was left out for having rows of fewer than FEWEST families.

    base, tuned: the same rows of `scores`, paired by place; measures: of the answers. A slice: by, value, n (rows),
    values (how many values it joins: more than one in "other"), metrics (those of SHOWN that there are, metric ->
    entry; a metric of the answers needs answers in FEWEST families too). Left out: by, values, rows. A column with one
    value is no slice. Rows without a label are the slice None; rows without an answer have no prompt length.
    """
    made, small = [], []
    for by, parts in _parts(base).items():
        few = {"by": by, "values": 0, "rows": 0}
        for value, joined, places in parts:
            sides = base.take(places), tuned.take(places)
            if _enough(sides[0]):
                found = _metrics(*sides, measures, resamples, seed)
                made.append({"by": by, "value": value, "n": len(places), "values": joined, "metrics": found})
            else:
                few["values"] += joined
                few["rows"] += len(places)
        if few["rows"]:
            small.append(few)
    return made, small


def _enough(scores: pa.Table) -> bool:
    return pc.count_distinct(scores["family"]).as_py() >= FEWEST


Part = tuple[str | None, int, np.ndarray]  # the value, how many values it joins, the places of its rows


def _parts(scores: pa.Table) -> dict[str, list[Part]]:
    """The parts by each column that has more than one."""
    found = {by: _by_length(scores[name]) for by, name in LENGTHS.items() if name in scores.column_names}
    found |= {name: _by_value(scores[name]) for name in NAMES if name in scores.column_names}
    return {by: parts for by, parts in found.items() if len(parts) > 1}


def _by_length(column: pa.ChunkedArray) -> list[Part]:
    """Rows up to each quartile, and above; a part's value says from where to where it reaches."""
    rows = np.flatnonzero(column.is_valid().to_numpy())
    lengths = column.drop_null().to_numpy()
    if not len(lengths):
        return []
    edges = np.quantile(lengths, QUARTILES, method="inverted_cdf")
    quarter = np.searchsorted(edges, lengths, side="left")
    parts = []
    for number in np.unique(quarter):
        low, high = (int(end(lengths[quarter == number])) for end in (np.min, np.max))
        reach = f"{low:,} to {high:,}" if low < high else f"{low:,}"
        parts.append((f"{reach} tokens", 1, rows[quarter == number]))
    return parts


def _by_value(column: pa.ChunkedArray) -> list[Part]:
    """The rows of each value, the frequent ones first; where there are more than VALUES, the rest is one part."""
    rows: dict[str | None, list[int]] = {}
    for place, name in enumerate(column.to_pylist()):
        rows.setdefault(name, []).append(place)
    names = sorted(rows, key=lambda name: (-len(rows[name]), name is None, name))
    alone = names if len(names) <= VALUES else names[: VALUES - 1]
    parts: list[Part] = [(name, 1, np.array(rows[name])) for name in alone]
    if rest := names[len(alone) :]:
        parts.append(("other", len(rest), np.array(sorted(place for name in rest for place in rows[name]))))
    return parts


def _metrics(
    base: pa.Table, tuned: pa.Table, measures: Mapping[str, Measure], resamples: int, seed: int
) -> dict[str, Any]:
    """The metrics of SHOWN on these rows: metric -> entry."""
    found = {}
    for group, *sides in groups(base, tuned, {LIKELIHOOD: Likelihood(), **measures}):
        if _enough(sides[0]):
            statistics = [{name: statistics_of(table, name) for name in group} for table in sides]
            found |= entries(group, *statistics, codes_of(sides[0]["family"]), resamples, seed)
    return {metric: rounded(metric, found[metric]) for metric in SHOWN if metric in found}
