"""Histograms: counting into bins batch by batch, and their drawing, one panel above the other on a common axis.

The drawing is plain SVG that takes its colours and letters from the page (style.css), by the classes `chart`, `fill`,
`rule`, `mark`, `name`. Each bar says its numbers to whoever points at it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from snaketune.pages.charts import Scale, svg_tag, svg_text

WIDTH, LEFT, RIGHT = 720, 8, 712
TITLE, BARS, GAP, AXIS = 26, 64, 12, 30  # heights
LOG_STEPS = (1, 1.5, 2, 3, 5, 7)
SIMILARITIES = np.round(np.arange(101) * 0.01, 2)


@dataclass(frozen=True)
class Panel:
    """One histogram of a figure: its name, and how much is in each bin, [bins] int64."""

    name: str
    counts: np.ndarray


def log_edges(least: float, most: float) -> np.ndarray:
    """Round edges of bins, about six to a power of ten, from a power of ten at or below `least` to beyond `most`."""
    edges = np.array([step * 10.0**power for power in range(19) for step in LOG_STEPS if power or step != 1.5])
    low = 10.0 ** math.floor(math.log10(max(1.0, least)) + 1e-12)
    stop = max(low * 10, float(edges[np.searchsorted(edges, most, side="right")]))
    return edges[(edges >= low) & (edges <= stop)]


def counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many values [n] lie in each bin [edges - 1]; a bin holds its lower edge, the last one also its upper.

    Values a billionth below an edge count as on it: 0.8 may be stored as 0.7999999999999999.
    """
    return np.histogram(np.minimum(np.asarray(values, np.float64) * (1 + 1e-9), edges[-1]), edges)[0]


def quantiles(values: np.ndarray, shares: Sequence[float] = (0, 0.05, 0.5, 0.95, 1)) -> list[int]:
    """The values [n] of whole numbers below which these shares lie; each is one of the values."""
    return [int(value) for value in np.quantile(values, shares, method="inverted_cdf")] if len(values) else []


def histogram(
    panels: Sequence[Panel],
    edges: np.ndarray,
    labels: Sequence[tuple[float, str]],
    words: str,
    *,
    log: bool = False,
    mark: tuple[float, str] | None = None,
    thing: str = "rows",
) -> str:
    """An SVG of histograms over the same bins, each bar as high as its share of its panel.

    labels: (value, text) on the axis; words: what it shows, for those who do not see it; mark: (value, text) of a
    line through all panels. A bar that would be too low to be seen is drawn two units high.
    """
    at = Scale(float(edges[0]), float(edges[-1]), LEFT, RIGHT, log)
    shares = [panel.counts / max(1, panel.counts.sum()) for panel in panels]
    highest = max((float(share.max()) for share in shares), default=0.0) or 1.0
    parts, top = [], 20 if mark else 0
    for panel, share in zip(panels, shares, strict=True):
        base = top + TITLE + BARS
        rows = int(panel.counts.sum())
        parts.append(svg_text(LEFT, top + 18, f"{panel.name}: {rows:,} {thing}", cls="name"))
        for number in np.flatnonzero(panel.counts):
            low, high = edges[number], edges[number + 1]
            height = max(2.0, float(share[number]) / highest * BARS)
            x, end = at(low) + 0.5, at(high) - 0.5
            told = f"{low:,.10g} to {high:,.10g}: {panel.counts[number]:,} {thing} ({share[number]:.1%})"
            parts.append(
                f'<rect class="fill" x="{x:.1f}" y="{base - height:.1f}" width="{end - x:.1f}" height="{height:.1f}">'
                f"<title>{escape(told)}</title></rect>"
            )
        parts.append(svg_tag("line", cls="rule", x1=LEFT, y1=base, x2=RIGHT, y2=base))
        top = base + GAP
    bottom = top - GAP
    if mark:
        parts += _marked(at(mark[0]), mark[1], bottom)
    for number, (value, text) in enumerate(labels):
        anchor = "start" if at(value) < LEFT + 20 else "end" if at(value) > RIGHT - 20 else "middle"
        parts.append(svg_tag("line", cls="rule", x1=at(value), y1=bottom, x2=at(value), y2=bottom + 5))
        parts.append(svg_text(at(value), bottom + 24, text, anchor=anchor, cls="second" if number % 2 else None))
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {bottom + AXIS}" role="img" aria-label={quoteattr(words)}>'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _marked(x: float, text: str, bottom: float) -> list[str]:
    right = x > (LEFT + RIGHT) / 2
    return [
        svg_tag("line", cls="mark", x1=x, y1=4, x2=x, y2=bottom),
        svg_text(x - 6 if right else x + 6, 16, text, anchor="end" if right else "start", cls="marked"),
    ]


def log_labels(edges: np.ndarray) -> list[tuple[float, str]]:
    """The powers of ten on a logarithmic axis."""
    powers = 10.0 ** np.arange(19)
    return [(float(power), f"{power:,.0f}") for power in powers if edges[0] <= power <= edges[-1]]


def similarity_labels(start: float = 0.0) -> list[tuple[float, str]]:
    """The tenths of an axis of similarities."""
    return [(number / 10, f"{number / 10:g}") for number in range(11) if number / 10 >= start - 1e-9]
