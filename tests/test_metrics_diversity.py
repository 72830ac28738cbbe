"""Diversity and overlap of answers, held against plain counts of words."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu

from snaketune.scoring import measures
from snaketune.scoring.measures import Answers, Measure
from test_metrics import answers, scores

TEXTS = ["the cat sat on the mat", "a cat", "", "Мама мыла раму, мыла раму", "日本語の日本語", "x y z x y z x y z"]


def _load(name: str, **settings) -> Measure:
    return measures.load({"metrics": [name], "bleu_tokenizer": "13a", "rouge_stemmer": False} | settings)[name]


def _texts(rows: int, seed: int, words: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices("abcdefgh", k=rng.randint(0, words))) for _ in range(rows)]


def _grams(text: str, order: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def test_distinct_n_counts_the_types_of_all_answers():
    outputs = _texts(50, seed=1)
    found = scores(_load("diversity"), outputs, [""] * 50)
    for order in (1, 2):
        grams = [gram for text in outputs for gram in _grams(text, order)]
        assert found[f"distinct_{order}"] == pytest.approx(100 * len(set(grams)) / len(grams), rel=1e-12)


def test_the_rows_shares_of_the_types_sum_to_their_exact_number():
    statistics = _load("diversity").statistics(answers(_texts(500, seed=2), [""] * 500))
    assert round(statistics["types_1"].sum(), 9) == 8
    assert round(statistics["types_2"].sum(), 9) == 64


def test_words_are_those_of_any_script():
    """By hand: 6 + 2 words, 5 Russian ones with 3 types, 7 Han and kana with 4, 9 letters with 3."""
    statistics = _load("diversity").statistics(answers(TEXTS, [""] * len(TEXTS)))
    assert statistics["total_1"].tolist() == [6, 2, 0, 5, 7, 9]
    assert statistics["types_1"] == pytest.approx([2 + 2 + 0.5, 1.5, 0, 3, 4, 3])


def test_repetition_is_the_share_of_4_grams_that_stand_before_in_the_same_answer():
    outputs = [*_texts(40, seed=3, words=40), "x y z x y z x y z", "x y z x y z x y z"]
    repeated = [len(_grams(text, 4)) - len(set(_grams(text, 4))) for text in outputs]
    total = [len(_grams(text, 4)) for text in outputs]
    measure = _load("diversity")
    assert scores(measure, outputs, [""] * 42)["repetition"] == pytest.approx(100 * sum(repeated) / sum(total))
    by_row = measure.row_scores(measure.statistics(answers(outputs, [""] * 42)))
    assert by_row["repetition"][-2:] == pytest.approx([50, 50])  # 3 of 6; the row before does not count
    assert list(by_row) == ["repetition"]


def test_self_bleu_is_the_mean_of_sacrebleus_scores_against_the_other_answers():
    """Few enough rows that all are taken against all others."""
    outputs = [text for text in _texts(45, seed=4) if text]
    expected = [
        sacrebleu.sentence_bleu(text, outputs[:row] + outputs[row + 1 :], tokenize="none").score
        for row, text in enumerate(outputs)
    ]
    references = [str(row) for row in range(len(outputs))]
    assert scores(_load("diversity"), outputs, references)["self_bleu"] == pytest.approx(np.mean(expected))


def test_equal_answers_have_a_self_bleu_of_100_and_a_lone_one_has_none():
    measure = _load("diversity")
    assert scores(measure, ["a b c d e"] * 300, [str(row) for row in range(300)])["self_bleu"] == pytest.approx(100)
    assert scores(measure, ["a b c d e"], [""])["self_bleu"] == 0


def test_self_bleu_takes_200_rows_that_the_prompts_choose_and_not_the_answers():
    prompts, references = [str(row) for row in range(700)], [""] * 700
    base, tuned = (
        _load("diversity").statistics(answers(_texts(700, seed=seed), references, prompts)) for seed in (5, 6)
    )
    assert base["sampled"].sum() == 200
    assert base["sampled"].tolist() == tuned["sampled"].tolist()
    assert base["self_bleu"].tolist() != tuned["self_bleu"].tolist()


@pytest.fixture
def train(tmp_path: Path) -> tuple[str, ...]:
    """Two files with 3,000 and 10 rows, one of them null."""
    paths = (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))
    for path, texts in zip(
        paths, (_texts(3000, seed=7), [*_texts(8, seed=8), None, "Мама, мыла-раму: вчера"]), strict=True
    ):
        pq.write_table(pa.table({"prompt": ["a b c d e f g h"] * len(texts), "completion": texts}), path)
    return paths


@pytest.mark.parametrize("ngram", [1, 2, 5, 8])
def test_overlap_is_that_of_plain_sets_of_word_n_grams(train, ngram):
    outputs = _texts(200, seed=9, words=20)
    prompts = [f"{text[:20]} {text[30:]}".strip() for text in outputs]
    known = {
        gram
        for path in train
        for text in pq.read_table(path)["completion"].to_pylist()
        for gram in _grams(text or "", ngram)
    }
    trained = [[gram in known for gram in _grams(text, ngram)] for text in outputs]
    asked = [
        [gram in set(_grams(prompt, 4)) for gram in _grams(text, 4)]
        for text, prompt in zip(outputs, prompts, strict=True)
    ]
    measure = _load("overlap", overlap_ngram=ngram)
    found = scores(measure, outputs, [""] * 200, prompts=prompts, train=train)
    assert found["train_overlap"] == pytest.approx(100 * sum(map(sum, trained)) / sum(map(len, trained)))
    assert found["prompt_overlap"] == pytest.approx(100 * sum(map(sum, asked)) / sum(map(len, asked)))
    assert 0 < found["prompt_overlap"] < 100


def test_case_and_signs_do_not_hide_what_was_memorised(train):
    outputs = ["МАМА МЫЛА РАМУ ВЧЕРА", "мама мыла вчера раму"]
    measure = _load("overlap", overlap_ngram=4)
    statistics = measure.statistics(answers(outputs, ["", ""], train=train))
    assert measure.row_scores(statistics)["train_overlap"].tolist() == [100, 0]


def test_a_word_that_no_answer_has_is_never_part_of_a_run_that_is_found():
    """Its number is -1, and (2, -1) is as far in a table of three words as (1, 2); the hash before lets all pass."""
    overlap = measures.module("overlap")
    grams = overlap.Grams(*overlap._words(["a b c"]), 2)
    grams._sieve[:] = True
    assert grams.found(*overlap._words(["c stranger", "b c"]))[1].tolist() == [1]


def test_a_run_does_not_reach_over_the_end_of_a_text(tmp_path):
    path = str(tmp_path / "train.parquet")
    pq.write_table(pa.table({"completion": ["a b", "c d"]}), path)
    measure = _load("overlap", overlap_ngram=4)
    statistics = measure.statistics(answers(["a b c d", "a b", "c d"], [""] * 3, ["", "a b c", ""], train=(path,)))
    assert statistics["train_total"].tolist() == [1, 0, 0]
    assert statistics["train_found"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("outputs", [[""] * 3, ["a"], ["a b c d e f g h"] * 4, ["\x00", "...", "\u202e"]])
def test_no_overlap_is_no_number(train, outputs):
    measure = _load("overlap")
    found = scores(measure, outputs, [""] * len(outputs), train=train)
    statistics = measure.statistics(answers(outputs, [""] * len(outputs), train=train))
    assert all(np.isfinite(value) for value in found.values())
    assert {values.dtype for values in statistics.values()} == {np.dtype("float64")}
    assert set(found) == set(measure.METRICS) == set(measure.signature()) == set(measure.HIGHER_IS_BETTER)


def test_overlap_without_the_training_split_is_refused():
    with pytest.raises(ValueError, match="files of the training split"):
        _load("overlap").statistics(Answers(["a"], ["a"], [""], [None]))
