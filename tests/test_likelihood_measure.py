"""Perplexity and its kin from sums of nats and counts of tokens, by hand."""

import math

import numpy as np
import pytest

from snaketune.scoring.likelihood import Likelihood, calibration

SUM = dict.fromkeys(Likelihood.COLUMNS, 0.0) | {
    "n_tokens": 8.0,
    "nll": 12.0,
    "n_tokens_full": 20.0,
    "nll_full": 50.0,
    "n_bytes": 40.0,
    "nll_text": 10.0,
    "n_correct": 3.0,
    "n_top5": 6.0,
    "entropy": 18.0,
    "bin2_n": 5.0,
    "bin2_confidence": 1.25,
    "bin2_correct": 2.0,  # 0.25 sure, 0.4 right
    "bin9_n": 3.0,
    "bin9_confidence": 2.85,
    "bin9_correct": 1.0,  # 0.95 sure, a third right
}


def test_the_scores_are_quotients_of_sums():
    scores = Likelihood().aggregate({name: np.float64(value) for name, value in SUM.items()}, np.float64(4))
    assert set(scores) == set(Likelihood.METRICS) == set(Likelihood.HIGHER_IS_BETTER) == set(Likelihood().signature())
    assert scores["perplexity"] == pytest.approx(math.exp(1.5))
    assert scores["perplexity_full"] == pytest.approx(math.exp(2.5))
    assert scores["bits_per_byte"] == pytest.approx(10 / math.log(2) / 40)
    assert scores["token_accuracy"] == pytest.approx(37.5)
    assert scores["token_accuracy_top5"] == pytest.approx(75)
    assert scores["entropy"] == pytest.approx(2.25)
    assert scores["calibration_error"] == pytest.approx(100 * (5 / 8 * 0.15 + 3 / 8 * (0.95 - 1 / 3)))


def test_scores_of_resampled_corpora_have_the_shape_of_their_sums():
    sums = {name: np.full((3, 2), value) for name, value in SUM.items()}
    scores = Likelihood().aggregate(sums, np.full((3, 2), 4.0))
    assert all(values.shape == (3, 2) for values in scores.values())
    nothing = Likelihood().aggregate({name: np.zeros(2) for name in SUM}, np.zeros(2))
    assert all(np.isnan(values).all() for values in nothing.values())


def test_a_row_has_no_calibration_of_its_own():
    scores = Likelihood().row_scores({name: np.array([value]) for name, value in SUM.items()})
    assert set(scores) == set(Likelihood.METRICS) - {"calibration_error"}
    assert scores["perplexity"] == pytest.approx(math.exp(1.5))


def test_the_bars_of_the_reliability_diagram():
    bars = calibration(SUM)
    assert [bar["n"] for bar in bars] == [0, 0, 5, 0, 0, 0, 0, 0, 0, 3]
    assert bars[2] == {"n": 5, "confidence": 0.25, "accuracy": 0.4}
    assert bars[9] == {"n": 3, "confidence": pytest.approx(0.95), "accuracy": pytest.approx(1 / 3)}
    assert bars[0] == {"n": 0, "confidence": None, "accuracy": None}


def test_a_signature_tells_the_window_and_the_stride():
    for line in Likelihood().signature().values():
        assert "|window of a text:model positions|stride:window|dtype:fp32" in line
    for line in Likelihood({"window": 512, "stride": 64}).signature().values():
        assert "|window of a text:512|stride:64|dtype:fp32" in line
