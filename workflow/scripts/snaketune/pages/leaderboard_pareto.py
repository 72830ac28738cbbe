"""Quality against cost: the runs as points, and the front of those that no other run beats.

The cost is the time of the training where it is known of as many runs as the tokens are, and else the tokens; the two
are never mixed in one drawing. Seeds and folds are not drawn: they cost what their run costs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from markupsafe import Markup

from snaketune.pages.charts import Scale, log_ticks, svg_tag, svg_text, ticks
from snaketune.pages.leaderboard_cost import amount, duration
from snaketune.pages.leaderboard_groups import Group, value
from snaketune.pages.pages import clipped, label, measured

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 720, 84, 696, 40, 330
WIDE = 20  # costs whose largest is this many times the smallest stand on a logarithmic axis
NAME = 26  # characters of a name in the drawing
TOLD = 8  # runs that the words name
# The letters of a narrow screen are 21 units high (style.css), those of a wide one 13; half of that is their width.
LARGE, SMALL = (11.5, 22.0), (7.2, 15.0)

STYLE = """
.pareto .front { fill: none; stroke: var(--tuned); stroke-width: 1.5; stroke-dasharray: 5 4; }
.pareto circle { fill: var(--paper); stroke: var(--base); stroke-width: 2; }
.pareto circle.best { fill: var(--tuned); stroke: var(--paper); stroke-width: 1; }
"""

Spot = tuple[float, float]  # x and y, downwards
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A run in the drawing; of both numbers less is better."""

    name: str
    cost: float
    quality: float


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in one number without losing in the other; the cheapest first.

    Equal points do not beat each other.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, point.quality, point.name)):
        last = found[-1] if found else None
        if last is None or point.quality < last.quality or (point.cost, point.quality) == (last.cost, last.quality):
            found.append(point)
    return found


def pareto(group: Group) -> dict[str, Any] | None:
    """The figure of a group; None where there are not two points.

    drawing, words; front and missing: names of runs; devices: whether times of several devices stand in it.
    """
    if not group.sort:
        return None
    candidates = [run for run in group.candidates if run.name in group.ranks]
    known = {unit: sum(getattr(run.cost, unit) is not None for run in candidates) for unit in ("seconds", "tokens")}
    unit = "seconds" if known["seconds"] >= known["tokens"] else "tokens"
    points, devices = [], set()
    for run in candidates:
        cost, quality = getattr(run.cost, unit), value(run, group.sort)
        if cost is not None and quality is not None:
            points.append(Point(run.name, float(cost), quality))
            devices.add(run.cost.device)
    if len(points) < 2:
        return None
    best = front(points)
    words = in_words(points, best, group.sort, unit)
    drawn = {point.name for point in points}
    return {
        "drawing": draw(points, best, group.sort, unit, words),
        "words": words,
        "front": [point.name for point in best],
        "missing": [run.name for run in candidates if run.name not in drawn],
        "devices": len(devices) > 1 and unit == "seconds",
    }


def in_words(points: Sequence[Point], best: Sequence[Point], metric: str, unit: str) -> str:
    """What the drawing shows: the front, from the cheapest run to the best one."""
    written = duration if unit == "seconds" else amount
    told = [f"{clipped(p.name, NAME)} ({written(p.cost)}, {measured(p.quality, metric)})" for p in best[:TOLD]]
    more = f" and {len(best) - TOLD:,} more" if len(best) > TOLD else ""
    beaten = len(points) - len(best)
    rest = f" {beaten:,} of {len(points):,} runs {'is' if beaten == 1 else 'are'} beaten." if beaten else ""
    cost = "training time" if unit == "seconds" else "tokens trained"
    return f"The front of {label(metric).lower()} against {cost}, the cheapest first: {', '.join(told)}{more}.{rest}"


