"""The measures of a run: those of the answers (modules of `workflow/metrics/`) and those of the likelihood.

A measure is known by its sums. Each row has a few numbers, its statistics; a score of a corpus is a function of their
sums (and of the number of rows). So a corpus that is resampled a thousand times is scored by one matrix product, and
what is published and what is resampled come from one formula.

`import evaluate` costs 5 s and 500 MB, because it imports all of transformers; so it is imported where answers are
measured, and nowhere else. compare.py needs only the formulas, but pays for it once a run: the modules must be whole
by themselves to be loaded by `evaluate.load`, and a second copy of the formulas could drift from the first.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Statistics = Mapping[str, np.ndarray]

MODULES = Path(__file__).resolve().parents[2] / "metrics"
LOWER_IS_BETTER = frozenset({"perplexity", "perplexity_full", "bits_per_byte"})
LIKELIHOOD_SIGNATURES = {
    "perplexity": "exp(nats/tokens)|scored:completion and its appended end|given:prompt, else bos",
    "perplexity_full": "exp(nats/tokens)|scored:prompt, completion and its appended end|given:bos where no prompt",
    "bits_per_byte": "nats/ln2/bytes|scored:completion|given:prompt, else bos|bytes:utf-8 of the scored text",
    "token_accuracy": "100*top1/tokens|scored:completion and its appended end|given:prompt, else bos",
}
HEADLINE = {"perplexity": "perplexity", "bleu": "BLEU", "rougeL": "ROUGE-L"}


class Measure(Protocol):
    """What compare.py asks of a measure: arrays of any one shape in, arrays of that shape out."""

    METRICS: tuple[str, ...]

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora of `n` rows whose statistics sum to `sums`."""
        ...

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Scores of each row for itself."""
        ...


class Likelihood:
    """Perplexity and its kin, from the nats that the model paid for each row.

    Sums are divided once, at the end: the mean of the rows' perplexities would be another number, and a larger one.
    """

    METRICS = ("perplexity", "perplexity_full", "bits_per_byte", "token_accuracy")
    COLUMNS = ("n_tokens", "nll", "n_tokens_full", "nll_full", "n_bytes", "nll_text", "n_correct")

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora whose statistics sum to `sums`; one that overflows or divides by 0 is inf or nan."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return {
                "perplexity": np.exp(sums["nll"] / sums["n_tokens"]),
                "perplexity_full": np.exp(sums["nll_full"] / sums["n_tokens_full"]),
                "bits_per_byte": sums["nll_text"] / (np.log(2) * sums["n_bytes"]),
                "token_accuracy": 100.0 * sums["n_correct"] / sums["n_tokens"],
            }

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Scores of each row for itself."""
        return self.aggregate(statistics, np.float64(1))


def load(settings: Mapping[str, Any], modules: Path = MODULES) -> dict[str, Any]:
    """The modules that the `score` section names, each with its options: name -> evaluate.Metric of ours.

    Nothing is fetched, and nothing is kept. evaluate copies a module into a cache before it imports it, under a hash
    that overlooks what stands behind a `#`; our cache is a folder of this process alone, so that an edited module is
    never served stale, two jobs never meet, and nobody's home is written to.
    """
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    import evaluate

    options = {"bleu": {"tokenizer": settings["bleu_tokenizer"]}, "rouge": {"stemmer": settings["rouge_stemmer"]}}
    cache = Path(_cache().name)
    evaluate.config.HF_MODULES_CACHE = cache / "modules"
    return {
        name: evaluate.load(
            str(modules / name), keep_in_memory=True, cache_dir=str(cache / "data"), **options.get(name, {})
        )
        for name in settings["metrics"]
    }


@functools.cache
def _cache() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="snaketune-metrics-")


def signatures(modules: Mapping[str, Any]) -> dict[str, str]:
    """How each published metric is computed, in a line that another person can reproduce: metric -> signature."""
    return LIKELIHOOD_SIGNATURES | {name: module.signature() for module in modules.values() for name in module.METRICS}


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
