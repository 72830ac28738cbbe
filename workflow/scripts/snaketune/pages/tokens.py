"""A reference token by token: how much likelier each became under the tuned model, as a mark on the text.

The difference of a token is its loss under the tuned model less that under the base model, in nats; negative is
better. Marks have three strengths each way, at factors of 2, 10 and 100 in probability. A mark is a tint, a line below
(solid where likelier, dotted where less likely; thicker where stronger) and a title, so that it needs no colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from snaketune.pages.pages import number

FACTORS = (2, 10, 100)
BOUNDS = tuple(math.log(factor) for factor in FACTORS)
HEAD = 700  # characters that are shown before the rest is folded
NOTABLE = 3

Token = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A piece of the text: `mark` is "" or "up1" to "up3" (likelier) or "down1" to "down3"; `told` its numbers."""

    text: str
    mark: str = ""
    told: str = ""


def mark(token: Token) -> str:
    """The mark of a token; none where a loss is unknown or hardly differs."""
    difference = _difference(token)
    strength = 0 if difference is None else sum(abs(difference) >= bound - 1e-12 for bound in BOUNDS)
    if not strength or difference is None:
        return ""
    return f"{'up' if difference < 0 else 'down'}{strength}"


def runs(tokens: list[Token]) -> list[Run]:
    """The text in runs: each marked token by itself, unmarked neighbours together."""
    found: list[Run] = []
    for token in tokens:
        kind = mark(token)
        if kind:
            found.append(Run(_seen(token["text"]), kind, _told(token)))
        elif found and not found[-1].mark:
            found[-1] = Run(found[-1].text + token["text"])
        else:
            found.append(Run(token["text"]))
    return found


def head(pieces: list[Run], most: int = HEAD) -> list[Run] | None:
    """The runs that fit into `most` characters, the last one cut; None where all do."""
    if sum(len(piece.text) for piece in pieces) <= most:
        return None
    kept, left = [], most
    for piece in pieces:
        if left > 0:
            kept.append(Run(piece.text[:left], piece.mark, piece.told))
            left -= len(piece.text)
    return kept


def notable(tokens: list[Token]) -> dict[str, list[tuple[str, str]]]:
    """The tokens that changed most each way, as (text, numbers): what a title says to no finger."""
    known = [token for token in tokens if mark(token)]
    ranked = sorted(known, key=lambda token: _difference(token) or 0.0)
    gained = [token for token in ranked if mark(token).startswith("up")][:NOTABLE]
    lost = [token for token in ranked[::-1] if mark(token).startswith("down")][:NOTABLE]
    told = {"gained": gained, "lost": lost}
    return {
        way: [(_seen(token["text"]).strip() or "space", _told(token)) for token in found] for way, found in told.items()
    }


def _difference(token: Token) -> float | None:
    values = token["base"], token["tuned"]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return values[1] - values[0]


def _told(token: Token) -> str:
    return f"{number(token['base'])} → {number(token['tuned'])}"


def _seen(text: str) -> str:
    """A line break has no width that a mark could stand on."""
    return text.replace("\n", "↵\n")