def draw(points: Sequence[Point], best: Sequence[Point], metric: str, unit: str, words: str) -> Markup:
    """The drawing as an SVG that takes its colours from the page."""
    costs = [point.cost for point in points]
    log = min(costs) > 0 and max(costs) > WIDE * min(costs)
    size, name = _unit(max(costs), unit)
    beside = log_ticks(min(costs) / size, max(costs) / size) if log else ticks(0, max(costs) / size, 6)
    above = ticks(min(point.quality for point in points), max(point.quality for point in points))
    across = Scale(beside[0] * size, beside[-1] * size, LEFT, RIGHT, log)
    up = Scale(above[0], above[-1], BOTTOM, TOP)
    parts = _axes(across, up, [(mark * size, f"{mark:,.10g}") for mark in beside], above)
    parts.append(svg_text(LEFT, 18, f"{label(metric)}, less is better", cls="name"))
    parts.append(svg_text((LEFT + RIGHT) / 2, BOTTOM + 52, name + (" (logarithmic)" if log else ""), anchor="middle"))
    at = {point.name: (across(point.cost), up(point.quality)) for point in points}
    steps = [at[point.name] for point in best]
    path = "".join(f" H{x:.1f} V{y:.1f}" for x, y in steps[1:])
    parts.append(svg_tag("path", cls="front", d=f"M{steps[0][0]:.1f} {steps[0][1]:.1f}{path}"))
    on_front = {point.name for point in best}
    written = duration if unit == "seconds" else amount
    for point in sorted(points, key=lambda point: (point.name in on_front, point.name)):
        x, y = at[point.name]
        kind = ' class="best"' if point.name in on_front else ""
        told = f"{clipped(point.name)}: {written(point.cost)}, {measured(point.quality, metric)}"
        parts.append(f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="5.5"><title>{escape(told)}</title></circle>')
    parts += _names([p.name for p in best], [p.name for p in points if p.name not in on_front], at)
    box = f'viewBox="0 0 {WIDTH} {BOTTOM + 62}" role="img" aria-label={quoteattr(words)}'
    return Markup("\n".join([f'<svg class="chart pareto" {box}>', f"<style>{STYLE}</style>", *parts, "</svg>"]))


def _unit(most: float, unit: str) -> tuple[float, str]:
    """The unit of the axis of costs: its size and its name."""
    units = {
        "seconds": ((7200, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds")),
        "tokens": ((2e9, 1e9, "billions"), (2e6, 1e6, "millions"), (2e3, 1e3, "thousands"), (0, 1, "")),
    }
    size, name = next((size, name) for least, size, name in units[unit] if most >= least)
    words = "training time, " if unit == "seconds" else "tokens trained" + (", " if name else "")
    return size, words + name


def _axes(across: Scale, up: Scale, beside: Sequence[tuple[float, str]], above: Sequence[float]) -> list[str]:
    parts = []
    digits = max(0, -math.floor(math.log10(above[1] - above[0]) + 1e-9))
    for number, mark in enumerate(above):
        parts.append(svg_tag("line", cls="rule", x1=LEFT, y1=up(mark), x2=RIGHT, y2=up(mark)))
        second = "second" if number % 2 and len(above) > 4 else None
        parts.append(svg_text(LEFT - 10, up(mark) + 4, f"{mark:,.{digits}f}", anchor="end", cls=second))
    for number, (mark, words) in enumerate(beside):
        parts.append(svg_tag("line", cls="rule", x1=across(mark), y1=BOTTOM, x2=across(mark), y2=BOTTOM + 5))
        second = "second" if number % 2 else None
        parts.append(svg_text(across(mark), BOTTOM + 24, words, anchor="middle", cls=second))
    return parts


def _names(first: Sequence[str], rest: Sequence[str], at: dict[str, Spot]) -> list[str]:
    """Names beside their points, where there is room: those of the front in any width, the rest on wide screens."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in at.values()]
    for (x1, y1), (x2, y2) in itertools.pairwise(at[name] for name in first):
        taken += [(x1, y1 - 1, x2, y1 + 1), (x2 - 1, y1, x2 + 1, y2)]
    parts = []
    for names, letters, kind in ((first, LARGE, "name"), (rest, SMALL, "second")):
        for name in names:
            if found := _place(clipped(name, NAME), at[name], letters, taken):
                x, y, anchor, box = found
                taken.append(box)
                parts.append(svg_text(x, y, clipped(name, NAME), anchor=anchor, cls=kind))
    return parts


def _place(
    words: str, spot: Spot, letters: tuple[float, float], taken: Sequence[Box]
) -> tuple[float, float, str, Box] | None:
    """The first of six places beside a point where a text covers nothing: x, y, anchor and the room that it takes."""
    (x, y), width, height = spot, len(words) * letters[0], letters[1]
    tries = (
        ("start", x + 10, x + 10, y + height * 0.3),
        ("end", x - 10, x - 10 - width, y + height * 0.3),
        ("middle", x, x - width / 2, y - 14),
        ("middle", x, x - width / 2, y + 9 + height * 0.75),
        ("start", x + 2, x + 2, y - 14),
        ("end", x - 3, x - 3 - width, y - 14),
    )
    for anchor, at, left, line in tries:
        box = (left, line - height * 0.75, left + width, line + height * 0.25)
        inside = box[0] >= LEFT - 4 and box[2] <= WIDTH and box[1] >= TOP - 14 and box[3] <= BOTTOM + 6
        if inside and not any(_meet(box, other) for other in taken):
            return at, line, anchor, box
    return None


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
