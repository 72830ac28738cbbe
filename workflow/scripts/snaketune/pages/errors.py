"""errors.json as the report shows it: test rows with their tokens marked, parts of the data, kinds of failure."""

from __future__ import annotations

from typing import Any

from snaketune.pages import tokens
from snaketune.pages.pages import ordered, outcome, trimmed

ALIKE = 40  # characters by which a reference is known
FAILURES = {
    "empty": "Empty",
    "repeated": "Repeated",
    "truncated": "Cut at the limit",
    "off_format": "Off format",
    "copied": "Copied from the prompt",
}


def samples(errors: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, each with the runs of its scored tokens, the runs before the fold, and the tokens that changed most.

    `apart`: what was scored is not the reference alone (of plain text, the prompt is scored as well).
    """
    shown = []
    for row in errors["rows"]:
        pieces = tokens.runs(row["tokens"])
        made = {"pieces": pieces, "head": tokens.head(pieces), "notable": tokens.notable(row["tokens"])}
        shown.append(row | made | {"apart": bool(pieces) and not _begin_alike(row)})
    return shown


def _begin_alike(row: dict[str, Any]) -> bool:
    """Whether the scored tokens begin as the reference does."""
    scored = "".join(token["text"] for token in row["tokens"]).lstrip()
    reference = (row["reference"] or "").strip()[:ALIKE]
    return bool(reference) and scored.startswith(reference)


def slices(errors: dict[str, Any]) -> dict[str, Any]:
    """The parts of the data in one table: the metrics that any of them has, and for each its entries or None."""
    names = ordered({name: None for part in errors["slices"] for name in part["metrics"]})
    rows = []
    for part in errors["slices"]:
        found = {name: part["metrics"].get(name) for name in names}
        entries = {name: entry and entry | {"outcome": outcome(entry)} for name, entry in found.items()}
        value = part["value"]
        told = "none" if value is None else trimmed(value) if isinstance(value, float) else str(value)
        rows.append({"by": part["by"], "value": told, "n": part["n"], "entries": entries})
    return {"metrics": names, "rows": rows, "left_out": errors.get("slices_left_out", [])}


def failures(errors: dict[str, Any]) -> list[dict[str, Any]]:
    """The kinds of failure with their names for people."""
    return [kind | {"name": FAILURES.get(kind["kind"], kind["kind"])} for kind in errors["failures"]]
