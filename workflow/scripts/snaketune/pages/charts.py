"""Charts without a plotting library: scales, ticks and a few hundred bytes of SVG.

Matplotlib would cost a second of import, half a megabyte of fonts and colours that suit one background only. Here the
same numbers always give the same bytes, the text stays text, and the colours follow the reader's light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from snaketune.pages.history import History, Point, mean

WIDTH = 720
LEFT, RIGHT = 84, 692
LOSS_TOP, LOSS_BOTTOM = 66, 286
PANEL, BETWEEN = 54, 44  # the height of a small drawing below the loss, and the room above it for its name
FEWEST_BUCKETS, MOST_BUCKETS = 60, 300
FEW_STEPS = 5  # in a bucket, where there are enough steps for that
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
.curves .band { fill: var(--train); fill-opacity: .18; }
.curves .valid { stroke: var(--valid); stroke-width: 2.25; }
.curves .rate { stroke: var(--soft); stroke-width: 1.5; }
.curves .dot { fill: var(--valid); }
.curves .base { fill: var(--paper); stroke: var(--valid); stroke-width: 2; }
.curves .level { stroke: var(--valid); stroke-width: 1; stroke-dasharray: 6 4; opacity: .6; }
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


@dataclass(frozen=True)
class Bucket:
    """A run of neighbouring training steps: their middle, their mean loss by tokens, the lowest and the highest."""

    step: float
    mean: float
    low: float
    high: float


def buckets(history: History) -> list[Bucket]:
    """The training loss in at most MOST_BUCKETS runs of equally many steps, so that its line is smooth and small.

    A short training has runs of a few steps, as long as FEWEST_BUCKETS of them remain; a shorter one has each step.
    """
    count = len(history.training)
    size = max(1, min(FEW_STEPS, count // FEWEST_BUCKETS), math.ceil(count / MOST_BUCKETS))
    made = []
    for start in range(0, count, size):
        run, weights = history.training[start : start + size], history.weights[start : start + size]
        losses = [loss for _, loss in run]
        middle = sum(step for step, _ in run) / len(run)
        made.append(Bucket(middle, mean(list(zip(losses, weights, strict=True)))[0], min(losses), max(losses)))
    return made


def thinned(points: Sequence[Point], most: int = MOST_BUCKETS) -> list[tuple[float, float]]:
    """At most about `most` points: every so many-th, and always the first and the last."""
    size = math.ceil(len(points) / most) or 1
    return [*points[:-1:size], *points[-1:]]


def curves(history: History, words: str) -> str:
    """Training and validation loss against step, the base model and the best evaluation marked: an SVG.

    Below it the validation accuracy, where it was measured, and the learning rate.
    """
    last = max((step for series in (history.training, history.validation) for step, _ in series), default=1)
    steps = [tick for tick in ticks(0, max(last, 1), 6) if tick <= last and tick == int(tick)]
    across = Scale(0, max(last, 1), LEFT, RIGHT)
    parts, bottom = _loss(history, across, steps), LOSS_BOTTOM
    for panel in (_accuracy, _rate):
        if drawn := panel(history, across, steps, bottom + BETWEEN):
            parts += drawn
            bottom += BETWEEN + PANEL
    height = bottom + 54
    parts += [
        svg_text(across(step), bottom + 22, f"{step:,.0f}", anchor="middle", cls="second" if i % 2 else None)
        for i, step in enumerate(steps)
    ]
    parts.append(svg_text((LEFT + RIGHT) / 2, height - 6, _step_label(history), anchor="middle"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" viewBox="0 0 {WIDTH} {height}" role="img" '
        f"aria-label={quoteattr('Loss curves. ' + words)}>"
    )
    told = [f"<title>{escape('Loss and learning rate against step')}</title>", f"<desc>{escape(words)}</desc>"]
    paper = svg_tag("rect", cls="paper", width=WIDTH, height=height)
    return "\n".join([head, *told, f"<style>{STYLE}</style>", paper, *parts, "</svg>"]) + "\n"


def _loss(history: History, across: Scale, steps: list[float]) -> list[str]:
    training = buckets(history)
    values = [bucket.mean for bucket in training] + [loss for _, loss in history.validation]
    marks = ticks(min(values), max(values)) if values else [0.0, 1.0]
    up = Scale(marks[0], marks[-1], LOSS_BOTTOM, LOSS_TOP)
    parts = _frame(up, marks, across, steps, _plain(marks))
    if any(bucket.low < bucket.high for bucket in training):
        parts.append(_band(training, across, up))
    parts += _legend(history)
    if training:
        parts.append(_path([(bucket.step, bucket.mean) for bucket in training], across, up, "train"))
    if history.validation:
        parts.append(_path(history.validation, across, up, "valid"))
    parts += [svg_tag("circle", cls="dot", cx=across(x), cy=up(y), r=3) for x, y in history.trained]
    return parts + _marks(history, across, up)


def _accuracy(history: History, across: Scale, steps: list[float], top: float) -> list[str]:
    """The share of validation tokens that the model would have chosen itself, in per cent."""
    points = [(step, 100 * share) for step, share in history.accuracy]
    if not points:
        return []
    shares = [share for _, share in points]
    marks = ticks(min(shares), max(shares), 2)
    marks = [marks[0], marks[-1]]
    up = Scale(marks[0], marks[-1], top + PANEL, top)
    parts = _frame(up, marks, across, steps, lambda share: f"{share:,.10g}\u00a0%")
    parts.append(svg_text(LEFT, top - 10, "validation accuracy, of tokens", cls="name"))
    parts.append(_path(points, across, up, "valid"))
    return parts + [svg_tag("circle", cls="dot", cx=across(x), cy=up(y), r=2.5) for x, y in points]


def _rate(history: History, across: Scale, steps: list[float], top: float) -> list[str]:
    rates = thinned(history.learning_rate)
    if not rates:
        return []
    most = max(value for _, value in rates) or 1.0
    up = Scale(0, most, top + PANEL, top)
    parts = _frame(up, [0, most], across, steps, lambda rate: "" if rate else "0")
    parts.append(svg_text(LEFT, top - 10, f"learning rate, up to {scientific(most)}", cls="name"))
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
    """What is what, and the two numbers that count: in two rows, where letters have room to grow."""
    entries = []
    if history.training:
        entries.append((0, 0, "training loss", svg_tag("line", cls="line train", x1=0, y1=0, x2=24, y2=0)))
    if history.validation:
        entries.append((1, 0, "validation loss", svg_tag("line", cls="line valid", x1=0, y1=0, x2=24, y2=0)))
    if history.base:
        level = svg_tag("line", cls="level", x1=0, y1=0, x2=24, y2=0) + svg_tag("circle", cls="base", cx=12, cy=0, r=4)
        entries.append((0, 1, f"base model {history.base[1]:.3f}", level))
    if history.best:
        step, loss = history.best
        ring = svg_tag("circle", cls="ring", cx=12, cy=0, r=5.5)
        entries.append((1, 1, f"best {loss:.3f} at step {step:,}", ring))
    parts = []
    for column, row, name, sign in entries:
        x, y = LEFT + 290 * column, 16 + 26 * row
        parts.append(f'<g transform="translate({x} {y})">{sign}</g>')
        parts.append(svg_text(x + 32, y + 5, name, cls="name"))
    return parts


def _marks(history: History, across: Scale, up: Scale) -> list[str]:
    """The base model's loss, as a level that the training is held against, and the best evaluation."""
    parts = []
    if history.base:
        y = up(history.base[1])
        parts.append(svg_tag("line", cls="level", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(svg_tag("circle", cls="base", cx=LEFT, cy=y, r=4))
    if history.best:
        x, y = across(history.best[0]), up(history.best[1])
        parts.append(svg_tag("line", cls="best", x1=x, y1=LOSS_TOP, x2=x, y2=LOSS_BOTTOM))
        parts.append(svg_tag("circle", cls="ring", cx=x, cy=y, r=5.5))
    return parts


def _step_label(history: History) -> str:
    return f"step ({history.epochs:.3g} epoch{'s' * (history.epochs != 1)})" if history.epochs else "step"


def _plain(marks: Sequence[float]) -> Callable[[float], str]:
    """All numbers of an axis with as many decimals as the step between them needs."""
    step = marks[1] - marks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return lambda value: f"{value:,.{digits}f}"


def _band(training: Sequence[Bucket], across: Scale, up: Scale) -> str:
    """From the lowest to the highest step of each bucket; what lies beyond the frame is cut there."""
    corners = [(bucket.step, bucket.high) for bucket in training]
    corners += [(bucket.step, bucket.low) for bucket in reversed(training)]
    spots = (f"{across(step):.1f} {min(max(up(loss), LOSS_TOP), LOSS_BOTTOM):.1f}" for step, loss in corners)
    return svg_tag("path", cls="band", d=f"M{' L'.join(spots)}Z")


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
