"""The measures of a run: what one is, how those of the answers are loaded, and the few numbers that a terminal shows.

A measure is known by its sums. Each row has a few numbers, its statistics; a score of a corpus is a function of their
sums (and of the number of rows). So a corpus that is resampled a thousand times is scored by one matrix product, and
what is published and what is resampled come from one formula.

A text measure is the class `Measure` of `workflow/metrics/<name>/measure.py`: numpy and its own library. Beside it
`<name>.py` makes an evaluate.Metric of it, for anybody else. Here the class is taken by itself, because
`import evaluate` costs 5 s and 500 MB: it imports all of transformers.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

Statistics = Mapping[str, np.ndarray]

MODULES = Path(__file__).resolve().parents[3] / "metrics"
HEADLINE = {"perplexity": "perplexity", "bleu": "BLEU", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class Answers:
    """The answers of one model, row by row, and what they are measured against."""

    outputs: Sequence[str]
    references: Sequence[str]
    prompts: Sequence[str]  # "" where a row has none
    labels: Sequence[str | None]
    train: tuple[str, ...] = ()  # Parquet files of the rows that were trained on

    def __post_init__(self) -> None:
        rows = {field.name: len(getattr(self, field.name)) for field in fields(self) if field.name != "train"}
        if len(set(rows.values())) > 1:
            raise ValueError(f"each answer needs its own of everything, but there are {rows}")
        if not len(self.outputs):
            raise ValueError("there is nothing to score: no answers")


@runtime_checkable
class Measure(Protocol):
    """Arrays of any one shape in, arrays of that shape out; no score of a corpus is nan or infinite."""

    METRICS: tuple[str, ...]
    HIGHER_IS_BETTER: Mapping[str, bool | None]  # None: neither is better

    def statistics(self, answers: Answers) -> Statistics:
        """Numbers of every row: column -> float64 [rows]. Of text measures only."""
        ...

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora of `n` rows whose statistics sum to `sums`. A column that is not there sums to 0."""
        ...

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Scores of each row for itself; a metric that has none by row is left out."""
        ...

    def signature(self) -> dict[str, str]:
        """What another person must know to get the same numbers: metric -> one line."""
        ...


def load(
    settings: Mapping[str, Any], classes: Sequence[str] | None = None, modules: Path = MODULES
) -> dict[str, Measure]:
    """The text measures that the `score` section names, each with its options: name -> measure.

    classes: what `classification` tells apart, as `classes.found` gives it; scores/*.parquet has it as the metadata
    `classes`, a JSON list. Of a user's own metrics, under `own`, those are here that have statistics by row (own.py
    says which); they alone need evaluate.
    """
    options = {
        "bleu": {"tokenizer": settings["bleu_tokenizer"]},
        "rouge": {"stemmer": settings["rouge_stemmer"]},
        "overlap": {"ngram": settings.get("overlap_ngram", 8)},
        "classification": {"classes": classes},
    }
    found = {name: module(name, modules).Measure(**options.get(name, {})) for name in settings["metrics"]}
    if settings.get("own"):
        from snaketune.scoring import own

        found |= own.measures(settings["own"], found)
    return found


def module(name: str, modules: Path = MODULES) -> Any:
    """The file measure.py of a metric as a module, read as it is now, under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location(f"snaketune_metric_{name}", modules / name / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where compiled kernels look for it
    spec.loader.exec_module(made)
    return made


def signatures(measures: Mapping[str, Measure]) -> dict[str, str]:
    """How each published metric of these measures is computed: metric -> signature."""
    return {metric: line for measure in measures.values() for metric, line in measure.signature().items()}


def directions(measures: Mapping[str, Measure]) -> dict[str, bool | None]:
    """Whether more is better, for each metric of these measures; None where neither is."""
    return {metric: better for measure in measures.values() for metric, better in measure.HIGHER_IS_BETTER.items()}


def table(metrics: Mapping[str, Any]) -> str:
    """The few numbers that a person sees at the end, base beside tuned, as aligned lines; `metrics`: metrics.json."""
    entries = metrics["metrics"]
    lines = [("", "base", "95 %", "tuned", "95 %", "tuned - base", "95 %")]
    lines += [(label, *_cells(entries[name])) for name, label in HEADLINE.items() if name in entries]
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([f"{label:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))])
        for label, *cells in lines
    )


def _cells(entry: Mapping[str, Any]) -> list[str]:
    numbers = [f"{entry['base']:,.2f}", f"{entry['tuned']:,.2f}", f"{entry['delta']:+,.2f}"]
    intervals = ["[{:,.2f}, {:,.2f}]".format(*entry[key]) for key in ("base_ci95", "tuned_ci95", "ci95")]
    return [cell for pair in zip(numbers, intervals, strict=True) for cell in pair]
