"""The reliability diagram: how often the model's likeliest token is right, against how sure it was.

A model is calibrated where its confidence is its accuracy, on the diagonal; below it the model is too sure. A point is
a tenth of the confidences, its area the share of the tokens.
"""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import quoteattr

from markupsafe import Markup

from snaketune.pages.charts import Scale, svg_tag, svg_text
from snaketune.pages.pages import percent

SIZE, LEFT, RIGHT, TOP, BOTTOM = 380, 48, 368, 12, 332
LARGEST = 11.0  # radius of a point that holds all tokens
SMALLEST = 2.0
EVEN = 0.01  # within this, confidence and accuracy are called equal
TENTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

Bins = list[dict[str, Any]]


def table(calibration: dict[str, Any]) -> list[dict[str, Any]]:
    """For each tenth that holds a token: its edges, and (tokens, confidence, accuracy) of base and tuned."""
    edges = calibration["edges"]
    rows = []
    for place, sides in enumerate(zip(calibration["base"], calibration["tuned"], strict=True)):
        if any(side["n"] for side in sides):
            rows.append({"low": edges[place], "high": edges[place + 1], "base": sides[0], "tuned": sides[1]})
    return rows


def reliability(calibration: dict[str, Any], words: str) -> Markup:
    """The diagram as an SVG that takes its colours from the page; `words` tell it to those who do not see it."""
    across, up = Scale(0, 1, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    parts = []
    for tenth in TENTHS:
        parts.append(svg_tag("line", cls="rule", x1=LEFT, y1=up(tenth), x2=RIGHT, y2=up(tenth)))
        parts.append(svg_text(LEFT - 8, up(tenth) + 4, f"{tenth:.0%}", anchor="end"))
        parts.append(svg_text(across(tenth), BOTTOM + 20, f"{tenth:.0%}", anchor="middle"))
    parts.append(svg_tag("line", cls="even", x1=across(0), y1=up(0), x2=across(1), y2=up(1)))
    for side in ("base", "tuned"):
        parts += _points(calibration[side], side, across, up)
    parts.append(svg_text((LEFT + RIGHT) / 2, BOTTOM + 42, "confidence", anchor="middle"))
    parts.append(svg_text(LEFT + 6, TOP + 14, "accuracy"))
    box = f'viewBox="0 0 {SIZE} {BOTTOM + 50}" role="img" aria-label={quoteattr(words)}'
    return Markup("\n".join([f'<svg class="chart reliability" {box}>', *parts, "</svg>"]))


def _points(bins: Bins, side: str, across: Scale, up: Scale) -> list[str]:
    whole = sum(spot["n"] for spot in bins) or 1
    held = [spot for spot in bins if spot["n"]]
    at = [(across(spot["confidence"]), up(spot["accuracy"])) for spot in held]
    parts = []
    if len(at) > 1:
        parts.append(svg_tag("path", cls=f"line {side}", d="M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in at)))
    for (x, y), spot in zip(at, held, strict=True):
        radius = max(SMALLEST, LARGEST * math.sqrt(spot["n"] / whole))
        parts.append(svg_tag("circle", cls=side, cx=x, cy=y, r=float(radius)))
    return parts


def in_words(calibration: dict[str, Any]) -> str:
    """What the diagram shows: mean confidence beside accuracy, of base and tuned."""
    told = []
    for side in ("base", "tuned"):
        held = [spot for spot in calibration[side] if spot["n"]]
        tokens = sum(spot["n"] for spot in held)
        if tokens:
            sure, right = (sum(spot["n"] * spot[name] for spot in held) / tokens for name in ("confidence", "accuracy"))
            kind = "surer than it is right" if sure > right else "less sure than it is right"
            kind = "about as sure as it is right" if abs(sure - right) <= EVEN else kind
            numbers = f"{percent(sure, 1)} mean confidence, {percent(right, 1)} of the tokens right"
            told.append(f"The {side} model is {kind}: {numbers}.")
    return " ".join(told)
