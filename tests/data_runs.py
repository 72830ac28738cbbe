"""The data files of a finished run as the data report reads them, made by hand: every number can be counted here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from builders import MINIMAL, row, write
from data_report import data_report
from snaketune.config import load
from snaketune.rows import CLUSTERS, FINDINGS, LEDGER, QUARANTINE, ROW, SPLIT

TEMPLATE = Path(__file__).parent.parent / "workflow" / "report" / "data.html.j2"
SPLITS = ("train", "validation", "test")
TEXT, WHOLE, SHARE = pa.string(), pa.int64(), pa.float64()
EVIDENCE = pa.schema(
    dict.fromkeys(("row_id_a", "row_id_b", "relation"), TEXT)
    | dict.fromkeys(("similarity", "similarity_prompt", "similarity_completion"), SHARE)
    | dict.fromkeys(("head_a", "head_b"), TEXT)
)
HITS = pa.schema(
    {"row_id": TEXT, "source": TEXT, "line": WHOLE, "test_file": TEXT, "item": WHOLE, "overlap": SHARE, "head": TEXT}
)
NEAREST = pa.schema(
    dict.fromkeys(("split", "row_id", "train_row_id"), TEXT) | {"similarity": SHARE, "head": TEXT, "train_head": TEXT}
)
CHECKS = ("row_id", "text", "cluster", "family", "group", "prompt")
BETWEEN = ("train-validation", "train-test", "validation-test")
Line = dict[str, Any]


def told(line: Line, stage: str, rule: str, split: str | None = None, **more: Any) -> Line:
    """A line of the ledger for a raw row."""
    kept = stage == "tokenize" and rule in ("", "truncated")
    chars = len(line["prompt"] or "") + len(line["completion"])
    made = {name: line[name] for name in ("row_id", "source", "line")}
    made |= {"stage": stage, "rule": rule, "kept": kept, "split": split, "chars": chars}
    return made | {"chars_kept": chars if kept else 0, "value": None, "threshold": None} | more


def make(folder: Path, **parts: Any) -> dict[str, Any]:
    """Write the inputs of the report; `parts` names what the run holds, and what is left out is empty.

    raw: list of shards, each a list of rows; ledger, quarantine, findings (of the first shard), clusters, evidence,
    hits, nearest: lists of rows; splits: three lists of rows; effects: list of contents; tokens: {split: manifest};
    checks: {(check, pair of splits): rows, "near": pairs with train, "within": pairs of validation and test}.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def table(name: str, schema: pa.Schema) -> str:
        return write(folder / f"{name}.parquet", parts.get(name, []), schema)

    def content(name: str, value: Any) -> str:
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
        return str(folder / name)

    counts = parts.get("checks", {})
    leaks = {
        part: [{"name": n, "pair": p, "count": counts.get((n, p), 0), "examples": []} for n in names for p in BETWEEN]
        for part, names in (("checks", CHECKS), ("told", ("prompt_words",)))
    }
    within = {"pairs": counts.get("within", 0), "examples": []}
    leaks["near"] = {"pairs": counts.get("near", 0), "similarity": 0.9, "validation_test": within}
    splits = parts.get("splits", [[], [], []])
    tied = [[{"family": line["row_id"], "cluster": line["row_id"]} | line for line in split] for split in splits]
    totals = dict.fromkeys(("rows_in", "rows_out", "chars_in", "chars_out", "chars_dropped"), 0)
    return {
        "ledger": table("ledger", LEDGER),
        "quarantine": table("quarantine", QUARANTINE),
        "raw": [write(folder / f"raw{n}.parquet", rows, ROW) for n, rows in enumerate(parts.get("raw", [[]]))],
        "findings": [table("findings", FINDINGS)],
        "effects": [
            content(f"effects{n}.json", {"steps": []} | totals | effects)
            for n, effects in enumerate(parts.get("effects", [{}]))
        ],
        "clusters": table("clusters", CLUSTERS),
        "evidence": table("evidence", EVIDENCE),
        "hits": [table("hits", HITS)] if "hits" in parts else [],
        "splits": [write(folder / f"{name}.parquet", rows, SPLIT) for name, rows in zip(SPLITS, tied, strict=True)],
        "checks": content("leaks.json", leaks),
        "nearest": table("nearest", NEAREST),
        "tokens": [content(f"{name}.json", parts.get("tokens", {}).get(name, {})) for name in SPLITS],
        "template": str(TEMPLATE),
    }


def rendered(folder: Path, changes: Line | None = None, **parts: Any) -> str:
    """The page of a run made of `parts`, with `changes` of its configuration."""
    settings = load(MINIMAL | (changes or {}))["tiny"]
    page = folder / "data.html"
    rendered.summary = data_report(make(folder, **parts), str(page), settings)
    return page.read_text(encoding="utf-8")


def text(number: int, words: int = 12) -> str:
    """A text like no other."""
    return " ".join(f"word{number}x{place}" for place in range(words))


def plain(number: int, **fields: Any) -> Line:
    """A plain row with a text and a line of its own."""
    return row(text(number), **({"line": number, "source": "a.jsonl"} | fields))
