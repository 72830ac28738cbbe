"""The drawings of a search: its history, the slices along each dimension, and the curves of the trials.

A trial that is complete is a point, one that was pruned a diamond, one that failed a cross. The nearer a trial is to
the best, the stronger its colour, by fifths of the ranking, so that one loss far off does not bleach all the others.
Losses far above the rest stand as arrows at the upper edge. Colours come from the page by the classes of tune.html.j2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from markupsafe import Markup

from snaketune.pages.charts import Scale, svg_tag, svg_text, thinned, ticks
from snaketune.pages.pages import clipped
from snaketune.pages.tune_trials import Dimension, Search, Trial, told
from snaketune.pages.tune_words import curves_in_words, history_in_words, loss_in_words, slice_in_words

WIDTH, LEFT, RIGHT = 720, 64, 704
TOP, BOTTOM = 84, 304
STRIP = 24  # below the losses of the history: the place of the trials without one
SLICE = (360, 44, 348, 12, 176)  # width, left, right, top, bottom
FAR = 1.0  # so many times the distance from the best loss to the third quartile, beyond that quartile: far off
NEAR = 0.01  # nats; what lies within it of the quartile is not far off, however alike the others are
FEWEST_FOR_FAR = 5
MOST_POINTS = 40  # of a curve
SHIFT = 0.28  # how far a trial may stand aside from its choice, in distances between choices
LETTER = 7.0  # width of a letter, in units of the drawing


@dataclass(frozen=True)
class Losses:
    """The axis of the losses: its ticks, its scale, and the loss from which on a trial is drawn at the upper edge."""

    marks: list[float]
    up: Scale

    @property
    def label(self) -> Callable[[float], str]:
        """All numbers of the axis with as many decimals as the step between them needs."""
        digits = max(0, int(np.ceil(-np.log10(self.marks[1] - self.marks[0]) - 1e-9)))
        return lambda value: f"{value:,.{digits}f}"

    def beyond(self, loss: float) -> bool:
        """Whether a loss lies above the drawing."""
        return loss > self.marks[-1]

    def at(self, loss: float) -> float:
        """The height of a loss, held within the drawing."""
        return self.up(min(max(loss, self.marks[0]), self.marks[-1]))


def losses_axis(losses: Sequence[float], bottom: float, top: float, about: int = 6) -> Losses:
    """An axis for these losses that leaves out those far above the rest."""
    low, high = min(losses), max(losses)
    if len(losses) >= FEWEST_FOR_FAR:
        quartile = float(np.quantile(losses, 0.75))
        high = min(high, quartile + max(FAR * (quartile - low), NEAR))
    marks = ticks(low, high, about)
    return Losses(marks, Scale(marks[0], marks[-1], bottom, top))


def far_off(search: Search) -> bool:
    """Whether a loss lies above what the drawings show."""
    losses = [trial.loss or 0.0 for trial in scored(search, "complete", "pruned")]
    return losses_axis(losses, BOTTOM, TOP).beyond(max(losses))


def drawing(kind: str, width: float, height: float, words: str, parts: Sequence[str]) -> Markup:
    """An SVG with its text alternative, in the colours of the page."""
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label={quoteattr(words)}'
    return Markup("\n".join([f'<svg class="chart {kind}" {box}>', *parts, "</svg>"]))


def sign(kind: str, x: float, y: float, words: str, cls: str = "") -> str:
    """The mark of a trial at a place, which tells its words to whoever points at it."""
    r = 4.0
    if kind == "complete":
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"'
    else:
        paths = {
            "pruned": f"M{x:.1f} {y - r - 1:.1f}l{r + 1:g} {r + 1:g}l-{r + 1:g} {r + 1:g}l-{r + 1:g}-{r + 1:g}Z",
            "failed": f"M{x - r:.1f} {y - r:.1f}l{2 * r:g} {2 * r:g}m0-{2 * r:g}l-{2 * r:g} {2 * r:g}",
            "beyond": f"M{x - r:.1f} {y + r:.1f}l{r:g}-{2 * r:g}l{r:g} {2 * r:g}Z",
        }
        shape = f'<path d="{paths[kind]}"'
    return f'{shape} class="{f"{kind} {cls}".strip()}"><title>{escape(words)}</title></{shape[1 : shape.index(" ")]}>'


def _spot(search: Search, trial: Trial, x: float, axis: Losses, words: str) -> str:
    """The mark of a trial that has a loss; the best one gets a ring."""
    loss = trial.loss or 0.0
    kind = "beyond" if axis.beyond(loss) else trial.state
    cls = f"f{search.fifths[trial.number]}" if trial.state == "complete" else ""
    ring = svg_tag("circle", cls="winner", cx=x, cy=axis.at(loss), r=8) if trial is search.best else ""
    return sign(kind, x, axis.at(loss), f"trial {trial.number}: {words}", cls) + ring


def scored(search: Search, *states: str) -> list[Trial]:
    """Trials with a loss, the best ones last, so that they are drawn above the others."""
    return sorted((t for t in search.of(*states) if t.loss is not None), key=lambda t: (-(t.loss or 0.0), t.number))


def rules(axis: Losses, left: float, right: float) -> list[str]:
    """Horizontal rules with their losses."""
    parts = []
    for at, mark in enumerate(axis.marks):
        y, kind = axis.up(mark), "second" if at % 2 and len(axis.marks) > 4 else None
        parts.append(svg_tag("line", cls="rule", x1=left, y1=y, x2=right, y2=y))
        parts.append(svg_text(left - 8, y + 4, axis.label(mark), anchor="end", cls=kind))
    return parts


def history(search: Search) -> Markup:
    """Loss by number of the trial, a rule where a generation begins, and the best loss so far as a line."""
    shown = scored(search, "complete", "pruned")
    axis = losses_axis([trial.loss or 0.0 for trial in shown], BOTTOM, TOP)
    first, last = search.trials[0].number, search.trials[-1].number
    across = Scale(first - 0.5, last + 0.5, LEFT, RIGHT)
    without = [trial for trial in search.trials if trial.loss is None]
    base = BOTTOM + (STRIP if without else 0)
    parts = rules(axis, LEFT, RIGHT) + _generations(search, across, base)
    parts.append(_best_so_far(search, across, axis, last))
    parts += [_spot(search, trial, across(trial.number), axis, loss_in_words(trial.loss)) for trial in shown]
    for trial in without:
        words = f"trial {trial.number}: {trial.state}, without a loss"
        parts.append(sign(trial.state, across(trial.number), BOTTOM + STRIP / 2 + 4, words))
    whole = [tick for tick in ticks(first, max(last, first + 1), 8) if tick == int(tick) and first <= tick <= last]
    for at, tick in enumerate(whole):
        text = svg_text(across(tick), base + 22, f"{tick:,.0f}", anchor="middle", cls="second" if at % 2 else None)
        parts += [svg_tag("line", cls="rule", x1=across(tick), y1=base, x2=across(tick), y2=base + 5), text]
    parts.append(svg_text((LEFT + RIGHT) / 2, base + 48, "trial", anchor="middle"))
    return drawing("search", WIDTH, base + 56, history_in_words(search), parts + _legend(search))


def _generations(search: Search, across: Scale, base: float) -> list[str]:
    starts = {}
    for trial in search.trials:
        if trial.generation is not None:
            starts.setdefault(trial.generation, trial.number)
    ends = [*list(starts.values())[1:], search.trials[-1].number + 1]
    parts = []
    for (generation, start), end in zip(starts.items(), ends, strict=True):
        x, room = across(start - 0.5), across(end - 0.5) - across(start - 0.5)
        parts.append(svg_tag("line", cls="turn", x1=x, y1=TOP - 16, x2=x, y2=base))
        if room >= 150 or (room >= 24 and generation):
            words = f"generation {generation}" if room >= 150 else str(generation)
            parts.append(svg_text(x + room / 2, TOP - 8, words, anchor="middle", cls=None if room >= 40 else "second"))
    return parts


def _best_so_far(search: Search, across: Scale, axis: Losses, last: int) -> str:
    """The best loss of the complete trials up to each one, as stairs."""
    path, best = "", None
    for trial in search.of("complete"):
        if trial.loss is not None and (best is None or trial.loss < best):
            best, x = trial.loss, across(trial.number)
            path += f"H{x:.1f}V{axis.at(best):.1f}" if path else f"M{x:.1f} {axis.at(best):.1f}"
    return svg_tag("path", cls="sofar", d=f"{path}H{across(last + 0.5):.1f}")


def _legend(search: Search) -> list[str]:
    """What the marks mean, in two rows, where letters have room to grow; only those that there are."""
    entries = [("complete", sign("complete", 12, 0, "complete", "f2"))]
    entries.append(("best so far", svg_tag("path", cls="sofar", d="M0 0H24")))
    entries += [(state, sign(state, 12, 0, state)) for state in ("pruned", "failed") if search.of(state)]
    parts = []
    for place, (name, mark) in enumerate(entries):
        x, y = LEFT + 290 * (place % 2), 14 + 26 * (place // 2)
        parts += [f'<g transform="translate({x} {y})">{mark}</g>', svg_text(x + 32, y + 5, name, cls="name")]
    return parts


def slice_of(search: Search, dimension: Dimension) -> Markup:
    """Loss against one dimension. Trials of one choice or step stand side by side; a line is their median."""
    width, left, right, top, bottom = SLICE
    shown = scored(search, "complete", "pruned")
    axis = losses_axis([trial.loss or 0.0 for trial in shown], bottom, top, 4)
    slots = dimension.slots
    apart = (right - left) / len(slots) if slots else 20.0
    across = dimension.scale(left + apart / 2, right - apart / 2)
    parts = rules(axis, left, right)
    for slot in slots:
        place = dimension.place(slot)
        of = [
            t.loss
            for t in shown
            if t.state == "complete" and abs(dimension.place(t.values[dimension.key]) - place) < 1e-9
        ]
        if len(of) > 1:
            x, y = across(place), axis.at(float(np.median(of)))
            parts.append(svg_tag("line", cls="middle", x1=x - 0.4 * apart, y1=y, x2=x + 0.4 * apart, y2=y))
    for trial in shown:
        value = trial.values[dimension.key]
        aside = SHIFT * apart * (2 * (trial.number * 0.618034 % 1) - 1) if slots else 0.0
        words = f"{loss_in_words(trial.loss)} at {told(value)}"
        parts.append(_spot(search, trial, across(dimension.place(value)) + aside, axis, words))
    marks = dimension.marks(6)
    fit = max(3, int((right - left) / len(marks) / LETTER))
    for at, (place, words) in enumerate(marks):
        x = across(place)
        parts.append(svg_tag("line", cls="rule", x1=x, y1=bottom, x2=x, y2=bottom + 5))
        kind = "second" if at % 2 and len(marks) > 4 else None
        anchor = "end" if x > right - 14 else "middle"
        parts.append(svg_text(x, bottom + 22, clipped(words, fit), anchor=anchor, cls=kind))
    return drawing("search slice", width, bottom + 30, slice_in_words(search, dimension.key), parts)


def curves(search: Search) -> Markup | None:
    """Validation loss by number of the evaluation, a line a trial, the best in front."""
    drawn = [t for t in scored(search, "complete", "pruned") if t.curve]
    drawn = sorted(search.of("failed"), key=lambda t: t.number) + drawn
    drawn = [trial for trial in drawn if trial.curve and trial is not search.best]
    drawn += [search.best] if search.best.curve else []
    if not drawn:
        return None
    longest = max(len(trial.curve) for trial in drawn)
    axis = losses_axis([loss for trial in drawn for loss in trial.curve], BOTTOM - 60, 16)
    across = Scale(1, max(2, longest), LEFT + 12, RIGHT - 12)
    base, parts = BOTTOM - 60, rules(axis, LEFT, RIGHT)
    for trial in drawn:
        spots = [(across(x), axis.at(y)) for x, y in thinned(list(enumerate(trial.curve, start=1)), MOST_POINTS)]
        words = f"trial {trial.number}: {trial.state}, {loss_in_words(trial.loss)}"
        parts.append(course(search, trial, spots, words))
        if trial.state != "complete" or len(spots) == 1:
            parts.append(sign(trial.state, *spots[-1], words, _strength(search, trial)))
    numbers = [tick for tick in ticks(1, max(2, longest), 8) if tick == int(tick) and 1 <= tick <= longest]
    for at, tick in enumerate(numbers):
        cls = "second" if at % 2 and len(numbers) > 4 else None
        parts.append(svg_text(across(tick), base + 22, f"{tick:,.0f}", anchor="middle", cls=cls))
    parts.append(svg_text((LEFT + RIGHT) / 2, base + 48, "evaluation", anchor="middle"))
    return drawing("search", WIDTH, base + 56, curves_in_words(search), parts)


def course(search: Search, trial: Trial, spots: Sequence[tuple[float, float]], words: str) -> str:
    """The line of a trial through these spots."""
    path = f"M{' '.join(f'{x:.1f} {y:.1f}' for x, y in spots)}"
    return f'<path class="trial {_strength(search, trial)}" d="{path}"><title>{escape(words)}</title></path>'


def _strength(search: Search, trial: Trial) -> str:
    if trial is search.best:
        return "first"
    return f"f{search.fifths[trial.number]}" if trial.state == "complete" else "off"
