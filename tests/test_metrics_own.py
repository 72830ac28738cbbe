"""A user's own metrics: how they are loaded, scored and compared, and what is said of those that cannot be."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from snaketune.job import StageError
from snaketune.scoring import measures, own
from snaketune.scoring.bootstrap import entries
from snaketune.scoring.measures import Answers

HEAD = """
import datasets
import evaluate
import numpy as np

class Mine(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features={features}
        )
"""
PLAIN = '[datasets.Features({"predictions": datasets.Sequence(text), "references": text}), ' + (
    'datasets.Features({"predictions": text, "references": datasets.Value("string")})]'
)
LISTS = 'datasets.Features({"predictions": text, "references": datasets.Sequence(text)})'


def _file(folder: Path, body: str, name: str = "mine", features: str = PLAIN) -> str:
    path = folder / f"{name}.py"
    path.write_text(HEAD.replace("{features}", features) + body, encoding="utf-8")
    return str(path)


def _answers(kept: float, seed: int, rows: int = 80) -> Answers:
    truth, rng = random.Random(0), random.Random(seed)
    references = [" ".join(truth.choices("abcdef", k=10)) for _ in range(rows)]
    outputs = [" ".join(w if rng.random() < kept else "x" for w in text.split()) for text in references]
    return Answers(outputs, references, ["asked"] * rows, [None] * rows)


FAMILIES = [f"{row // 2:032x}" for row in range(80)]
HITS = """
    def _compute(self, predictions, references):
        hits = [a == b for p, r in zip(predictions, references) for a, b in zip(p.split(), r.split())]
        return {"hits": float(np.mean(hits)), "rows": len(predictions), "precisions": [1, 2], "fine": True, "name": "x"}
"""


def _hits(answers: Answers, rows: list[int]) -> float:
    pairs = [(answers.outputs[row].split(), answers.references[row].split()) for row in rows]
    return float(np.mean([a == b for output, reference in pairs for a, b in zip(output, reference, strict=True)]))


def test_a_metric_is_computed_of_all_rows_and_without_each_group_of_families(tmp_path):
    answers = _answers(0.5, seed=1)
    found = own.corpus_scores([_file(tmp_path, HITS)], answers, FAMILIES, [])
    assert set(found) == {"hits", "rows"}  # the plain numbers
    assert found["hits"]["value"] == pytest.approx(_hits(answers, list(range(80))))
    assert len(found["hits"]["groups"]) == own.GROUPS == 20
    assert found["rows"]["groups"] == [76.0] * 20  # 40 families in 20 groups: two of two rows each
    assert found["hits"]["n"] == 80


def test_groups_hold_whole_families_and_do_not_depend_on_the_rows_order():
    groups = own._groups(FAMILIES)
    assert groups[::2].tolist() == groups[1::2].tolist()
    assert own._groups(FAMILIES[::-1]).tolist() == groups[::-1].tolist()
    assert np.bincount(own._groups([f"f{i}" for i in range(7)])).tolist() == [1] * 7


def test_the_interval_is_that_of_the_jackknife_for_a_mean():
    """For a mean over equal groups the jackknife's error is that of the group means, s / sqrt(k)."""
    rng = np.random.default_rng(2)
    means = rng.normal(size=(2, 20))
    base, tuned = (
        {
            "value": float(side.mean()),
            "groups": [float(np.delete(side, group).mean()) for group in range(20)],
            "higher_is_better": True,
            "n": 100,
        }
        for side in means
    )
    found = own.entry(base, tuned)
    error = np.std(means[1] - means[0], ddof=1) / np.sqrt(20)
    delta = means[1].mean() - means[0].mean()
    assert found["delta"] == pytest.approx(delta)
    assert found["ci95"] == pytest.approx([delta - 2.093024 * error, delta + 2.093024 * error])
    assert found["base_ci95"][1] - found["base"] == pytest.approx(2.093024 * np.std(means[0], ddof=1) / np.sqrt(20))
    assert (found["wins"], found["ties"], found["losses"], found["n"]) == (None, None, None, 100)
    assert (found["p"] < 0.05) is (found["ci95"][0] > 0 or found["ci95"][1] < 0)


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (10, 2.228139), (19, 2.093024)]
)
def test_students_t_is_that_of_the_printed_tables(freedom, t):
    assert own._quantile(freedom) == pytest.approx(t, abs=1e-6)
    assert own.student(t, freedom) == pytest.approx(0.95, abs=1e-7)


def test_the_jackknifes_intervals_are_near_those_of_the_bootstrap(tmp_path):
    """For BLEU, which is no mean: once as a metric of the corpus alone, once by the rows' counts."""
    body = """
    def _compute(self, predictions, references):
        import sacrebleu
        return {"mine": sacrebleu.corpus_bleu(predictions, [references]).score}
"""
    answers = [_answers(kept, seed, rows=400) for kept, seed in ((0.6, 1), (0.7, 2))]
    families = [f"{row:032x}" for row in range(400)]
    path = _file(tmp_path, body)
    jackknife = own.entry(*(own.corpus_scores([path], each, families, [])["mine"] for each in answers))
    bleu = measures.load({"metrics": ["bleu"], "bleu_tokenizer": "13a", "rouge_stemmer": False})
    counts = [{"bleu": bleu["bleu"].statistics(each)} for each in answers]
    bootstrap = entries(bleu, *counts, np.arange(400), resamples=1000, seed=1)["bleu"]
    for side in ("base", "tuned", "delta"):
        assert jackknife[side] == pytest.approx(bootstrap[side])
    for key in ("ci95", "base_ci95", "tuned_ci95"):
        width = {name: found[key][1] - found[key][0] for name, found in (("j", jackknife), ("b", bootstrap))}
        assert 0.6 < width["j"] / width["b"] < 1.6


