"""The measures of answers and of likelihood, held against their authors' own programs and arithmetic by hand."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from snaketune import metrics

SETTINGS = {"metrics": ["bleu", "chrf", "rouge", "exact_match"], "bleu_tokenizer": "13a", "rouge_stemmer": False}
WORDS = [
    "the",
    "model",
    "learns,",
    "a",
    "parser",
    "fails;",
    "results",
    "improve",
    "on",
    "12.5",
    "data",
    "sets",
    "(we",
    "show",
    "that)",
    "neural",
    "naïve",
    "Это",
]


def _texts(rows: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) for _ in range(rows)]


REFERENCES = _texts(60, seed=1)
# answers that share much, little and nothing with their references; one is empty, one is perfect
PREDICTIONS = [
    ref if i % 3 == 0 else " ".join((ref + " " + hyp).split()[1:9])
    for i, (ref, hyp) in enumerate(zip(REFERENCES, _texts(60, seed=2), strict=True))
]
PREDICTIONS[7], PREDICTIONS[8] = "", "wholly different output"


@pytest.fixture(scope="session")
def modules():
    return metrics.load(SETTINGS)


def _compute(module, predictions=PREDICTIONS, references=REFERENCES):
    return module.compute(predictions=list(predictions), references=list(references))


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "none"])
def test_bleu_equals_sacrebleu(tokenizer):
    bleu = metrics.load(SETTINGS | {"metrics": ["bleu"], "bleu_tokenizer": tokenizer})["bleu"]
    expected = sacrebleu.BLEU(tokenize=tokenizer)
    score = expected.corpus_score(PREDICTIONS, [REFERENCES]).score
    assert _compute(bleu)["bleu"] == pytest.approx(score, rel=1e-12)
    assert bleu.signature() == str(expected.get_signature())


def test_chrf_equals_sacrebleu(modules):
    expected = sacrebleu.CHRF()
    score = expected.corpus_score(PREDICTIONS, [REFERENCES]).score
    assert _compute(modules["chrf"])["chrf"] == pytest.approx(score, rel=1e-12)
    assert modules["chrf"].signature() == str(expected.get_signature())


def test_bleu_and_chrf_are_what_the_sacrebleu_program_prints(modules, tmp_path):
    (tmp_path / "hyp.txt").write_text("\n".join(PREDICTIONS) + "\n", encoding="utf-8")
    (tmp_path / "ref.txt").write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    program = [sys.executable, "-m", "sacrebleu", "ref.txt", "-i", "hyp.txt", "-m", "bleu", "chrf", "-b", "-w", "6"]
    printed = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ours = [_compute(modules["bleu"])["bleu"], _compute(modules["chrf"])["chrf"]]
    assert [float(line.strip(' ",[]')) for line in printed.split() if any(map(str.isdigit, line))] == pytest.approx(
        ours, abs=1e-6
    )


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (["a b c"], ["a b c"]),  # no 4-grams: 0, as in sacrebleu
        (["a b x d e"], ["a b c d e"]),  # no 3- and 4-gram hits: both smoothed
        (["x y z w v"], ["a b c d e"]),
        (["", ""], ["a", "b c"]),
        (["a b c d e f"], ["a b"]),
    ],
)
def test_degenerate_corpora_score_as_in_sacrebleu(modules, predictions, references):
    assert _compute(modules["bleu"], predictions, references)["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(predictions, [references]).score
    )
    assert _compute(modules["chrf"], predictions, references)["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(predictions, [references]).score
    )


def test_the_rows_own_bleu_and_chrf_are_sacrebleus_sentence_scores(modules):
    bleu = modules["bleu"].row_scores(modules["bleu"].statistics(PREDICTIONS, REFERENCES))["bleu"]
    chrf = modules["chrf"].row_scores(modules["chrf"].statistics(PREDICTIONS, REFERENCES))["chrf"]
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))
    assert bleu == pytest.approx([sacrebleu.sentence_bleu(hyp, [ref]).score for hyp, ref in pairs])
    assert chrf == pytest.approx([sacrebleu.sentence_chrf(hyp, [ref]).score for hyp, ref in pairs])


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_the_mean_of_rouge_scores_f_on_ascii_text(stemmer):
    """Texts of one line and of several, with the marks that rouge_score treats as white space."""
    rouge = metrics.load(SETTINGS | {"metrics": ["rouge"], "rouge_stemmer": stemmer})["rouge"]
    plain = [text.encode("ascii", "ignore").decode() for text in PREDICTIONS]
    targets = [text.encode("ascii", "ignore").decode() + " snake_case, it's" for text in REFERENCES]
    plain[:20] = [text.replace(" ", "\n", 2) for text in plain[:20]]
    targets[10:30] = [text.replace(" ", ".\n", 3) for text in targets[10:30]]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    rows = [scorer.score(target, text) for text, target in zip(plain, targets, strict=True)]
    means = {name: 100 * math.fsum(row[name].fmeasure for row in rows) / len(rows) for name in names}
    assert _compute(rouge, plain, targets) == pytest.approx(means, rel=1e-12)
    assert ("stem:porter" in rouge.signature()) is stemmer


@pytest.mark.parametrize("text", ["Мама мыла раму", "naïve Straße", "हिन्दी में", "自然言語処理", "مرحبا بالعالم"])
def test_equal_texts_have_a_rouge_of_100_in_every_script(modules, text):
    assert _compute(modules["rouge"], [text], [text]) == pytest.approx(
        dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100.0)
    )


def test_half_of_the_words_of_a_russian_text_make_a_rouge_1_of_half(modules):
    found = _compute(modules["rouge"], ["мама мыла окно кухни"], ["Мама мыла раму вчера"])
    assert (found["rouge1"], found["rouge2"], found["rougeL"]) == pytest.approx((50, 100 / 3, 50))


def test_exact_match_ignores_white_space_and_nothing_else(modules):
    found = _compute(modules["exact_match"], [" a  b\n", "a b", "A b", ""], ["a b", "a b.", "a b", ""])
    assert found == {"exact_match": 50.0}


@pytest.mark.parametrize("name", SETTINGS["metrics"])
def test_answers_without_references_are_refused(modules, name):
    with pytest.raises(ValueError, match="2 predictions, but 1 references"):
        modules[name].statistics(["a", "b"], ["a"])
    with pytest.raises(ValueError, match=r"(?i)mismatch|predictions"):
        modules[name].compute(predictions=["a", "b"], references=["a"])


@pytest.mark.parametrize("name", SETTINGS["metrics"])
def test_an_empty_answer_counts_against_the_model(modules, name):
    with_empty = _compute(modules[name], ["the cat sat on it", ""], ["the cat sat on it", "so did the dog"])
    without = _compute(modules[name], ["the cat sat on it"], ["the cat sat on it"])
    assert all(with_empty[metric] < without[metric] for metric in without)


@pytest.mark.parametrize("name", SETTINGS["metrics"])
def test_the_order_of_rows_does_not_matter(modules, name):
    assert _compute(modules[name], PREDICTIONS[::-1], REFERENCES[::-1]) == pytest.approx(_compute(modules[name]))


@pytest.mark.parametrize("name", SETTINGS["metrics"])
def test_many_corpora_at_once_score_as_one_by_one(modules, name):
    statistics = modules[name].statistics(PREDICTIONS, REFERENCES)
    weights = np.random.default_rng(0).integers(0, 3, size=(2, 3, len(PREDICTIONS)))
    sums = {column: weights @ values for column, values in statistics.items()}
    together = modules[name].aggregate(sums, weights.sum(axis=-1))
    for place in np.ndindex(2, 3):
        chosen = np.repeat(np.arange(len(PREDICTIONS)), weights[place])
        alone = _compute(modules[name], [PREDICTIONS[i] for i in chosen], [REFERENCES[i] for i in chosen])
        assert {metric: values[place] for metric, values in together.items()} == pytest.approx(alone)


def test_perplexity_and_bits_per_byte_are_ratios_of_sums():
    """Two rows; a mean of their perplexities would be (e^2 + e) / 2."""
    sums = {
        "nll": 6.0 + 1.0,
        "n_tokens": 3 + 1,
        "nll_full": 10.0,
        "n_tokens_full": 8,
        "nll_text": 8 * math.log(2),
        "n_bytes": 16,
        "n_correct": 1,
    }
    found = metrics.Likelihood().aggregate({name: np.float64(value) for name, value in sums.items()}, np.float64(2))
    assert found == pytest.approx(
        {
            "perplexity": math.exp(1.75),
            "perplexity_full": math.exp(1.25),
            "bits_per_byte": 0.5,  # 8 bits for 16 bytes
            "token_accuracy": 25.0,
        }
    )


def test_an_edited_module_is_never_served_stale(tmp_path):
    source = metrics.MODULES / "exact_match" / "exact_match.py"
    copy = tmp_path / "exact_match" / "exact_match.py"
    copy.parent.mkdir()
    shutil.copy(source, copy)
    only = SETTINGS | {"metrics": ["exact_match"]}
    assert "case:mixed" in metrics.load(only, tmp_path)["exact_match"].signature()
    copy.write_text(source.read_text(encoding="utf-8").replace("case:mixed", "case:other"), encoding="utf-8")
    assert "case:other" in metrics.load(only, tmp_path)["exact_match"].signature()


def test_the_modules_load_without_a_network_and_leave_no_trace(tmp_path):
    """In a process of its own, whose home is empty before and after; torch leaves its own folder in TMPDIR."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    program = (
        "from snaketune import metrics\n"
        f"bleu = metrics.load({SETTINGS!r})['bleu']\n"
        "print(bleu.compute(predictions=['a b c d'], references=['a b c d'])['bleu'])\n"
    )
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    scripts = Path(metrics.__file__).parents[1]
    environment = kept | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(scripts),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(100)
    assert not list(home.rglob("*"))
    assert not list(temporary.glob("snaketune-*"))
