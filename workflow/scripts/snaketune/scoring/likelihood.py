"""The measures of the likelihood: perplexity and its kin, from the nats that a model paid for each row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

Statistics = Mapping[str, np.ndarray]

BINS = 10
EDGES = np.arange(BINS + 1) / BINS  # of the confidence; bin k is (EDGES[k], EDGES[k + 1]]
UNSET = MappingProxyType({"window": None, "stride": None})


class Likelihood:
    """Perplexity, accuracy, entropy and calibration of the tokens that the test rows are made of.

    Sums are divided once, at the end: the mean of the rows' perplexities would be another number, and a larger one.
    The calibration error is the expected one of Guo et al. 2017 over ten bins of equal width. It has no score by row:
    of a few tokens, some bins are always off.
    """

    METRICS = (
        "perplexity",
        "perplexity_full",
        "bits_per_byte",
        "token_accuracy",
        "token_accuracy_top5",
        "entropy",
        "calibration_error",
    )
    HIGHER_IS_BETTER: Mapping[str, bool | None] = MappingProxyType(
        {
            "perplexity": False,
            "perplexity_full": False,
            "bits_per_byte": False,
            "token_accuracy": True,
            "token_accuracy_top5": True,
            "entropy": None,
            "calibration_error": False,
        }
    )
    COLUMNS = (
        *("n_tokens", "nll", "n_tokens_full", "nll_full", "n_bytes", "nll_text", "n_correct", "n_top5", "entropy"),
        *(f"bin{k}_{name}" for k in range(BINS) for name in ("n", "confidence", "correct")),
    )

    def __init__(self, windows: Mapping[str, int | None] = UNSET) -> None:
        """windows: the settings `window` and `stride`, as the likelihood's file has them in its metadata."""
        self.windows = dict(windows)

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora whose statistics sum to `sums`; one that overflows or divides by 0 is inf or nan."""
        tokens = sums["n_tokens"]
        gaps = sum(np.abs(sums[f"bin{k}_confidence"] - sums[f"bin{k}_correct"]) for k in range(BINS))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return {
                "perplexity": np.exp(sums["nll"] / tokens),
                "perplexity_full": np.exp(sums["nll_full"] / sums["n_tokens_full"]),
                "bits_per_byte": sums["nll_text"] / (np.log(2) * sums["n_bytes"]),
                "token_accuracy": 100.0 * sums["n_correct"] / tokens,
                "token_accuracy_top5": 100.0 * sums["n_top5"] / tokens,
                "entropy": sums["entropy"] / tokens,
                "calibration_error": 100.0 * gaps / tokens,
            }

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Scores of each row for itself."""
        scores = self.aggregate(statistics, np.float64(1))
        del scores["calibration_error"]
        return scores

    def signature(self) -> dict[str, str]:
        """How each metric is computed, in a line that another person can reproduce: metric -> signature."""
        window, stride = self.windows["window"] or "model positions", self.windows["stride"] or "window"
        way = f"window of a text:{window}|stride:{stride}|dtype:fp32"
        given = f"scored:completion and its appended end|given:prompt, else bos|{way}"
        return {
            "perplexity": f"exp(nats/tokens)|{given}",
            "perplexity_full": "exp(nats/tokens)|scored:prompt but its first token, completion and its appended end|"
            f"given:bos where no prompt|{way}",
            "bits_per_byte": f"nats/ln2/bytes|scored:completion|given:prompt, else bos|{way}|bytes:utf-8",
            "token_accuracy": f"100*top1/tokens|{given}|ties:lower id",
            "token_accuracy_top5": f"100*top5/tokens|{given}|ties:lower id",
            "entropy": f"nats of the foretold distribution/tokens|{given}",
            "calibration_error": f"100*sum(abs(correct-confidence) of a bin)/tokens|{given}|bins:{BINS} of equal width",
        }


def calibration(sums: Mapping[str, Any]) -> list[dict[str, float | int | None]]:
    """The bars of a reliability diagram: of each bin the tokens, their mean confidence, and the share that was right.

    sums: the sums of the statistics over a corpus. Shares are from 0 to 1, and null in a bin without tokens.
    """
    bars: list[dict[str, float | int | None]] = []
    for k in range(BINS):
        n = int(sums[f"bin{k}_n"])
        confidence, correct = float(sums[f"bin{k}_confidence"]), float(sums[f"bin{k}_correct"])
        bars.append({"n": n, "confidence": confidence / n if n else None, "accuracy": correct / n if n else None})
    return bars
