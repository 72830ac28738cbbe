"""The measures of answers against references, held against their authors' own programs and counts by hand."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from snaketune.scoring import measures
from snaketune.scoring.measures import Answers, Measure

SETTINGS = {
    "metrics": ["bleu", "chrf", "ter", "rouge", "exact_match", "token_f1", "diversity", "length_ratio"],
    "bleu_tokenizer": "13a",
    "rouge_stemmer": False,
}
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
def loaded() -> dict[str, Measure]:
    return measures.load(SETTINGS)


def answers(outputs, references, prompts=None, labels=None, train=()) -> Answers:
    rows = len(outputs)
    return Answers(list(outputs), list(references), prompts or [""] * rows, labels or [None] * rows, train)


def scores(measure, outputs=PREDICTIONS, references=REFERENCES, **more):
    """The scores of a corpus: the sums of its rows' statistics, aggregated."""
    statistics = measure.statistics(answers(outputs, references, **more))
    sums = {name: values.sum() for name, values in statistics.items()}
    return {name: float(score) for name, score in measure.aggregate(sums, np.float64(len(outputs))).items()}


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "none"])
def test_bleu_equals_sacrebleu(tokenizer):
    bleu = measures.load(SETTINGS | {"metrics": ["bleu"], "bleu_tokenizer": tokenizer})["bleu"]
    expected = sacrebleu.BLEU(tokenize=tokenizer)
    score = expected.corpus_score(PREDICTIONS, [REFERENCES]).score
    assert scores(bleu)["bleu"] == pytest.approx(score, rel=1e-12)
    assert bleu.signature() == {"bleu": str(expected.get_signature())}


@pytest.mark.parametrize(("name", "theirs"), [("chrf", sacrebleu.CHRF), ("ter", sacrebleu.TER)])
def test_chrf_and_ter_equal_sacrebleu(loaded, name, theirs):
    expected = theirs()
    score = expected.corpus_score(PREDICTIONS, [REFERENCES]).score
    assert scores(loaded[name])[name] == pytest.approx(score, rel=1e-12)
    assert loaded[name].signature()[name].startswith(str(expected.get_signature()))


def test_bleu_chrf_and_ter_are_what_the_sacrebleu_program_prints(loaded, tmp_path):
    """With all the digits that it can be asked for."""
    (tmp_path / "hyp.txt").write_text("\n".join(PREDICTIONS) + "\n", encoding="utf-8")
    (tmp_path / "ref.txt").write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    names = ["bleu", "chrf", "ter"]
    program = [sys.executable, "-m", "sacrebleu", "ref.txt", "-i", "hyp.txt", "-m", *names, "-b", "-w", "12"]
    printed = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ours = [f"{scores(loaded[name])[name]:.12f}" for name in names]
    assert [line.strip(' ",') for line in printed.split() if any(map(str.isdigit, line))] == ours


@pytest.mark.parametrize(
    ("outputs", "references"),
    [
        (["a b c"], ["a b c"]),  # no 4-grams: 0, as in sacrebleu
        (["a b x d e"], ["a b c d e"]),  # no 3- and 4-gram hits: both smoothed
        (["x y z w v"], ["a b c d e"]),
        (["", ""], ["a", "b c"]),
        (["a b c d e f"], ["a b"]),
        (["a b"], [""]),
        ([""], [""]),
    ],
)
def test_degenerate_corpora_score_as_in_sacrebleu(loaded, outputs, references):
    for name in ("bleu", "chrf", "ter"):
        theirs = getattr(sacrebleu, f"corpus_{name}")(outputs, [references]).score
        assert scores(loaded[name], outputs, references)[name] == pytest.approx(theirs)


def test_the_rows_own_bleu_chrf_and_ter_are_sacrebleus_sentence_scores(loaded):
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))
    for name in ("bleu", "chrf", "ter"):
        found = loaded[name].row_scores(loaded[name].statistics(answers(PREDICTIONS, REFERENCES)))[name]
        sentence = getattr(sacrebleu, f"sentence_{name}")
        assert found == pytest.approx([sentence(output, [reference]).score for output, reference in pairs])


@pytest.mark.parametrize("letters", ["ab", "abcde", "abcdefghijklmnopqrstuvwxyz"])
def test_the_compiled_search_for_moves_finds_sacrebleus_edits(letters):
    """Texts with words exchanged, left out and moved; some beyond the limits of the search, and of unlike lengths."""
    ter, theirs, rng = measures.module("ter").Measure(), sacrebleu.TER(), random.Random(11)
    theirs.num_refs = 1
    pairs = []
    for size in [*range(25), *range(25), 40, 60, 70]:
        reference = rng.choices(letters, k=size)
        kept = [word if rng.random() < 0.8 else rng.choice(letters) for word in reference if rng.random() < 0.95]
        cut = rng.randint(0, len(kept))
        pairs.append((" ".join(kept[cut:] + kept[:cut]), " ".join(reference)))
    pairs += [(" ".join(rng.choices(letters, k=3)), " ".join(rng.choices(letters, k=200))), ("a b " * 60, "b a c")]
    outputs, references = map(list, zip(*pairs, strict=True))
    found = ter.statistics(answers(outputs, references))
    expected = theirs._extract_corpus_statistics(outputs, [references])
    assert list(zip(found["edits"], found["reference_length"], strict=True)) == [tuple(row) for row in expected]


