"""What the pages share: numbers in words, names of the metrics, safe text, and the rendering of a template.

Every text of the data is hostile until escaped. The HTML templates escape all they print; on top of that the pages
carry a content security policy without scripts, so that nothing could run even if it slipped through.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from snaketune.pages.charts import Scale, log_ticks, ticks

# What a metric is called, its decimals, and the axis that it can share with others.
METRICS: dict[str, tuple[str, int, str]] = {
    "perplexity": ("Perplexity", 2, "perplexity"),
    "perplexity_full": ("Perplexity, prompt included", 2, "perplexity"),
    "bits_per_byte": ("Bits per byte", 3, "bits per byte"),
    "token_accuracy": ("Token accuracy", 2, "score"),
    "bleu": ("BLEU", 2, "score"),
    "chrf": ("chrF", 2, "score"),
    "rouge1": ("ROUGE-1", 2, "score"),
    "rouge2": ("ROUGE-2", 2, "score"),
    "rougeL": ("ROUGE-L", 2, "score"),
    "rougeLsum": ("ROUGE-Lsum", 2, "score"),
    "exact_match": ("Exact match", 2, "score"),
}
NONE = "–"
MINUS = "−"
CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def label(metric: str) -> str:
    """The name of a metric for people; a metric of the user's own keeps the name that it has."""
    return METRICS[metric][0] if metric in METRICS else metric


def ordered(metrics: dict[str, Any]) -> list[str]:
    """The names of metrics in the order in which pages show them."""
    known = [name for name in METRICS if name in metrics]
    return known + sorted(set(metrics) - set(known))


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed decimals, a true minus and thousands; fewer decimals from 100 on. None is a dash."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    digits = min(digits, 9 if abs(value) < 99.995 else 1 if abs(value) < 999.95 else 0)
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def short(value: float | None) -> str:
    """A number with three significant digits, for sentences."""
    if value is None or not math.isfinite(value) or value == 0:
        return number(value, 0)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return number(round(value, digits), min(digits, 4))


def trimmed(value: float | None) -> str:
    """A number as short as it can be told: a whole one without decimals, any other with three significant digits."""
    whole = value is not None and math.isfinite(value) and value == int(value)
    return number(value, 0) if whole else short(value)


def measured(value: float | None, metric: str, sign: bool = False) -> str:
    """A value of a metric with the decimals that suit it."""
    return number(value, METRICS.get(metric, ("", 3, ""))[1], sign)


def interval(bounds: list[float] | None, metric: str, sign: bool = False) -> str:
    """[lo, hi] of a metric as "lo to hi"."""
    if not bounds or any(bound is None for bound in bounds):
        return NONE
    return f"{measured(bounds[0], metric, sign)} to {measured(bounds[1], metric, sign)}"


def p_value(p: float | None) -> str:
    """A p value with three decimals; what is smaller is said to be smaller."""
    if p is None or math.isnan(p):
        return NONE
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}"


def percent(part: float, whole: float) -> str:
    """A share in words; small shares do not become 0 %."""
    share = part / whole if whole else 0.0
    return "<\u00a00.1\u00a0%" if 0 < share < 0.001 else f"{share * 100:.1f}\u00a0%"


def outcome(entry: dict[str, Any]) -> str:
    """Better, worse or unclear: does the 95 % interval of the difference leave zero on one side?"""
    bounds = entry.get("ci95")
    if not bounds or any(bound is None or math.isnan(bound) for bound in bounds):
        return "unclear"
    if bounds[0] <= 0 <= bounds[1]:
        return "unclear"
    return "better" if (bounds[0] > 0) == entry["higher_is_better"] else "worse"


def visible(text: Any) -> str:
    """Text whose control characters can be seen; a page cannot hold them otherwise."""
    return str(text).translate(CONTROL)


def code_span(text: Any) -> str:
    """Any text as a Markdown code span of one line: nothing in it is read as Markdown or HTML."""
    line = " ".join(visible(text).split()) or " "
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def code_cell(text: Any) -> str:
    """A code span inside a Markdown table."""
    return code_span(text).replace("|", "\\|")


def code_block(text: str, language: str = "") -> str:
    """Any text as a fenced Markdown block that it cannot leave."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def tracks(metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The interval plot: one axis for each kind of metric; positions are percentages of the width."""
    groups: dict[str, list[str]] = {}
    for name in ordered(metrics):
        if metrics[name].get("base_ci95") and metrics[name].get("tuned_ci95"):
            groups.setdefault(METRICS.get(name, ("", 3, name))[2], []).append(name)
    return [group for axis, names in groups.items() if (group := _axis(axis, names, metrics))]


def _axis(axis: str, names: list[str], metrics: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    spans = {n: [metrics[n][who] for who in ("base", "tuned")] + _bounds(metrics[n]) for n in names}
    spans = {n: v for n, v in spans.items() if all(x is not None and math.isfinite(x) for x in v)}
    if not spans:
        return None
    low, high = min(map(min, spans.values())), max(map(max, spans.values()))
    log = axis == "perplexity" and low > 0
    marks = log_ticks(low, high) if log else ticks(0.0 if axis == "score" else low, high, 4)
    at = Scale(marks[0], marks[-1], 1.0, 99.0, log)
    return {
        "axis": axis + (" (logarithmic)" if log else ""),
        "direction": "higher is better" if metrics[next(iter(spans))]["higher_is_better"] else "lower is better",
        "marks": [(round(at(mark), 2), f"{mark:,.10g}") for mark in marks],
        "rows": [
            {
                "name": name,
                "base": [round(at(x), 2) for x in (v[0], *v[2:4])],
                "tuned": [round(at(x), 2) for x in (v[1], *v[4:6])],
            }
            for name, v in spans.items()
        ],
    }


def _bounds(entry: dict[str, Any]) -> list[float]:
    return [*entry["base_ci95"], *entry["tuned_ci95"]]


def render(template: str | Path, **values: Any) -> str:
    """Render a template of workflow/report/. HTML escapes everything; a name that is missing is an error."""
    template = Path(template)
    html = template.name.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = (
        label,
        number,
        short,
        trimmed,
        measured,
        interval,
        p_value,
        percent,
        outcome,
        visible,
        code_span,
        code_cell,
        code_block,
    )
    environment.filters.update({function.__name__: function for function in names})
    environment.globals["style"] = lambda: Markup((template.parent / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(**values)
