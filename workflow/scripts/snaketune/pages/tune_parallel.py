"""Parallel coordinates: an axis for each dimension and one for the loss, and each trial as a line across them."""

from __future__ import annotations

from markupsafe import Markup

from snaketune.pages.charts import svg_tag, svg_text
from snaketune.pages.pages import clipped
from snaketune.pages.tune_charts import WIDTH, course, drawing, losses_axis, scored
from snaketune.pages.tune_trials import Search
from snaketune.pages.tune_words import loss_in_words, parallel_in_words

TOP, BOTTOM = 66, 340
LEFT, LAST = 14, 64  # room beside the first axis, and for the numbers of the last
NARROWEST = 96  # between two axes; where there are more of them, the drawing grows and its frame scrolls
MOST_MARKS = 6
LETTER, WIDEST = 9.0, 11.5  # width of a letter, and of one on a narrow screen, in units of the drawing


def parallel(search: Search) -> Markup:
    """Every trial with a loss as a line, the best in front; those that were pruned are dashed.

    Where the names of the axes are long, they stand in two rows: each has the room of two axes.
    """
    gaps = len(search.dimensions)
    width = max(WIDTH, LEFT + LAST + NARROWEST * gaps)
    between = (width - LEFT - LAST) / gaps
    shown = [trial for trial in scored(search, "pruned", "complete") if trial is not search.best] + [search.best]
    shown = sorted(shown, key=lambda trial: trial.state == "complete")
    axis = losses_axis([trial.loss or 0.0 for trial in shown], BOTTOM, TOP)
    scales = [dimension.scale(BOTTOM, TOP) for dimension in search.dimensions]
    rows = 1 if all(len(clipped(one.name)) * WIDEST <= between for one in search.dimensions) else 2
    at = [LEFT + between * place for place in range(gaps + 1)]
    parts = []
    for trial in shown:
        ups = [
            scale(dimension.place(trial.values[dimension.key]))
            for scale, dimension in zip(scales, search.dimensions, strict=True)
        ]
        spots = list(zip(at, [*ups, axis.at(trial.loss or 0.0)], strict=True))
        parts.append(course(search, trial, spots, f"trial {trial.number}: {loss_in_words(trial.loss)}"))
    for place, (dimension, scale) in enumerate(zip(search.dimensions, scales, strict=True)):
        marks = [(scale(value), words) for value, words in dimension.marks(MOST_MARKS)]
        parts += _axis(at[place], marks, dimension.name, place % rows, int(between / LETTER))
    parts += _axis(at[-1], [(axis.up(mark), axis.label(mark)) for mark in axis.marks], "loss", gaps % rows, 8)
    kind = "search broad" if width > WIDTH else "search"
    return drawing(kind, width, BOTTOM + 16, parallel_in_words(search), parts)


def _axis(x: float, marks: list[tuple[float, str]], name: str, row: int, fit: int) -> list[str]:
    """The axis, its numbers to its right with a rim that keeps them readable over lines, and its name above."""
    parts = [svg_tag("line", cls="pole", x1=x, y1=TOP, x2=x, y2=BOTTOM)]
    for at, (y, words) in enumerate(marks):
        parts.append(svg_tag("line", cls="pole", x1=x, y1=y, x2=x + 5, y2=y))
        cls = "rimmed second" if at % 2 and len(marks) > 4 else "rimmed"
        parts.append(svg_text(x + 9, y + 4, clipped(words, max(4, fit - 1)), cls=cls))
    parts.append(svg_text(x, TOP - 24 - 24 * row, clipped(name, max(6, 2 * fit - 4)), cls="name"))
    return parts
