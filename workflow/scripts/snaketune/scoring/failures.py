"""Ways in which answers fail, whatever they should have said: counted for base and tuned, with examples.

A unit is a word, a sign, or a character of a script that is written without spaces. An answer may fail in several ways.

    empty       nothing but white space
    repeated    half of its 4-grams of units or more have stood in it before (seq-rep-4 of Welleck et al. 2019, at
                least 0.5): a loop
    truncated   it ended at `generate.max_new_tokens`, not by itself
    off_format  `errors.format` does not match it from end to end; counted only where that is set
    copied      80 % of its 4-grams of units or more stand in the prompt
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError
from snaketune.text.words import IDEOGRAPHS, SIZE, UNSPACED

SPAN = 4  # units
REPEATED, COPIED = 0.5, 0.8
EXAMPLES = 3
SIDES = ("base", "tuned")

_ALONE = "".join(f"{chr(start)}-{chr(end - 1)}" for start, end in (*UNSPACED, (SIZE, IDEOGRAPHS)))
_UNITS = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")


def failures(base: pa.Table, tuned: pa.Table, form: str | None) -> list[dict[str, Any]]:
    """What of `answers` fails: for each kind its meaning, how many answers of base and tuned, and examples.

    base, tuned: prompt, output and stopped of the same rows, by row_id; form: a regular expression, or None.
    Raises StageError where that is none.
    """
    judges = _judges(form)
    found = {side: _found(table, judges) for side, table in zip(SIDES, (base, tuned), strict=True)}
    tables = dict(zip(SIDES, (base, tuned), strict=True))
    return [
        {
            "kind": kind,
            "meaning": meaning,
            **{side: int(found[side][kind].sum()) for side in SIDES},
            "of": base.num_rows,
            "examples": _examples(tables, {side: found[side][kind] for side in SIDES}),
        }
        for kind, meaning in _meanings(form).items()
    ]


def _meanings(form: str | None) -> dict[str, str]:
    meanings = {
        "empty": "the answer is empty, or white space alone",
        "repeated": f"{REPEATED:.0%} of its sequences of {SPAN} words or more stood in the answer before: a loop",
        "truncated": "the answer ended at `generate.max_new_tokens`, not by itself",
        "off_format": "`errors.format` does not match the answer from end to end",
        "copied": f"{COPIED:.0%} of its sequences of {SPAN} words or more stand in the prompt",
    }
    if form is None:
        del meanings["off_format"]
    return meanings


Judge = Callable[[str, str, str], bool]  # of prompt, output, stopped


def _judges(form: str | None) -> dict[str, Judge]:
    judges: dict[str, Judge] = {
        "empty": lambda prompt, output, stopped: not output.strip(),
        "repeated": lambda prompt, output, stopped: repeats(output) >= REPEATED,
        "truncated": lambda prompt, output, stopped: stopped == "length",
        "copied": lambda prompt, output, stopped: copies(prompt, output) >= COPIED,
    }
    if form is not None:
        pattern = _compiled(form)
        judges["off_format"] = lambda prompt, output, stopped: pattern.fullmatch(output) is None
    return judges


def _compiled(form: str) -> re.Pattern[str]:
    try:
        return re.compile(form)
    except re.error as error:
        raise StageError(f"`errors.format` is no regular expression of Python: {error}; it is `{form}`") from error


def _found(table: pa.Table, judges: dict[str, Judge]) -> dict[str, np.ndarray]:
    """Which answers fail: kind -> bool [rows]."""
    columns = [[text or "" for text in table[name].to_pylist()] for name in ("prompt", "output", "stopped")]
    rows = list(zip(*columns, strict=True))
    return {kind: np.fromiter((judge(*row) for row in rows), bool, len(rows)) for kind, judge in judges.items()}


def repeats(text: str) -> float:
    """The share of a text's 4-grams that have stood in it before, 0 for a text of fewer units."""
    spans = _spans(text)
    return 1 - len(set(spans)) / len(spans) if spans else 0.0


def copies(prompt: str, text: str) -> float:
    """The share of a text's 4-grams that stand in a prompt, 0 for a text of fewer units."""
    spans = _spans(text)
    if not spans or not prompt:
        return 0.0
    there = set(_spans(prompt))
    return sum(span in there for span in spans) / len(spans)


def _spans(text: str) -> list[tuple[str, ...]]:
    units = _UNITS.findall(text.lower())
    return list(zip(*(units[start:] for start in range(SPAN)), strict=False))


def _examples(tables: dict[str, pa.Table], found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The first answers by row_id that fail, of the tuned model where there are any: row_id, side, output."""
    places = [(side, int(row)) for side in reversed(SIDES) for row in np.flatnonzero(found[side])][:EXAMPLES]
    return [
        {"row_id": tables[side]["row_id"][row].as_py(), "side": side, "output": tables[side]["output"][row].as_py()}
        for side, row in places
    ]
