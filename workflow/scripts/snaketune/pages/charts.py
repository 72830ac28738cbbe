"""Charts without a plotting library: scales, ticks and a few hundred bytes of SVG.

Matplotlib would cost a second of import, half a megabyte of fonts and colours that suit one background only. Here the
same numbers always give the same bytes, the text stays text, and the colours follow the reader's light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from snaketune.pages.history import History, Point

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT = 72, 704
LOSS_TOP, LOSS_BOTTOM = 48, 268
RATE_TOP, RATE_BOTTOM = 312, 366
MOST_POINTS = 240
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Inlined into a page, a style applies to the whole page: hence every selector begins with `.curves`.
# On a narrow screen the drawing shrinks; its letters grow in return, and every second number steps aside.
STYLE = """
.curves { --ink: #24292f; --soft: #656d76; --rule: #d8dee4; --paper: #ffffff; --train: #8a6116; --valid: #0a5cc2;
  font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media screen and (prefers-color-scheme: dark) {
  .curves { --ink: #e6e9ed; --soft: #9aa4af; --rule: #363d46; --paper: #14171b;
  --train: #d9a548; --valid: #6cb2ff; } }
.curves .paper { fill: var(--paper); }
.curves text { fill: var(--soft); font-variant-numeric: tabular-nums; }
.curves .name { fill: var(--ink); }
.curves .rule { stroke: var(--rule); stroke-width: 1; }
.curves .line { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.curves .train { stroke: var(--train); stroke-width: 1.5; }
.curves .valid { stroke: var(--valid); stroke-width: 2.25; }
.curves .rate { stroke: var(--soft); stroke-width: 1.5; }
.curves .dot { fill: var(--valid); }
.curves .ring { fill: var(--paper); stroke: var(--valid); stroke-width: 2.5; }
.curves .best { stroke: var(--valid); stroke-width: 1; stroke-dasharray: 2 4; }
@media (max-width: 520px) { .curves { font-size: 21px; } .curves .second { display: none; } }
"""


@dataclass(frozen=True)
class Scale:
    """A map from values to positions, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = 0.5 if high == low else (at - low) / (high - low)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that span `low` to `high`, the first and last beyond them."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(step * count, digits) for count in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten that span `low` to `high`; only the powers where they span much."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 1e3 else (1, 2, 5)
    every = [factor * 10.0**power for power in powers for factor in factors]
    first = max((i for i, value in enumerate(every) if value <= low * 1.0001), default=0)
    last = min((i for i, value in enumerate(every) if value >= high * 0.9999), default=len(every) - 1)
    return every[first : last + 1]


def scientific(value: float) -> str:
    """5e-05 as people write it, with a raised exponent; a factor of 1 is left out."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)) + 1e-12)
    head = f"{value / 10.0**power:.3g}"
    return ("" if head == "1" else f"{head}×") + f"10{str(power).translate(SUPERSCRIPT)}"


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: the means of equal runs of neighbours, so that a long training stays one readable line."""
    size = math.ceil(len(points) / most) or 1
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def curves(history: History, words: str) -> str:
    """Training and validation loss against step, the best evaluation marked, the learning rate below: an SVG."""
    last = max((step for series in (history.training, history.validation) for step, _ in series), default=1)
    steps = [tick for tick in ticks(0, max(last, 1), 6) if tick <= last and tick == int(tick)]
    across = Scale(0, max(last, 1), LEFT, RIGHT)
    parts = [
        f"<title>{escape('Loss and learning rate against step')}</title>",
        f"<desc>{escape(words)}</desc>",
        f"<style>{STYLE}</style>",
        svg_tag("rect", cls="paper", width=WIDTH, height=HEIGHT),
        *_loss(history, across, steps),
        *_rate(history, across, steps),
        *(
            svg_text(across(step), RATE_BOTTOM + 22, f"{step:,.0f}", anchor="middle", cls="second" if i % 2 else None)
            for i, step in enumerate(steps)
        ),
        svg_text((LEFT + RIGHT) / 2, HEIGHT - 6, _step_label(history), anchor="middle"),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f"aria-label={quoteattr('Loss curves. ' + words)}>"
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _loss(history: History, across: Scale, steps: list[float]) -> list[str]:
    training = thinned(history.training)
    values = [value for _, value in [*training, *history.validation]]
    marks = ticks(min(values), max(values)) if values else [0.0, 1.0]
    up = Scale(marks[0], marks[-1], LOSS_BOTTOM, LOSS_TOP)
    parts = _frame(up, marks, across, steps, _plain(marks))
    parts += _legend(history)
    if training:
        parts.append(_path(training, across, up, "train"))
    if history.validation:
        parts.append(_path(history.validation, across, up, "valid"))
    parts += [svg_tag("circle", cls="dot", cx=across(x), cy=up(y), r=3) for x, y in history.validation]
    if history.best:
        parts += _best(history.best, across, up)
    return parts


def _rate(history: History, across: Scale, steps: list[float]) -> list[str]:
    rates = thinned(history.learning_rate)
    if not rates:
        return []
    top = max(value for _, value in rates) or 1.0
    up = Scale(0, top, RATE_BOTTOM, RATE_TOP)
    parts = _frame(up, [0, top], across, steps, scientific)
    parts.append(svg_text(LEFT, RATE_TOP - 10, "learning rate", cls="name"))
    parts.append(_path(rates, across, up, "rate"))
    return parts


def _frame(
    up: Scale,
    marks: Sequence[float],
    across: Scale,
    steps: Sequence[float],
    label: Callable[[float], str],
) -> list[str]:
    """Horizontal rules with their numbers, and short strokes at the steps below them."""
    parts = []
    for i, mark in enumerate(marks):
        y = up(mark)
        parts.append(svg_tag("line", cls="rule", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(
            svg_text(LEFT - 10, y + 4, label(mark), anchor="end", cls="second" if i % 2 and len(marks) > 4 else None)
        )
    parts += [svg_tag("line", cls="rule", x1=across(s), y1=up.start, x2=across(s), y2=up.start + 5) for s in steps]
    return parts


def _legend(history: History) -> list[str]:
    parts, x = [], LEFT
    for name, kind, there in (
        ("training loss", "train", history.training),
        ("validation loss", "valid", history.validation),
    ):
        if there:
            parts.append(svg_tag("line", cls=f"line {kind}", x1=x, y1=20, x2=x + 24, y2=20))
            parts.append(svg_text(x + 32, 25, name, cls="name"))
            x += 170
    return parts


def _best(best: Point, across: Scale, up: Scale) -> list[str]:
    x, y = across(best[0]), up(best[1])
    anchor, shift = ("end", -10) if x > (LEFT + RIGHT) / 2 else ("start", 10)
    return [
        svg_tag("line", cls="best", x1=x, y1=LOSS_TOP, x2=x, y2=LOSS_BOTTOM),
        svg_tag("circle", cls="ring", cx=x, cy=y, r=5.5),
        svg_text(x + shift, LOSS_TOP + 18, f"best {best[1]:.3f} at step {best[0]:,}", anchor=anchor, cls="name"),
    ]


def _step_label(history: History) -> str:
    return f"step ({history.epochs:.3g} epoch{'s' * (history.epochs != 1)})" if history.epochs else "step"


def _plain(marks: Sequence[float]) -> Callable[[float], str]:
    """All numbers of an axis with as many decimals as the step between them needs."""
    step = marks[1] - marks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return lambda value: f"{value:,.{digits}f}"


def _path(points: Sequence[tuple[float, float]], across: Scale, up: Scale, kind: str) -> str:
    spots = " L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)
    return svg_tag("path", cls=f"line {kind}", d=f"M{spots}")


def svg_tag(name: str, cls: str, **attributes: float | str) -> str:
    """An empty element; coordinates keep one decimal, so that the bytes do not hang on the last bit of a float."""
    values = {key: f"{value:.1f}" if isinstance(value, float) else str(value) for key, value in attributes.items()}
    return f'<{name} class="{cls}" ' + " ".join(f"{key}={quoteattr(value)}" for key, value in values.items()) + "/>"


def svg_text(x: float, y: float, words: str, anchor: str = "start", cls: str | None = None) -> str:
    """A line of text, escaped."""
    kind = f' class="{cls}"' if cls else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'
