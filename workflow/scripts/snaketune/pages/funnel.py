"""The ledger in numbers: the funnel by stage, the reasons by rule with their words, and the quarantine.

Both reports show it. The ledger and the quarantine are read batch by batch; held are the counts and a few examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snaketune.pages.tallies import first, tally
from snaketune.rows import batches
from snaketune.schema_clean import Quality

STAGES = ("ingest", "clean", "dedup", "split", "tokenize")
MOST_QUARANTINED = 12
EXAMPLES = 3
KEYS = ["stage", "rule", "kept", "split"]
MEASURES = [
    *((column, "sum") for column in ("chars", "chars_kept")),
    *((column, how) for column in ("value", "threshold") for how in ("min", "max")),
]
# What a rule asks, for people; {limit} is its threshold. Other rules are shown by their names.
WORDS = {
    "quarantine": "could not be read as a row",
    "empty": "nothing is left of the text",
    "empty_prompt": "nothing is left of the prompt",
    "too_short": "completion shorter than {limit} characters",
    "too_long": "longer than {limit} characters",
    "language": "surely in another language than asked for; probability of at least {limit}",
    "annotated_reject": "rejected by an annotator",
    "pii": "more than {limit} pieces of personal data",
    "toxicity": "more than {limit} words of the list",
    "identity_terms": "more than {limit} words of the list",
    "exact_duplicate": "equal to a row that stays, case and white space aside",
    "near_duplicate": "similarity of at least {limit} (Jaccard) to a row that stays",
    "contaminated": "holds text of a given test set",
    "straddles_splits": "the splits that the data names would tear its family apart",
    "overlong": "longer than {limit} tokens",
    "no_trainable_token": "no token to learn",
}

Count = dict[str, Any]


def ledger_counts(path: str | Path) -> list[Count]:
    """For each (stage, rule, kept, split): raw rows, their characters before and after, values and thresholds."""
    counts = tally(batches(path, [*KEYS, *dict.fromkeys(column for column, _ in MEASURES)]), KEYS, MEASURES).to_pylist()
    for count in counts:
        for name in ("chars", "chars_kept"):
            count[name] = count.pop(f"{name}_sum") or 0
    return counts


def funnel(counts: list[Count]) -> dict[str, Any]:
    """Rows and characters in, dropped by rule, and out of each stage.

    raw = kept + dropped holds by every row having one line. Characters are those of the raw rows up to the end, where
    `chars_kept` says what is left of the kept ones.
    """
    raw, chars = (sum(count[name] for count in counts) for name in ("rows", "chars"))
    dropped = [count for count in counts if not count["kept"]]
    names = [*STAGES, *sorted({count["stage"] for count in dropped} - set(STAGES))]
    stages, left, chars_left = [], raw, chars
    for name in names:
        rules = reasons([count for count in dropped if count["stage"] == name])
        gone, chars_gone = (sum(rule[key] for rule in rules) for key in ("rows", "chars"))
        stages.append(
            {"name": name, "in": left, "dropped": gone, "out": left - gone, "reasons": rules}
            | {"rules": [(rule["rule"] or "no rule given", rule["rows"]) for rule in rules]}
            | {"chars_in": chars_left, "chars_dropped": chars_gone, "chars_out": chars_left - chars_gone}
        )
        left, chars_left = left - gone, chars_left - chars_gone
    notes: dict[str, int] = {}
    for count in counts:
        if count["kept"] and count["rule"]:
            notes[count["rule"]] = notes.get(count["rule"], 0) + count["rows"]
    return {
        "raw": raw,
        "kept": left,
        "dropped": raw - left,
        "chars": chars,
        "chars_left": chars_left,
        "chars_kept": sum(count["chars_kept"] for count in counts),
        "stages": stages,
        "notes": sorted(notes.items()),
    }


def reasons(counts: list[Count]) -> list[dict[str, Any]]:
    """The rules of some dropped rows, the commonest first, with rows, characters, and the range of their values."""
    rules: dict[tuple[str, str], list[Count]] = {}
    for count in counts:
        rules.setdefault((count["stage"], count["rule"] or ""), []).append(count)
    found = []
    for (stage, rule), parts in rules.items():
        ends = {}
        for name, pick in (("value_min", min), ("value_max", max), ("threshold_min", min), ("threshold_max", max)):
            known = [part[name] for part in parts if part[name] is not None]
            ends[name] = pick(known) if known else None
        limit = None if ends["threshold_min"] != ends["threshold_max"] else ends["threshold_min"]
        sums = {name: sum(part[name] for part in parts) for name in ("rows", "chars")}
        found.append({"stage": stage, "rule": rule, "words": in_words(rule, limit), "limit": limit, **sums, **ends})
    return sorted(found, key=lambda rule: (-rule["rows"], rule["rule"]))


def in_words(rule: str, limit: float | None) -> str:
    """What a rule asks, with its threshold; empty where nothing is known but its name."""
    told = "" if limit is None else f"{limit:,.10g}"
    if rule in WORDS and (told or "{limit}" not in WORDS[rule]):
        return WORDS[rule].format(limit=told)
    part, _, setting = rule.partition("_")
    if part in Quality.model_fields:  # `gopher_min_words`: the set and the setting
        section = getattr(Quality(), part)
        if setting in type(section).model_fields:
            described = str(type(section).model_fields[setting].description).rstrip(".")
            return described[0].lower() + described[1:] + (f": {told}" if told else "")
    return f"threshold {told}" if told else ""


def examples(path: str | Path, rules: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Of each rule that dropped rows a few of these, different ones: those with the smallest row_ids."""
    columns = ["row_id", "source", "line", "stage", "rule", "value", "threshold"]
    order = [(name, "ascending") for name in ("row_id", "source", "line", "value")]
    best: dict[tuple[str, str], pa.Table] = {}
    for batch in batches(path, [*columns, "kept"]):
        gone = batch.filter(pc.invert(batch["kept"])).select(columns)
        for rule in rules:
            key = rule["stage"], rule["rule"]
            mine = gone.filter(pc.and_(pc.equal(gone["stage"], key[0]), pc.equal(gone["rule"], key[1])))
            if mine.num_rows:
                found = first([best[key], mine] if key in best else [mine], order, EXAMPLES, unlike="row_id")
                best[key] = found if found is not None else mine
    return {key: table.to_pylist() for key, table in best.items()}


