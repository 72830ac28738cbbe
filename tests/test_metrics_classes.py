"""Answers as classes: which class an answer names, and what follows for a corpus."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from snaketune.job import StageError
from snaketune.scoring import classes, measures
from test_metrics import answers, scores

SETTINGS = {"metrics": ["classification"], "bleu_tokenizer": "13a", "rouge_stemmer": False, "classes": None}
SENTIMENT = ["negative", "neutral", "positive", "very positive"]


def _load(labels):
    return measures.load(SETTINGS, labels)["classification"]


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("positive", "positive"),
        (" Positive.\n", "positive"),
        ("**POSITIVE**", "positive"),
        ("“positive”", "positive"),
        ("very  positive", "very positive"),
        ("very positive, because", "very positive"),
        ("positive: I liked it", "positive"),
        ("positively", None),
        ("positive2", None),
        ("it is positive", None),
        ("very", None),
        ("", None),
        ("...", None),
    ],
)
def test_an_answer_names_the_class_that_it_equals_or_begins_with(output, named):
    assert ([*SENTIMENT, None])[_load(SENTIMENT).named(output)] == named


@pytest.mark.parametrize(
    ("labels", "output", "named"),
    [
        (["1", "10", "-1"], "10", "10"),
        (["1", "10", "-1"], "-1", "-1"),
        (["1", "10", "-1"], "1.", "1"),
        (["1", "10", "-1"], "1.5", None),
        (["(a)", "(b)"], "A", "(a)"),
        (["-1", "(1)"], "1", None),  # it may be either
        (["not", "not sure"], "Not sure, really", "not sure"),
        (["not", "not sure"], "not surely", "not"),
        (["(a)", "(b)"], "(b) is right", "(b)"),
        (["+", "-"], "- no", "-"),
        (["正面", "负面"], "正面的评价", "正面"),
        (["да", "нет"], "Нет, спасибо", "нет"),
        (["STRASSE"], "Straße", "STRASSE"),
        (["caf\u00e9"], "cafe\u0301!", "caf\u00e9"),
    ],
)
def test_classes_are_numbers_signs_and_words_of_any_script(labels, output, named):
    assert ([*labels, None])[_load(labels).named(output)] == named


def _by_hand(right: list[str], named: list[str | None], labels: list[str]) -> dict[str, float]:
    """The definitions of precision, recall and F1, class by class, from pairs."""
    pairs = Counter(zip(right, named, strict=True))
    rows = []
    for label in sorted(set(right)):
        hits = pairs[label, label]
        said, wanted = named.count(label), right.count(label)
        precision, recall = hits / said if said else 0, hits / wanted
        rows.append((precision, recall, 2 * hits / (said + wanted)))
    hits = sum(pairs[label, label] for label in labels)
    told = sum(name is not None for name in named)
    micro = (hits / told if told else 0, hits / len(right), 2 * hits / (told + len(right)))
    names = [f"{name}_{mean}" for mean in ("micro", "macro") for name in ("precision", "recall", "f1")]
    scores = [*micro, *(sum(column) / len(rows) for column in zip(*rows, strict=True))]
    found = {"accuracy": hits / len(right), "unrecognized": 1 - told / len(right)} | dict(
        zip(names, scores, strict=True)
    )
    return {name: 100 * score for name, score in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_all_scores_are_those_of_their_definitions(seed):
    """The last class is never right, only named."""
    rng = random.Random(seed)
    right = rng.choices(SENTIMENT[:3], [5, 1, 1], k=40)
    named = [rng.choice([label, label, *SENTIMENT, None]) for label in right]
    outputs = ["what?" if name is None else f"{name.upper()}!" for name in named]
    measure = _load(SENTIMENT)
    assert scores(measure, outputs, right) == pytest.approx(_by_hand(right, named, SENTIMENT))
    rows = measure.row_scores(measure.statistics(answers(outputs, right)))
    assert set(rows) == {"accuracy", "unrecognized"}
    assert rows["accuracy"].tolist() == [100.0 * (a == b) for a, b in zip(right, named, strict=True)]


def test_the_confusion_matrix_and_the_scores_of_each_class_follow_from_sums():
    right = ["no", "no", "no", "yes", "yes"]
    measure = _load(["no", "yes"])
    statistics = measure.statistics(answers(["no", "yes", "?", "yes", "yes."], right))
    sums = {name: values.sum() for name, values in statistics.items()}
    assert classes.confusion(measure, sums).tolist() == [[1, 1, 1], [0, 2, 0]]
    found = classes.per_class(measure, {name: np.array([value, 2 * value]) for name, value in sums.items()})
    assert list(found) == ["no", "yes"]
    assert found["no"]["precision"] == pytest.approx([100, 100])
    assert found["no"]["recall"] == pytest.approx([100 / 3] * 2)
    assert found["yes"]["f1"] == pytest.approx([80, 80])


def test_labels_come_before_references_and_a_row_without_one_counts_for_nothing():
    measure = _load(["no", "yes"])
    given = answers(["no", "no", "yes"], ["yes", "yes", "yes"], labels=["no", None, "no"])
    sums = {name: values.sum() for name, values in measure.statistics(given).items()}
    assert classes.confusion(measure, sums).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_classes_are_found_in_the_data_or_named():
    given = answers(["x"] * 4, ["no", "Yes", " yes", ""])
    assert classes.found(SETTINGS, given) == ["Yes", "no"]
    assert classes.found(SETTINGS | {"classes": ["yes", "no", "maybe"]}, given) == ["yes", "no", "maybe"]
    assert classes.found(SETTINGS | {"metrics": ["bleu"]}, given) is None


@pytest.mark.parametrize(
    ("chosen", "references", "fault"),
    [
        (None, [str(row) for row in range(101)], "101 different classes, and may be 100"),
        (None, [""], "0 classes"),
        (["a", "A "], ["a"], "told apart by more than case and space"),
    ],
)
def test_what_cannot_be_classes_is_said(chosen, references, fault):
    with pytest.raises(StageError, match=fault):
        classes.found(SETTINGS | {"classes": chosen}, answers(["x"] * len(references), references))


def test_a_gold_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="'perhaps' is the right class of a row, but none of the classes"):
        _load(["no", "yes"]).statistics(answers(["no"], ["perhaps"]))


def test_many_corpora_at_once_score_as_one_by_one():
    rng = random.Random(9)
    right, outputs = (rng.choices([*SENTIMENT, "?"][: 4 + extra], k=30) for extra in (0, 1))
    measure = _load(SENTIMENT)
    statistics = measure.statistics(answers(outputs, right))
    weights = np.random.default_rng(0).integers(0, 2, size=(2, 3, 30))
    together = measure.aggregate({name: weights @ values for name, values in statistics.items()}, weights.sum(axis=-1))
    for place in np.ndindex(2, 3):
        chosen = np.flatnonzero(weights[place])
        alone = scores(measure, [outputs[i] for i in chosen], [right[i] for i in chosen])
        assert {metric: values[place] for metric, values in together.items()} == pytest.approx(alone)


@pytest.mark.parametrize("outputs", [[""] * 3, ["yes"] * 3, ["?" * 100_000] * 3])
def test_no_score_is_no_number(outputs):
    measure = _load(["no", "yes"])
    found = scores(measure, outputs, ["no"] * 3)
    assert all(np.isfinite(score) for score in found.values())
    assert set(found) == set(measure.METRICS) == set(measure.HIGHER_IS_BETTER) == set(measure.signature())
