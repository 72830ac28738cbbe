"""Which rows go, and why: the first rule that a row fails, the value that it had, and the threshold that it missed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.rows import DROPPED


class Verdicts:
    """The verdicts on the n rows of a batch."""

    def __init__(self, n: int) -> None:
        self.rules: list[str] = []
        self.rule = np.full(n, -1, dtype=np.int64)  # which of `rules`; -1 for a row that stays
        self.value = np.zeros(n, dtype=np.float64)
        self.threshold = np.zeros(n, dtype=np.float64)

    @property
    def kept(self) -> np.ndarray:
        """Which rows no rule has dropped [n] bool."""
        return self.rule < 0

    def drop(self, rule: str, fails: np.ndarray, value: np.ndarray | float, threshold: float) -> None:
        """Drop the rows [n] bool that fail a rule, unless an earlier rule did; value: [n], or one for all."""
        fails = fails & self.kept
        if fails.any():
            self.rule[fails] = len(self.rules)
            self.rules.append(rule)
            self.value[fails] = np.broadcast_to(value, fails.shape)[fails]
            self.threshold[fails] = threshold

    def table(self, rows: pa.Table) -> pa.Table:
        """The dropped rows, in the order of the rows; schema rows.DROPPED."""
        gone = np.flatnonzero(~self.kept)
        columns = {name: rows[name].take(pa.array(gone)) for name in ("row_id", "source", "line")}
        columns["stage"] = pa.repeat("clean", len(gone))
        columns["rule"] = pa.array(self.rules, pa.string()).take(pa.array(self.rule[gone]))
        columns |= {"value": pa.array(self.value[gone]), "threshold": pa.array(self.threshold[gone])}
        return pa.table(columns, schema=DROPPED)

    def reasons(self) -> Counter[str]:
        """How many rows each rule has dropped."""
        counts = np.bincount(self.rule[~self.kept], minlength=len(self.rules))
        return Counter(dict(zip(self.rules, counts.tolist(), strict=True)))


def blank(texts: pa.Array) -> np.ndarray:
    """Which texts [n] are empty, or nothing but white space; a null is not."""
    heads = pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(texts, 0, 1))
    found = pc.fill_null(pc.equal(heads, ""), False).to_numpy(zero_copy_only=False).copy()
    if found.any():  # of a long text, the first character has told enough
        whole = pc.utf8_trim_whitespace(texts.filter(pa.array(found)))
        found[found] = pc.equal(whole, "").to_numpy(zero_copy_only=False)
    return found


def marked_missing(texts: pa.Array, markers: list[str]) -> np.ndarray:
    """Which texts [n] are a marker of a missing value, white space around it aside; a null is none."""
    if not markers:
        return np.zeros(len(texts), dtype=bool)
    return pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(markers)).to_numpy(zero_copy_only=False)


def judge(verdicts: Verdicts, prompt: pa.Array, completion: pa.Array, settings: dict[str, Any]) -> pa.Array | None:
    """Judge clean rows: missing texts, length, language, quality; prompts of plain text are null.

    Returns the languages [n] of the rows that are left, null where they are not sure and for rows that are dropped;
    None where no language is asked for. Language and quality are those of the completion, which is what is learnt.
    """
    answer = pc.utf8_length(completion).to_numpy()
    whole = answer + pc.fill_null(pc.utf8_length(prompt), 0).to_numpy()
    verdicts.drop("empty", blank(completion), 0, 1)
    verdicts.drop("empty_prompt", blank(prompt), 0, 1)
    verdicts.drop("too_short", answer < settings["min_chars"], answer, settings["min_chars"])
    verdicts.drop("too_long", whole > settings["max_chars"], whole, settings["max_chars"])
    languages = _languages(verdicts, completion, settings) if settings["languages"] else None
    _quality(verdicts, completion, settings["quality"])
    return languages


def _languages(verdicts: Verdicts, texts: pa.Array, settings: dict[str, Any]) -> pa.Array:
    from snaketune.clean import language

    standing = np.flatnonzero(verdicts.kept)
    codes, probability = language.identify(texts.take(pa.array(standing)))
    least = settings["min_language_probability"]
    sure = np.asarray(probability, dtype=np.float64) >= least
    other = sure & ~np.isin(np.asarray(codes, dtype=object).astype(str), settings["languages"])
    verdicts.drop("language", *_spread(len(texts), standing, other, np.asarray(probability)), least)
    found: list[str | None] = [None] * len(texts)
    for row, code, certain in zip(standing.tolist(), list(codes), sure.tolist(), strict=True):
        found[row] = str(code) if certain else None
    return pa.array(found, pa.string())


def _quality(verdicts: Verdicts, texts: pa.Array, settings: dict[str, Any]) -> None:
    if not any(rules["enabled"] for rules in settings.values()):
        return
    from snaketune.clean import quality

    standing = np.flatnonzero(verdicts.kept)
    for rule, fails, value, threshold in quality.failures(texts.take(pa.array(standing)), settings):
        verdicts.drop(rule, *_spread(len(texts), standing, fails, value), threshold)


def _spread(n: int, rows: np.ndarray, fails: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was found in some rows [k], for all [n]."""
    all_fails, all_values = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.float64)
    all_fails[rows], all_values[rows] = fails, value
    return all_fails, all_values