def quarantined(path: str | Path, stages: dict[str, Any]) -> dict[str, Any]:
    """Rows that could not be read: the commonest reasons, some rows, and whether the ledger counts as many."""
    counts = tally(batches(path, ["reason"]), ["reason"])
    ordered = sorted(counts.to_pylist(), key=lambda row: (-row["rows"], str(row["reason"])))
    rows = sum(row["rows"] for row in ordered)
    ingest = next(stage["dropped"] for stage in stages["stages"] if stage["name"] == "ingest")
    return {
        "rows": rows,
        "reasons": ordered[:MOST_QUARANTINED],
        "more_reasons": max(0, len(ordered) - MOST_QUARANTINED),
        "examples": _varied(path),
        "agrees": rows == ingest,
    }


def _varied(path: str | Path) -> list[dict[str, Any]]:
    """The first rows of each reason before the second of any, so that one flood does not hide the rest."""
    found: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    position = 0
    for batch in batches(path, ["source", "line", "reason", "head"]):
        for reason in pc.unique(batch["reason"]).to_pylist():
            known = found.setdefault(reason, []) if len(found) < MOST_QUARANTINED else found.get(reason)
            if known is None or len(known) == MOST_QUARANTINED:
                continue
            at = pc.indices_nonzero(pc.equal(batch["reason"], reason)).slice(0, MOST_QUARANTINED - len(known))
            for row, place in zip(batch.take(at).to_pylist(), at.to_pylist(), strict=True):
                known.append((len(known), position + place, row))
        position += batch.num_rows
    ranked = sorted((item for items in found.values() for item in items), key=lambda item: item[:2])
    return [row for _, _, row in sorted(ranked[:MOST_QUARANTINED], key=lambda item: item[1])]
