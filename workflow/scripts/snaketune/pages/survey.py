"""What the data report says of the rows that stay: lengths, labels, groups, families, languages, and texts to show.

Texts are read batch by batch. Held are numbers for each row (16 bytes for its lengths, 16 for its family), the
different groups and labels, and the texts that are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.pages.histograms import Panel, counted, histogram, log_edges, log_labels, quantiles
from snaketune.pages.tallies import tally
from snaketune.rows import batches, numbers

SPLITS = ("train", "validation", "test")
FIELDS = ("prompt", "completion")
SAMPLE_ROWS = 1000
SAMPLE_CHARS = 2000  # of each text, to tell its language
HEAD = 160
MOST_LABELS = 30


def lengths(splits: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """The characters of each prompt and completion, by field and split, [rows] int64; rows without one are left out."""
    found: dict[str, dict[str, np.ndarray]] = {field: {} for field in FIELDS}
    for split, path in splits.items():
        parts: dict[str, list[np.ndarray]] = {field: [np.empty(0, np.int64)] for field in FIELDS}
        for batch in batches(path, list(FIELDS)):
            for field in FIELDS:
                parts[field].append(pc.utf8_length(pc.drop_null(batch[field])).to_numpy().astype(np.int64))
        for field in FIELDS:
            found[field][split] = np.concatenate(parts[field])
    return found


def length_figures(by_field: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """For each field that has texts: a histogram by split, and a table of quantiles."""
    found = []
    for field, by_split in by_field.items():
        ends = [(int(values.min()), int(values.max())) for values in by_split.values() if len(values)]
        if not ends:
            continue
        edges = log_edges(max(1, min(ends)[0]), max(end for _, end in ends))
        table = [
            {"split": split, "rows": len(values), "chars": int(values.sum()), "quantiles": quantiles(values)}
            for split, values in by_split.items()
        ]
        panels = [Panel(split, counted(np.maximum(values, 1), edges)) for split, values in by_split.items()]
        medians = ", ".join(f"{row['split']} {row['quantiles'][2]:,}" for row in table if row["rows"])
        words = f"Histogram of the characters of the {field}s, logarithmic. Medians: {medians}."
        figure = histogram(panels, edges, log_labels(edges), words, log=True)
        found.append({"field": field, "table": table, "figure": figure})
    return found


def labels(splits: Mapping[str, str]) -> dict[str, Any]:
    """The rows of each label in each split, the commonest first; empty where no row has a label."""
    counts: dict[str, dict[str, int]] = {}
    for split, path in splits.items():
        for row in tally(batches(path, ["label"]), ["label"]).to_pylist():
            counts.setdefault(row["label"], {})[split] = row["rows"]
    if not any(label is not None for label in counts):
        return {"labels": [], "more": 0}
    ordered = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), str(item[0])))
    shown = [{"label": label, **{split: rows.get(split, 0) for split in splits}} for label, rows in ordered]
    return {"labels": shown[:MOST_LABELS], "more": max(0, len(shown) - MOST_LABELS)}


def ties(splits: Mapping[str, str]) -> dict[str, Any]:
    """What is dealt as one: how many groups and families there are, and the largest of each."""
    groups = tally(
        (b.filter(pc.is_valid(b["group"])) for p in splits.values() for b in batches(p, ["group"])), ["group"]
    )
    names = [np.empty((0, 2), np.uint64)]
    names += [numbers(batch["family"]) for path in splits.values() for batch in batches(path, ["family"])]
    family = np.concatenate(names)
    family = family[np.lexsort((family[:, 1], family[:, 0]))]
    starts = np.flatnonzero(np.r_[True, (family[1:] != family[:-1]).any(axis=1)]) if len(family) else np.empty(0, int)
    largest = sorted(groups.to_pylist(), key=lambda row: (-row["rows"], row["group"]))[:1] if groups.num_rows else []
    return {
        "groups": groups.num_rows,
        "largest_group": largest[0] if largest else None,
        "families": len(starts),
        "largest_family": int(np.diff(np.r_[starts, len(family)]).max()) if len(family) else 0,
    }


def sample(splits: Mapping[str, str]) -> list[str]:
    """The heads of the completions of the kept rows with the smallest ids."""
    found: list[tuple[str, str]] = []
    for path in splits.values():  # each is sorted by row_id
        taken = 0
        for batch in batches(path, ["row_id", "completion"]):
            some = batch.slice(0, SAMPLE_ROWS - taken)
            heads = pc.utf8_slice_codeunits(pc.fill_null(some["completion"], ""), 0, SAMPLE_CHARS)
            found += zip(some["row_id"].to_pylist(), heads.to_pylist(), strict=True)
            taken += some.num_rows
            if taken == SAMPLE_ROWS:
                break
    return [text for _, text in sorted(found)[:SAMPLE_ROWS]]


def languages(splits: Mapping[str, str]) -> dict[str, Any]:
    """The languages of a sample of the kept rows, the commonest first, each with its mean probability."""
    texts = sample(splits)
    if not texts:
        return {"rows": 0, "languages": []}
    from snaketune.clean.language import identify

    codes, probability = identify(pa.array(texts, pa.string()))
    codes = np.array(codes.to_pylist() if hasattr(codes, "to_pylist") else list(codes), dtype=object)
    sure = np.asarray(probability, dtype=np.float64)
    counts = []
    for code in sorted(set(codes.tolist()), key=str):
        mine = codes == code
        counts.append({"code": code, "rows": int(mine.sum()), "probability": float(sure[mine].mean())})
    return {"rows": len(texts), "languages": sorted(counts, key=lambda row: (-row["rows"], str(row["code"])))}


def heads(paths: Iterable[str], wanted: Iterable[dict[str, Any]]) -> dict[tuple[str, str, int], str]:
    """The first characters of some raw rows, by (row_id, source, line); row groups without such a row stay unread."""
    keys = {(row["row_id"], row["source"], row["line"]) for row in wanted}
    ids, lines = pa.array(sorted({key[0] for key in keys}), pa.string()), pa.array(sorted({key[2] for key in keys}))
    found: dict[tuple[str, str, int], str] = {}
    for path in paths:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                names = file.read_row_group(number, ["row_id", "line"])
                here = pc.and_(pc.is_in(names["row_id"], ids), pc.is_in(names["line"], lines))
                if not pc.any(here).as_py():
                    continue
                rows = file.read_row_group(number, ["row_id", "source", "line", *FIELDS]).filter(here)
                for row in rows.to_pylist():
                    key = row["row_id"], row["source"], row["line"]
                    if key in keys:
                        text = "\n".join(row[field] for field in FIELDS if row[field])
                        found.setdefault(key, text[:HEAD] + "…" * (len(text) > HEAD))
    return found
