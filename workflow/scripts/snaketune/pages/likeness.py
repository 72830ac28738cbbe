"""What the data report says of rows that are alike: duplicates by source, clusters, pairs, leaks, and test sets.

Tables are read batch by batch. Held are counts, a few examples, and 16 bytes for each row of the clusters (its name,
and as much again while the names are sorted).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.pages.histograms import SIMILARITIES, Panel, counted, histogram, similarity_labels
from snaketune.pages.tallies import first, over, tally
from snaketune.rows import batches, numbers

MOST_SOURCES = 20
MOST_FILES = 20
PAIRS = 3
SIZES = (1, 2, 3, 4, 6, 11, 21, 51, 101, 1001)  # the smallest size of each bin of clusters
S_CURVE = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
DECISIVE = ("similarity_prompt", "similarity_completion")


def duplicates_by_source(ledger: str | Path) -> dict[str, Any]:
    """Of each source the rows that cleaning left, the exact and the near duplicates among them; the worst first."""
    counts = tally(batches(ledger, ["source", "stage", "rule"]), ["source", "stage", "rule"])
    sources: dict[str, dict[str, Any]] = {}
    columns = (counts[name].to_pylist() for name in ("source", "stage", "rule", "rows"))
    for source, stage, rule, rows in zip(*columns, strict=True):
        mine = sources.setdefault(source, {"source": source, "rows": 0, "exact": 0, "near": 0})
        if stage not in ("ingest", "clean"):
            mine["rows"] += rows
            for kind in ("exact", "near"):
                mine[kind] += rows * (stage == "dedup" and rule == f"{kind}_duplicate")
    ordered = sorted(sources.values(), key=lambda s: (-s["exact"] - s["near"], -s["rows"], s["source"]))
    shown, others = ordered[:MOST_SOURCES], ordered[MOST_SOURCES:]
    sums = lambda parts: {key: sum(part[key] for part in parts) for key in ("rows", "exact", "near")}  # noqa: E731
    return {"sources": shown, "others": sums(others) | {"count": len(others)}, "total": sums(ordered)}


def cluster_sizes(path: str | Path) -> dict[str, Any]:
    """How many clusters have so many rows, in bins; their number, and the largest."""
    names = np.concatenate([np.empty((0, 2), np.uint64), *(numbers(b["cluster"]) for b in batches(path, ["cluster"]))])
    if not len(names):
        return {"clusters": 0, "largest": 0, "bins": []}
    names = names[np.lexsort((names[:, 1], names[:, 0]))]
    starts = np.flatnonzero(np.r_[True, (names[1:] != names[:-1]).any(axis=1)])
    sizes = np.diff(np.r_[starts, len(names)])
    bins = []
    for low, after in zip(SIZES, (*SIZES[1:], None), strict=True):
        inside = sizes[(sizes >= low) & (sizes < after if after else True)]
        words = f"{low:,} or more" if not after else f"{low:,}" if after == low + 1 else f"{low:,} to {after - 1:,}"
        if len(inside):
            bins.append({"size": words, "clusters": len(inside), "rows": int(inside.sum())})
    return {"clusters": len(sizes), "largest": int(sizes.max()), "bins": bins}


def chance_found(similarity: float, bands: int, rows_per_band: int) -> float:
    """How likely LSH is to compare two texts of a Jaccard similarity J: 1 - (1 - J^r)^b."""
    return 1 - (1 - similarity**rows_per_band) ** bands


def pairs(path: str | Path, threshold: float) -> dict[str, Any]:
    """The verified pairs: how many of each relation, a histogram of similarity, and examples.

    The examples are duplicates with the smallest ids; those that are duplicates by the narrowest margin; and those
    that are related as a whole, but are no duplicates, by the narrowest margin. The margin is that of the prompts or
    the completions, whichever are less alike.
    """
    relations: dict[str, int] = {}
    histogram_of: dict[str, np.ndarray] = {}
    shown: dict[str, pa.Table | None] = {"any": None, "above": None, "below": None}
    by_id = [("row_id_a", "ascending"), ("row_id_b", "ascending")]
    for batch in batches(path):
        for relation in pc.unique(batch["relation"]).to_pylist():
            mine = batch.filter(pc.equal(batch["relation"], relation))
            relations[relation] = relations.get(relation, 0) + mine.num_rows
            counts = counted(pc.fill_null(mine["similarity"], 0).to_numpy(), SIMILARITIES)
            histogram_of[relation] = histogram_of.get(relation, 0) + counts
            weakest = [mine[name] for name in ("similarity", *DECISIVE) if name in mine.column_names]
            mine = mine.append_column("weakest", pc.min_element_wise(*weakest))
            if relation == "duplicate":
                shown["any"] = _best(shown["any"], mine, by_id)
                shown["above"] = _best(shown["above"], mine, [("weakest", "ascending"), *by_id])
            elif relation == "related":
                below = mine.filter(pc.less(mine["weakest"], threshold))
                shown["below"] = _best(shown["below"], below, [("weakest", "descending"), *by_id])
    examples = {name: table.to_pylist() if table is not None else [] for name, table in shown.items()}
    known = {(pair["row_id_a"], pair["row_id_b"]) for pair in examples["above"]}
    examples["any"] = [pair for pair in examples["any"] if (pair["row_id_a"], pair["row_id_b"]) not in known]
    panels = [Panel(relation, histogram_of[relation]) for relation in sorted(histogram_of)]
    return {"relations": dict(sorted(relations.items())), "examples": examples, "figure": _likeness(panels, threshold)}


def _best(known: pa.Table | None, more: pa.Table, order: list[tuple[str, str]]) -> pa.Table | None:
    return first([*([known] if known is not None else []), more], order, PAIRS)


def _likeness(panels: Sequence[Panel], threshold: float, thing: str = "pairs") -> str | None:
    """A figure of similarities, from a tenth below all that there is up to 1."""
    if not any(panel.counts.any() for panel in panels):
        return None
    least = min(int(np.flatnonzero(panel.counts)[0]) for panel in panels if panel.counts.any())
    start = max(0, min(least, int(counted(np.array([threshold]), SIMILARITIES).argmax()) - 5)) // 10 * 10
    shown = [Panel(panel.name, panel.counts[start:]) for panel in panels]
    edges = SIMILARITIES[start:]
    told = ", ".join(f"{panel.name} {int(panel.counts.sum()):,} {thing}" for panel in panels)
    words = f"Histogram of Jaccard similarity, threshold {threshold:g}: {told}."
    labels = similarity_labels(float(edges[0]))
    return histogram(shown, edges, labels, words, mark=(threshold, f"threshold {threshold:g}"), thing=thing)


def nearest(path: str | Path, threshold: float) -> dict[str, Any]:
    """The nearest train row of each validation and test row: a histogram of their similarity, and the closest."""
    histogram_of: dict[str, np.ndarray] = {}
    closest: pa.Table | None = None
    order = [("similarity", "descending"), ("row_id", "ascending"), ("train_row_id", "ascending")]
    alone = 0
    for batch in batches(path):
        similarity = pc.fill_null(batch["similarity"], 0.0).to_numpy()
        near = pc.is_valid(batch["train_row_id"])
        alone += batch.num_rows - pc.sum(near, min_count=0).as_py()
        for split in pc.unique(batch["split"]).to_pylist():
            mine = pc.equal(batch["split"], split).to_numpy()
            histogram_of[split] = histogram_of.get(split, 0) + counted(similarity[mine], SIMILARITIES)
        closest = _best(closest, batch.filter(near), order)
    panels = [Panel(name, histogram_of[name]) for name in ("validation", "test") if name in histogram_of]
    return {
        "rows": sum(int(panel.counts.sum()) for panel in panels),
        "alone": alone,
        "figure": _likeness([Panel(p.name, p.counts) for p in panels], threshold, "rows"),
        "closest": closest.to_pylist() if closest is not None else [],
    }


def contamination(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Of each test set the items that were found, the rows that hold them, and the strongest hits."""
    columns = ["row_id", "source", "line", "test_file", "item", "overlap", "head"]
    items = tally(over(paths, columns), ["test_file", "item"])
    rows = tally(over(paths, columns), ["test_file", "row_id", "source", "line"])
    per_file = {name: tally([table], ["test_file"]).to_pylist() for name, table in (("items", items), ("rows", rows))}
    found = {row["test_file"]: {"test_file": row["test_file"], "items": row["rows"]} for row in per_file["items"]}
    for row in per_file["rows"]:
        found[row["test_file"]]["rows"] = row["rows"]
    ordered = sorted(found.values(), key=lambda entry: (-entry["rows"], entry["test_file"]))
    order = [("overlap", "descending"), *((name, "ascending") for name in ("row_id", "item", "source", "line"))]
    for entry in ordered[:MOST_FILES]:
        mine = (batch.filter(pc.equal(batch["test_file"], entry["test_file"])) for batch in over(paths, columns))
        strongest = first(mine, order, PAIRS, unlike="item")
        entry["examples"] = strongest.to_pylist() if strongest is not None else []
    return ordered
