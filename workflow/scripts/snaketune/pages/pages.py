"""What the pages share: numbers in words, names of the metrics, safe text, and the rendering of a template.

Every text of the data is hostile until escaped. The HTML templates escape all they print; on top of that the pages
carry a content security policy that allows no script but, by its hash, the one that sorts tables. So nothing of the
data could run even if it slipped through.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape


@dataclass(frozen=True)
class Shown:
    """How pages show a metric: its name, decimals, group, whether it leads its group, and the axis of the plot."""

    name: str
    digits: int
    group: str
    main: bool = False
    axis: str | None = None


# In the order of the pages. Metrics on one axis share a scale: "score" runs from 0 to 100.
METRICS: dict[str, Shown] = {
    "perplexity": Shown("Perplexity", 2, "likelihood", True, "perplexity"),
    "bits_per_byte": Shown("Bits per byte", 3, "likelihood", True, "bits per byte"),
    "token_accuracy": Shown("Token accuracy", 2, "likelihood", True, "score"),
    "perplexity_full": Shown("Perplexity with the prompt", 2, "likelihood"),
    "token_accuracy_top5": Shown("Top-5 token accuracy", 2, "likelihood"),
    "entropy": Shown("Entropy (nats per token)", 3, "likelihood"),
    "calibration_error": Shown("Calibration error (ECE)", 2, "likelihood"),
    "bleu": Shown("BLEU", 2, "answers", True, "score"),
    "chrf": Shown("chrF", 2, "answers", True, "score"),
    "rougeL": Shown("ROUGE-L", 2, "answers", True, "score"),
    "exact_match": Shown("Exact match", 2, "answers", True, "score"),
    "rouge1": Shown("ROUGE-1", 2, "answers"),
    "rouge2": Shown("ROUGE-2", 2, "answers"),
    "rougeLsum": Shown("ROUGE-Lsum", 2, "answers"),
    "token_f1": Shown("Token F1", 2, "answers"),
    "ter": Shown("TER", 2, "answers"),
    "accuracy": Shown("Accuracy", 2, "classification", True, "score"),
    "f1_macro": Shown("Macro F1", 2, "classification", True, "score"),
    "unrecognized": Shown("Unrecognized answers", 2, "classification", True, "score"),
    "precision_macro": Shown("Macro precision", 2, "classification"),
    "recall_macro": Shown("Macro recall", 2, "classification"),
    "precision_micro": Shown("Micro precision", 2, "classification"),
    "recall_micro": Shown("Micro recall", 2, "classification"),
    "f1_micro": Shown("Micro F1", 2, "classification"),
    "length_ratio": Shown("Length ratio", 3, "diversity", True),
    "distinct_2": Shown("Distinct-2", 2, "diversity", True),
    "repetition": Shown("Repetition", 2, "diversity", True),
    "train_overlap": Shown("Overlap with training rows", 2, "diversity", True),
    "distinct_1": Shown("Distinct-1", 2, "diversity"),
    "self_bleu": Shown("Self-BLEU", 2, "diversity"),
    "prompt_overlap": Shown("Overlap with the prompt", 2, "diversity"),
    "general_perplexity": Shown("Perplexity of general text", 2, "probes", True, "perplexity"),
    "bias_likelihood_gap": Shown("Likelihood gap (nats)", 3, "probes", True),
    "bias_output_difference": Shown("Output difference", 2, "probes", True),
    "general_bits_per_byte": Shown("Bits per byte of general text", 3, "probes"),
}
NONE = "–"
MINUS = "−"
# Control characters as their pictures; those that reverse the direction of what follows, by their numbers.
CONTROL: dict[int, int | str] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
CONTROL |= {code: f"[U+{code:04X}]" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def label(metric: str) -> str:
    """The name of a metric for people; a metric of the user's own keeps the name that it has."""
    return METRICS[metric].name if metric in METRICS else metric


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
    return number(value, METRICS[metric].digits if metric in METRICS else 3, sign)


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
    """Better, worse or unclear: does the 95 % interval of the difference leave zero on one side?

    Of a metric of which neither direction is better: higher, lower or unclear.
    """
    bounds = entry.get("ci95")
    if not bounds or any(bound is None or math.isnan(bound) for bound in bounds):
        return "unclear"
    if bounds[0] <= 0 <= bounds[1]:
        return "unclear"
    if entry["higher_is_better"] is None:
        return "higher" if bounds[0] > 0 else "lower"
    return "better" if (bounds[0] > 0) == entry["higher_is_better"] else "worse"


def direction(entry: dict[str, Any]) -> str:
    """Which way of a metric is the better one."""
    return {True: "higher is better", False: "lower is better", None: "neither is better"}[entry["higher_is_better"]]


def visible(text: Any) -> str:
    """Text whose control characters can be seen; a page cannot hold them otherwise."""
    return str(text).translate(CONTROL)


def clipped(text: Any, most: int = 90) -> str:
    """A name of the data, visible and not longer than a name should be."""
    shown = visible(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def coded(text: Any) -> Markup:
    """A sentence of ours or of the data as HTML: escaped, and what stands in `backticks` as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


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
        direction,
        visible,
        clipped,
        coded,
        code_span,
        code_cell,
        code_block,
    )
    environment.filters.update({function.__name__: function for function in names})
    environment.globals["style"] = lambda: Markup((template.parent / "style.css").read_text(encoding="utf-8"))
    environment.globals["sorting"] = lambda: sorting(template.parent / "sort.js")
    return environment.get_template(template.name).render(**values)


def sorting(script: Path) -> dict[str, Markup]:
    """The script that sorts tables, and what the content security policy calls it."""
    text = script.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
    return {"element": Markup(f"<script>{text}</script>"), "source": Markup(f"'sha256-{digest}'")}