def test_a_metric_of_the_workflows_kind_is_no_metric_of_the_corpus_alone():
    path = str(measures.MODULES / "bleu/bleu.py")
    assert own.corpus_scores([path], _answers(0.5, 1), FAMILIES, []) == {}


def _like_ours(folder: Path, name: str, metric: str = "equal") -> str:
    """The folder of exact match under other names."""
    made = shutil.copytree(measures.MODULES / "exact_match", folder / name)
    (made / "exact_match.py").rename(made / f"{name}.py")
    source = (made / "measure.py").read_text(encoding="utf-8")
    (made / "measure.py").write_text(source.replace('"exact_match"', f'"{metric}"'), encoding="utf-8")
    return str(made)


def test_a_file_with_statistics_by_row_is_a_measure_like_ours(tmp_path):
    settings = {"metrics": ["exact_match"], "bleu_tokenizer": "13a", "rouge_stemmer": False}
    loaded = measures.load(settings | {"own": [_like_ours(tmp_path, "mine")]})
    assert list(loaded) == ["exact_match", "mine"]
    statistics = loaded["mine"].statistics(_answers(1.0, seed=1))
    assert loaded["mine"].aggregate({"match": statistics["match"].sum()}, np.float64(80)) == {"equal": 100.0}
    assert set(measures.signatures(loaded)) == {"exact_match", "equal"}


@pytest.mark.parametrize("name", ["bleu", "rouge_mine", "token"])
def test_a_name_that_begins_like_another_metrics_is_refused(tmp_path, name):
    """Their columns could not be told apart."""
    with pytest.raises(StageError, match="begins like another metric's: rename the file"):
        own.measures([_like_ours(tmp_path, name)], {})


@pytest.mark.parametrize("metric", ["exact_match", "perplexity"])
def test_a_metric_that_another_measure_has_is_refused(tmp_path, metric):
    settings = {"metrics": ["exact_match"], "bleu_tokenizer": "13a", "rouge_stemmer": False}
    with pytest.raises(StageError, match=f"has a metric `{metric}`, as another has"):
        measures.load(settings | {"own": [_like_ours(tmp_path, "mine", metric)]})


def test_a_number_whose_name_is_taken_gets_the_name_of_its_file(tmp_path):
    found = own.corpus_scores([_file(tmp_path, HITS)], _answers(0.5, 1), FAMILIES, ["hits"])
    assert set(found) == {"mine_hits", "rows"}


def test_a_metric_may_want_lists_of_references_or_say_which_way_is_better(tmp_path):
    body = """
    HIGHER_IS_BETTER = {"first": False}
    def _compute(self, predictions, references):
        return {"first": float(sum(p == r[0] for p, r in zip(predictions, references)))}
"""
    found = own.corpus_scores([_file(tmp_path, body, features=LISTS)], _answers(1.0, 1), FAMILIES, [])
    assert (found["first"]["value"], found["first"]["higher_is_better"]) == (80, False)


def test_a_metric_that_draws_gives_the_same_numbers_each_time(tmp_path):
    body = """
    def _compute(self, predictions, references):
        return {"drawn": float(np.random.random())}
"""
    path = _file(tmp_path, body)
    found = []
    for state in range(2):
        own._load.cache_clear()
        np.random.seed(state)  # as another process would have another one; evaluate takes its seed from it
        found.append(own.corpus_scores([path], _answers(0.5, 1), FAMILIES, []))
    assert found[0] == found[1]


def test_a_single_family_has_no_spread(tmp_path):
    found = own.corpus_scores([_file(tmp_path, HITS)], _answers(0.5, 1), ["f"] * 80, [])
    entry = own.entry(found["hits"], found["hits"] | {"value": 0.75})
    assert found["hits"]["groups"] == []
    assert (entry["ci95"], entry["p"]) == ([entry["delta"]] * 2, 1.0)


@pytest.mark.parametrize(
    ("body", "features", "fault"),
    [
        ("    def _compute(self, predictions, references):\n        return {}\n", PLAIN, "no plain number"),
        ("    def _compute(self, predictions, references):\n        return {'x': np.nan}\n", PLAIN, "one that is none"),
        ("    def _compute(self, predictions, references):\n        return 1 / 0\n", PLAIN, "ZeroDivisionError"),
        ("    def _compute(self, predictions, references, k):\n        return {'x': k}\n", PLAIN, "further arguments"),
        (
            "    def _compute(self, images):\n        return {}\n",
            PLAIN.replace("predictions", "images"),
            "asks for `images`",
        ),
        ("import nowhere_at_all\n", PLAIN, "needs a package"),
        ("this is no python\n", PLAIN, "SyntaxError"),
    ],
)
def test_a_metric_that_cannot_be_used_is_named_with_its_fault(tmp_path, body, features, fault):
    with pytest.raises(StageError, match=rf"`score\.own`: `.*mine\.py`.*{fault}"):
        own.corpus_scores([_file(tmp_path, body, features=features)], _answers(0.5, 1), FAMILIES, [])


@pytest.mark.parametrize("entry", ["nowhere.py", "not/here.py"])
def test_a_path_that_leads_nowhere_is_refused(entry):
    with pytest.raises(StageError, match=r"cannot be loaded: FileNotFoundError.*Give the path of a file"):
        own.corpus_scores([entry], _answers(0.5, 1), FAMILIES, [])


def test_a_name_that_is_no_path_is_looked_for_on_the_hub(monkeypatch):
    """Without a network it cannot be had."""
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    with pytest.raises(StageError, match="it is no file or folder here, so it was looked for on the Hub"):
        own.corpus_scores(["no_such_metric_anywhere"], _answers(0.5, 1), FAMILIES, [])