def test_a_row_too_long_for_moves_has_the_edit_distance_of_its_words():
    """By the textbook's table of all pairs, on texts of every relation of lengths."""
    edit_distance = measures.module("ter").edit_distance
    rng = random.Random(3)
    for _ in range(200):
        first, second = (rng.choices("abcd", k=rng.randint(0, 90)) for _ in range(2))
        row = list(range(len(second) + 1))
        for i, word in enumerate(first, start=1):
            left = [i]
            for j, other in enumerate(second, start=1):
                left.append(min(row[j] + 1, left[-1] + 1, row[j - 1] + (word != other)))
            row = left
        assert edit_distance(first, second) == row[-1]


def test_moves_are_left_out_for_long_rows_alone(loaded, monkeypatch):
    """Two words that stand at the wrong end are one move; without moves, two are deleted and two inserted."""
    monkeypatch.setitem(type(loaded["ter"])._row.__globals__, "CELLS", 25)
    texts = ["c d e a b", "c d e a b x"], ["a b c d e", "a b c d e"]
    found = loaded["ter"].statistics(answers(*texts))
    assert found["edits"].tolist() == [1, 5]


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_the_mean_of_rouge_scores_f_on_ascii_text(stemmer):
    """Texts of one line and of several, with the marks that rouge_score treats as white space."""
    rouge = measures.load(SETTINGS | {"metrics": ["rouge"], "rouge_stemmer": stemmer})["rouge"]
    plain = [text.encode("ascii", "ignore").decode() for text in PREDICTIONS]
    targets = [text.encode("ascii", "ignore").decode() + " snake_case, it's" for text in REFERENCES]
    plain[:20] = [text.replace(" ", "\n", 2) for text in plain[:20]]
    targets[10:30] = [text.replace(" ", ".\n", 3) for text in targets[10:30]]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    rows = [scorer.score(target, text) for text, target in zip(plain, targets, strict=True)]
    means = {name: 100 * math.fsum(row[name].fmeasure for row in rows) / len(rows) for name in names}
    assert scores(rouge, plain, targets) == pytest.approx(means, rel=1e-12)
    assert ("stem:porter" in rouge.signature()["rouge1"]) is stemmer


def test_rouge_l_of_long_texts_is_that_of_the_table():
    rouge, scorer, rng = measures.load(SETTINGS)["rouge"], RougeScorer(["rougeL"]), random.Random(5)
    for letters in ("ab", "abcdefgh"):
        first, second = (" ".join(rng.choices(letters, k=size)) for size in (700, 450))
        expected = 100 * scorer.score(first, second)["rougeL"].fmeasure
        assert scores(rouge, [second], [first])["rougeL"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("text", ["Мама мыла раму", "naïve Straße", "हिन्दी में", "自然言語処理", "مرحبا بالعالم"])
def test_equal_texts_have_a_rouge_and_a_token_f1_of_100_in_every_script(loaded, text):
    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    assert scores(loaded["rouge"], [text], [text]) == pytest.approx(dict.fromkeys(names, 100.0))
    assert scores(loaded["token_f1"], [text], [text]) == {"token_f1": 100.0}


def test_half_of_the_words_of_a_russian_text_make_a_rouge_1_of_half(loaded):
    found = scores(loaded["rouge"], ["мама мыла окно кухни"], ["Мама мыла раму вчера"])
    assert (found["rouge1"], found["rouge2"], found["rougeL"]) == pytest.approx((50, 100 / 3, 50))
    assert scores(loaded["token_f1"], ["мама мыла окно кухни"], ["Мама мыла раму вчера"])["token_f1"] == 50


def test_exact_match_ignores_white_space_and_nothing_else(loaded):
    found = scores(loaded["exact_match"], [" a  b\n", "a b", "A b", ""], ["a b", "a b.", "a b", ""])
    assert found == {"exact_match": 50.0}


def _squad_f1(prediction: str, truth: str) -> float:
    """The F1 of SQuAD 2.0's evaluation program, as it is published, word by word."""
    import collections
    import re
    import string

    def tokens(text: str) -> list[str]:
        text = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split()).split()

    gold, said = tokens(truth), tokens(prediction)
    same = sum((collections.Counter(gold) & collections.Counter(said)).values())
    if not gold or not said:
        return float(gold == said)
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_is_squads_on_ascii_text(loaded):
    plain = [text.encode("ascii", "ignore").decode() for text in PREDICTIONS] + [
        "It's an end-to-end  test",
        "the",
        "a",
        "x",
    ]
    truth = [text.encode("ascii", "ignore").decode() for text in REFERENCES] + ["its end to end test", "a", "b", "the"]
    expected = [100 * _squad_f1(*pair) for pair in zip(plain, truth, strict=True)]
    found = loaded["token_f1"].row_scores(loaded["token_f1"].statistics(answers(plain, truth)))["token_f1"]
    assert found == pytest.approx(expected)
    assert scores(loaded["token_f1"], plain, truth)["token_f1"] == pytest.approx(math.fsum(expected) / len(expected))


