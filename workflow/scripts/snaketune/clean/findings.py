"""What people should know of the texts that are kept: personal data, and words of lists. Kinds and counts, no texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean.judge import Verdicts
from snaketune.clean.turns import Texts
from snaketune.rows import FINDINGS

LISTS = ("toxicity", "identity_terms")
Counts = dict[str, np.ndarray]  # by kind: [n] int64


class Finder:
    """Looks for what the settings ask for; the lists of words are read once."""

    def __init__(self, settings: dict[str, Any], beside: dict[str, list[str]]) -> None:
        self.settings = settings
        self.terms = {}
        for name in LISTS:
            if settings[name]["action"] != "off":
                from snaketune.clean import terms

                self.terms[name] = terms.load(beside[name][0])

    def look(self, texts: Texts, verdicts: Verdicts) -> list[tuple[str, Counts]]:
        """What the rows that are kept hold, by rule; drops the rows that hold too much of it."""
        flat, rows = texts.flat()
        looked = verdicts.kept[rows] & flat.is_valid().to_numpy(zero_copy_only=False)
        if not looked.all():
            flat, rows = flat.filter(pa.array(looked)), rows[looked]
        found = []
        for rule, action, most, counts in self._counts(flat):
            by_row = {kind: _by_row(values, rows, len(texts)) for kind, values in counts.items() if values.any()}
            found.append((rule, by_row))
            if action == "drop":
                hits = sum(by_row.values(), np.zeros(len(texts), dtype=np.int64))
                verdicts.drop(rule, hits > most, hits, most)
        return found

    def _counts(self, texts: pa.Array) -> Iterator[tuple[str, str, int, Counts]]:
        pii_settings = self.settings["pii"]
        if pii_settings["action"] != "off":
            from snaketune.clean import pii

            yield "pii", pii_settings["action"], 0, pii.find(texts, pii_settings["kinds"])
        for name, terms in self.terms.items():
            yield name, self.settings[name]["action"], self.settings[name]["max_hits"], terms.count(texts)

    def mask(self, texts: pa.Array, rows: np.ndarray, found: list[tuple[str, Counts]], kept: np.ndarray) -> pa.Array:
        """The texts, which stand in `rows`, with a placeholder for the personal data of the rows that are kept."""
        from snaketune.clean import pii

        holds = sum(dict(found)["pii"].values(), np.zeros(len(kept), dtype=np.int64)) > 0
        marked = pa.array((holds & kept)[rows] & texts.is_valid().to_numpy(zero_copy_only=False))
        new = pii.mask(texts.filter(marked), self.settings["pii"]["kinds"])
        return pc.replace_with_mask(texts, marked, new)


def _by_row(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(rows, weights=values, minlength=n).astype(np.int64)


def table(rows: pa.Table, found: list[tuple[str, Counts]], kept: np.ndarray) -> pa.Table:
    """What was found in the kept rows, in the order of the rows, the rules and the kinds; schema rows.FINDINGS."""
    names = [(rule, kind) for rule, counts in found for kind in counts]
    if not names:
        return FINDINGS.empty_table()
    counts = np.stack([values for _, by_kind in found for values in by_kind.values()], axis=1) * kept[:, None]
    row, name = np.nonzero(counts)
    columns = {key: rows[key].take(pa.array(row)) for key in ("row_id", "source", "line")}
    for number, key in enumerate(("rule", "kind")):
        columns[key] = pa.array([pair[number] for pair in names], pa.string()).take(pa.array(name))
    return pa.table(columns | {"count": pa.array(counts[row, name])}, schema=FINDINGS)