def test_the_length_ratio_is_of_all_words_and_not_a_mean_of_rows(loaded):
    found = scores(loaded["length_ratio"], ["a b, c d", "日本"], ["x y", "z"])
    assert found == {"length_ratio": 2.0}  # 4 + 2 words, for 2 + 1


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge", "exact_match", "token_f1"])
def test_an_empty_answer_counts_against_the_model(loaded, name):
    with_empty = scores(loaded[name], ["the cat sat on it", ""], ["the cat sat on it", "so did the dog"])
    without = scores(loaded[name], ["the cat sat on it"], ["the cat sat on it"])
    assert all(with_empty[metric] < without[metric] for metric in without)


@pytest.mark.parametrize("name", SETTINGS["metrics"])
def test_the_order_of_rows_does_not_matter(loaded, name):
    assert scores(loaded[name], PREDICTIONS[::-1], REFERENCES[::-1]) == pytest.approx(scores(loaded[name]))


@pytest.mark.parametrize("name", [name for name in SETTINGS["metrics"] if name != "diversity"])
def test_many_corpora_at_once_score_as_one_by_one(loaded, name):
    statistics = loaded[name].statistics(answers(PREDICTIONS, REFERENCES))
    weights = np.random.default_rng(0).integers(0, 3, size=(2, 3, len(PREDICTIONS)))
    sums = {column: weights @ values for column, values in statistics.items()}
    together = loaded[name].aggregate(sums, weights.sum(axis=-1))
    for place in np.ndindex(2, 3):
        chosen = np.repeat(np.arange(len(PREDICTIONS)), weights[place])
        alone = scores(loaded[name], [PREDICTIONS[i] for i in chosen], [REFERENCES[i] for i in chosen])
        assert {metric: values[place] for metric, values in together.items()} == pytest.approx(alone)


EDGES = {
    "all empty": ([""] * 3, [""] * 3),
    "empty answers": ([""] * 3, ["a b c d e", "b", "c d"]),
    "no references": (["a b c d e", "b", "c d"], [""] * 3),
    "one row": (["a b c d e"], ["a b c d e"]),
    "all equal": (["a b c d e"] * 5, ["a b c d f"] * 5),
    "signs": (["...", "\x00\x07", "\u202e"], ["!", "?", "\u200b"]),
}


@pytest.mark.parametrize("name", SETTINGS["metrics"])
@pytest.mark.parametrize("case", EDGES)
def test_no_corpus_has_a_score_that_is_no_number(loaded, name, case):
    statistics = loaded[name].statistics(answers(*EDGES[case]))
    rows = len(EDGES[case][0])
    assert {values.shape for values in statistics.values()} == {(rows,)}
    assert {values.dtype for values in statistics.values()} == {np.dtype("float64")}
    found = scores(loaded[name], *EDGES[case])
    assert (
        set(found) == set(loaded[name].METRICS) == set(loaded[name].HIGHER_IS_BETTER) == set(loaded[name].signature())
    )
    for values in [*found.values(), *loaded[name].row_scores(statistics).values()]:
        assert np.isfinite(values).all()
    none = loaded[name].aggregate({column: np.zeros(2) for column in statistics}, np.ones(2))
    assert all(np.isfinite(values).all() and values.shape == (2,) for values in none.values())


@pytest.mark.parametrize("shape", ["words", "lines", "one word", "loop"])
def test_a_row_of_100_kb_is_measured_in_seconds(loaded, shape):
    """rouge_score's and sacrebleu's own tables of 19,000 by 19,000 words take minutes and gigabytes."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcde", k=rng.randint(1, 8))) for _ in range(2 * 19_000)]
    texts = {
        "words": (" ".join(words[:19_000]), " ".join(words[19_000:])),
        "lines": ("\n".join(words[:19_000]), "\n".join(words[19_000:])),
        "one word": ("a" * 100_000, "a" * 99_000),
        "loop": ("the " * 25_000, "the cat " * 12_500),
    }[shape]
    for name, measure in loaded.items():
        started = time.process_time()
        scores(measure, [texts[0]], [texts[1]])
        assert time.process_time() - started < 10, name


def test_answers_that_lack_a_reference_are_refused():
    with pytest.raises(ValueError, match="each answer needs its own"):
        answers(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="nothing to score"):
        answers([], [])
