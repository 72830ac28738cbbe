"""From likelihoods and answers to metrics.json: every number, interval and count held against an independent way."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.significance import PairedTest

from compare import compare
from probe import PROBES
from snaketune.job import StageError
from snaketune.scoring import measures
from snaketune.scoring.bootstrap import bootstrap_sums, entries
from snaketune.scoring.likelihood import Likelihood

METRICS = ["bleu", "chrf", "ter", "rouge", "exact_match", "token_f1", "diversity", "length_ratio"]
SCORE = {
    "metrics": METRICS,
    "own": [],
    "bleu_tokenizer": "13a",
    "rouge_stemmer": False,
    "classes": None,
    "overlap_ngram": 8,
}
SETTINGS = {"run": "tiny", "seed": 7, "score": SCORE, "compare": {"resamples": 100}}
WORDS = [
    *("the", "a", "model", "parser", "learns", "fails", "to", "of", "results", "data", "sets", "we", "show", "improve"),
    *("on", "neural", "text"),
]
ROWS = 40
TEXT_METRICS = {"bleu", "chrf", "ter", "exact_match", "token_f1", "length_ratio"}
TEXT_METRICS |= {"rouge1", "rouge2", "rougeL", "rougeLsum", "distinct_1", "distinct_2", "self_bleu", "repetition"}
PUBLISHED = TEXT_METRICS | set(Likelihood.METRICS)
OF_A_CORPUS = {"calibration_error", "distinct_1", "distinct_2", "self_bleu"}  # no row has such a score


def _side(seed: int, nats: float, kept: float) -> list[dict]:
    """Forty rows in about seventeen families, with a model that pays `nats` a token and keeps a share of the words."""
    truth, rng = random.Random(0), random.Random(seed)
    rows = []
    for i in range(ROWS):
        reference = truth.choices(WORDS, k=truth.randint(5, 15))
        output = [word if rng.random() < kept else rng.choice(WORDS) for word in reference]
        tokens = len(reference) + 1
        nll = sum(rng.gauss(nats, 0.5) for _ in range(tokens))
        rows.append(
            {
                "row_id": f"{i * 7919 % 1000:032x}",
                "family": f"{truth.randrange(ROWS // 2):032x}",
                "label": "odd" if i % 2 else None,
                "source": "made up",
                "reference": " ".join(reference),
                "output": " ".join(output[: len(output) - i % 3]),
                "n_tokens": tokens,
                "nll": nll,
                "n_tokens_full": tokens + 6,
                "nll_full": nll + 20.0,
                "n_bytes": len(" ".join(reference)),
                "nll_text": nll - 0.5,
                "n_correct": rng.randint(0, tokens),
                "n_top5": tokens,
                "entropy": 2.0 * tokens,
                **_bins(tokens, rng),
            }
        )
    return rows


def _bins(tokens: int, rng: random.Random) -> dict[str, float]:
    """The confidence of each token, in bins; the first bin stays empty."""
    found = dict.fromkeys((f"bin{k}_{name}" for k in range(10) for name in ("n", "confidence", "correct")), 0.0)
    for _ in range(tokens):
        confidence = rng.uniform(0.11, 1)
        k = math.ceil(10 * confidence) - 1
        found[f"bin{k}_n"] += 1
        found[f"bin{k}_confidence"] += confidence
        found[f"bin{k}_correct"] += rng.random() < confidence / 2
    return found


BASE, TUNED = _side(seed=1, nats=5.0, kept=0.5), _side(seed=2, nats=4.9, kept=0.6)


def _scored(
    folder: Path,
    name: str,
    rows: list[dict],
    answers: list[dict] | None = None,
    settings: dict = SCORE,
    **stamps: Any,
) -> str:
    """A file of scores as the stage `score` writes it; the rows that are not among `answers` have none."""
    answers = rows if answers is None else answers
    rows = sorted(rows, key=lambda row: row["row_id"])
    told = {row["row_id"] for row in answers}
    answered = [row for row in rows if row["row_id"] in told]
    columns = {key: [row[key] for row in rows] for key in ("row_id", "family", "label", "source", *Likelihood.COLUMNS)}
    loaded = measures.load(settings, stamps.get("classes"))
    texts = [[row[key] for row in answered] for key in ("output", "reference", "output", "label")]
    for measure, loads in loaded.items():
        for statistic, values in loads.statistics(measures.Answers(*texts)).items():
            value = iter(values)
            spread = [next(value) if row["row_id"] in told else None for row in rows]
            columns[f"{measure}_{statistic}"] = pa.array(spread, pa.float64())
    windows = stamps.pop("windows", {"window": None, "stride": None})
    stamps = {"signatures": Likelihood(windows).signature() | measures.signatures(loaded)} | stamps
    table = pa.table(columns).replace_schema_metadata({key: json.dumps(value) for key, value in stamps.items()})
    path = str(folder / f"{name}-scores.parquet")
    pq.write_table(table, path)
    return path


def _compared(folder: Path, base: list[dict] = BASE, tuned: list[dict] = TUNED, **changes) -> dict:
    report = folder / "metrics.json"
    settings = SETTINGS | changes
    paths = [_scored(folder, name, rows, settings=settings["score"]) for name, rows in (("b", base), ("t", tuned))]
    compare(*paths, str(report), settings)
    return json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    return _compared(tmp_path_factory.mktemp("report"))


def _bleu(rows: list[dict]) -> float:
    return sacrebleu.corpus_bleu([row["output"] for row in rows], [[row["reference"] for row in rows]]).score


def _perplexity(rows: list[dict]) -> float:
    return math.exp(math.fsum(row["nll"] for row in rows) / sum(row["n_tokens"] for row in rows))


def _rouge(rows: list[dict]) -> float:
    scorer = RougeScorer(["rougeL"])
    return 100 * math.fsum(scorer.score(r["reference"], r["output"])["rougeL"].fmeasure for r in rows) / len(rows)


def test_every_published_number_is_there_with_its_signature(report):
    assert set(report["metrics"]) == set(report["signatures"]) == PUBLISHED
    assert report["run"] == "tiny"
    assert report["settings"] == {key: value for key, value in SETTINGS.items() if key != "run"}
    loaded = {"likelihood": Likelihood()} | measures.load(SCORE)
    better = {name: entry["higher_is_better"] for name, entry in report["metrics"].items()}
    assert better == measures.directions(loaded)
    assert {name for name, direction in better.items() if direction is None} >= {"entropy", "length_ratio"}
    assert (better["perplexity"], better["bleu"]) == (False, True)


def test_every_row_is_won_lost_or_a_tie_in_each_metric_of_rows(report):
    for name, entry in report["metrics"].items():
        if name in OF_A_CORPUS:
            assert (entry["wins"], entry["ties"], entry["losses"]) == (None, None, None)
        else:
            assert entry["wins"] + entry["ties"] + entry["losses"] == entry["n"] == ROWS


def test_calibration_is_the_share_of_right_tokens_by_confidence(report):
    assert report["calibration"]["edges"] == [k / 10 for k in range(11)]
    for side, rows in (("base", BASE), ("tuned", TUNED)):
        bars = report["calibration"][side]
        assert bars[0] == {"n": 0, "confidence": None, "accuracy": None}
        n, confidence, right = (sum(row[f"bin7_{name}"] for row in rows) for name in ("n", "confidence", "correct"))
        assert bars[7] == {"n": n, "confidence": round(confidence / n, 6), "accuracy": round(right / n, 6)}
        error = 100 * sum(bar["n"] * abs(bar["confidence"] - bar["accuracy"]) for bar in bars[1:])
        entry = report["metrics"]["calibration_error"]
        assert entry[side] == pytest.approx(error / sum(bar["n"] for bar in bars), abs=1e-3)


@pytest.mark.parametrize(("metric", "by_hand"), [("bleu", _bleu), ("perplexity", _perplexity), ("rougeL", _rouge)])
def test_both_models_have_the_scores_of_an_independent_program(report, metric, by_hand):
    entry = report["metrics"][metric]
    assert (entry["base"], entry["tuned"]) == pytest.approx((by_hand(BASE), by_hand(TUNED)), abs=1e-6)
    assert entry["delta"] == pytest.approx(by_hand(TUNED) - by_hand(BASE), abs=1e-6)


@pytest.mark.parametrize(("metric", "by_hand"), [("bleu", _bleu), ("perplexity", _perplexity), ("rougeL", _rouge)])
def test_the_bootstrap_is_the_naive_loop_over_families(report, metric, by_hand):
    names = sorted({row["family"] for row in BASE})
    rng = np.random.default_rng(SETTINGS["seed"])
    scores = []
    for _ in range(SETTINGS["compare"]["resamples"]):
        times = dict(zip(names, rng.multinomial(len(names), [1 / len(names)] * len(names)), strict=True))
        drawn = [[row for row in side for _ in range(times[row["family"]])] for side in (BASE, TUNED)]
        scores.append([by_hand(rows) for rows in drawn])
    base, tuned = np.array(scores).T
    entry = report["metrics"][metric]
    assert entry["base_ci95"] == pytest.approx(np.percentile(base, (2.5, 97.5)), abs=1e-6)
    assert entry["tuned_ci95"] == pytest.approx(np.percentile(tuned, (2.5, 97.5)), abs=1e-6)
    assert entry["ci95"] == pytest.approx(np.percentile(tuned - base, (2.5, 97.5)), abs=1e-6)
    tail = min(sum(tuned <= base), sum(tuned >= base))
    assert entry["p"] == pytest.approx(min(1, 2 * (tail + 1) / 101), abs=1e-6)


RESAMPLES = 4000


def test_intervals_and_p_agree_with_sacrebleus_paired_bootstrap():
    """What the command `sacrebleu --paired-bs` runs; it draws rows, so here each row is a family.

    The draws are others, so the ends of an interval differ by chance: the 2.5th percentile of 4,000 normal draws has a
    standard error of 0.042 of their deviation (sqrt(0.025 * 0.975 / 4000) over the density there, 0.058). Half the
    distance of two ends, and their middle, have 0.030; of two programs 0.042; by the half width of 1.96 that is 2.1 %.
    Four times that is allowed. sacrebleu's p is another: the share of draws whose absolute difference is larger than
    its own mean by more than the difference itself. Of a clear difference that is one tail, where ours is two.
    """
    loaded = measures.load(SCORE | {"metrics": ["bleu", "chrf"]})
    texts = [[[row[key] for row in side] for key in ("output", "reference")] for side in (BASE, TUNED)]
    found = [
        {name: loads.statistics(measures.Answers(*pair, *[[""] * ROWS] * 2)) for name, loads in loaded.items()}
        for pair in texts
    ]
    ours = entries(loaded, *found, np.arange(ROWS), RESAMPLES, seed=7)
    pair = {"BLEU": sacrebleu.BLEU(references=[texts[0][1]]), "chrF2": sacrebleu.CHRF(references=[texts[0][1]])}
    systems = [("base", texts[0][0]), ("tuned", texts[1][0])]
    _, theirs = PairedTest(systems, pair, references=None, test_type="bs", n_samples=RESAMPLES)()
    for metric, results in (("bleu", theirs["BLEU"]), ("chrf", theirs["chrF2"])):
        for side, result in zip(("base", "tuned"), results, strict=True):
            low, high = ours[metric][f"{side}_ci95"]
            assert ours[metric][side] == pytest.approx(result.score, abs=1e-6)
            assert (high - low) / 2 == pytest.approx(result.ci, rel=0.085)
            assert (high + low) / 2 == pytest.approx(result.mean, abs=0.085 * float(result.ci))
        differences = _differences(loaded[metric], [side[metric] for side in found])
        beyond = np.abs(differences) - np.abs(differences).mean() > abs(ours[metric]["delta"])
        assert beyond.mean() == pytest.approx(results[1].p_value, abs=4 * math.sqrt(2 * 0.1 * 0.9 / RESAMPLES))
        assert 1.5 < ours[metric]["p"] / results[1].p_value < 3


def _differences(measure: Any, sides: list[dict]) -> np.ndarray:
    """Tuned less base of each draw, [RESAMPLES]."""
    names = list(sides[0])
    drawn = [bootstrap_sums(np.stack([side[name] for name in names], axis=1), RESAMPLES, seed=7) for side in sides]
    metric = measure.METRICS[0]
    base, tuned = (measure.aggregate(dict(zip(names, sums.T, strict=True)), ROWS)[metric] for sums in drawn)
    return tuned - base


def test_the_order_of_rows_changes_no_byte(tmp_path):
    texts = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        shuffled = [random.Random(seed + i).sample(side, ROWS) for i, side in enumerate((BASE, TUNED))]
        _compared(folder, *shuffled)
        texts.append((folder / "metrics.json").read_bytes())
        for name in ("b", "t"):  # and of the files of scores
            table = pq.read_table(folder / f"{name}-scores.parquet")
            pq.write_table(table.take(random.Random(seed).sample(range(ROWS), ROWS)), folder / f"{name}.parquet")
        compare(str(folder / "b.parquet"), str(folder / "t.parquet"), str(folder / "again.json"), SETTINGS)
        texts.append((folder / "again.json").read_bytes())
    assert len(set(texts)) == 1


def test_copies_of_a_row_in_its_family_narrow_no_interval(tmp_path, report):
    doubled = [[row | {"row_id": row["row_id"] + copy} for row in side for copy in "ab"] for side in (BASE, TUNED)]
    entries = _compared(tmp_path, *doubled)["metrics"]
    for metric in PUBLISHED - {"distinct_1", "distinct_2", "self_bleu"}:  # of copies those are less varied
        assert entries[metric]["n"] == 2 * ROWS
        assert entries[metric]["ci95"] == pytest.approx(report["metrics"][metric]["ci95"], abs=1e-5)


def test_a_model_against_itself_is_no_better(tmp_path):
    for name, entry in _compared(tmp_path, BASE, BASE)["metrics"].items():
        assert (entry["delta"], entry["ci95"], entry["p"]) == (0, [0, 0], 1)
        if name not in OF_A_CORPUS:
            assert (entry["wins"], entry["ties"], entry["losses"]) == (0, ROWS, 0)


def test_a_row_is_won_by_the_lower_perplexity_and_the_higher_rouge(tmp_path):
    tuned = [dict(row) for row in BASE]
    for row in tuned[:3]:
        row["nll"], row["output"] = row["nll"] - 1, row["reference"]
    tuned[3]["nll"], tuned[3]["output"] = tuned[3]["nll"] + 1, ""
    entries = _compared(tmp_path, BASE, tuned)["metrics"]
    for metric in ("perplexity", "rouge1", "chrf", "bleu"):
        assert (entries[metric]["wins"], entries[metric]["ties"], entries[metric]["losses"]) == (3, ROWS - 4, 1)


def test_rows_without_an_answer_count_for_the_likelihood_alone(tmp_path):
    few = [sorted(side, key=lambda row: row["row_id"])[:10] for side in (BASE, TUNED)]
    paths = [
        _scored(tmp_path, name, rows, answers) for name, rows, answers in zip("bt", (BASE, TUNED), few, strict=True)
    ]
    scores = pq.read_table(paths[0])
    assert scores["bleu_correct_1"].null_count == scores["rouge_rouge1"].null_count == ROWS - 10
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)
    entries = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert (entries["perplexity"]["n"], entries["bleu"]["n"]) == (ROWS, 10)
    assert entries["bleu"]["base"] == pytest.approx(_bleu(few[0]), abs=1e-6)
    assert entries["rougeL"]["base"] == pytest.approx(_rouge(few[0]), abs=1e-6)


def test_an_empty_answer_is_scored_and_not_left_out(tmp_path):
    silent = [row | {"output": "" if i < 5 else row["output"]} for i, row in enumerate(BASE)]
    entry = _compared(tmp_path, BASE, silent)["metrics"]["rougeL"]
    assert (entry["n"], entry["tuned"]) == (ROWS, pytest.approx(_rouge(silent), abs=1e-6))


def test_one_metric_alone_can_be_asked_for(tmp_path):
    settings = SCORE | {"metrics": ["chrf"]}
    paths = [_scored(tmp_path, name, rows, settings=settings) for name, rows in (("b", BASE), ("t", TUNED))]
    sentence = compare(*paths, str(tmp_path / "metrics.json"), SETTINGS | {"score": settings})
    entries = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert set(entries) == {*Likelihood.METRICS, "chrf"}
    assert sentence.startswith("perplexity ")


def test_different_rows_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"different rows; 1 stand on one side only, such as 0+"):
        _compared(tmp_path, BASE, TUNED[1:])


def test_different_answered_rows_are_refused(tmp_path):
    paths = [_scored(tmp_path, "b", BASE, BASE[:5]), _scored(tmp_path, "t", TUNED, TUNED[:6])]
    with pytest.raises(StageError, match=r"generate\.limit"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_scores_of_two_tokenizers_are_refused(tmp_path):
    paths = [_scored(tmp_path, "b", BASE, settings=SCORE | {"bleu_tokenizer": "char"}), _scored(tmp_path, "t", TUNED)]
    with pytest.raises(StageError, match=r"bleu of base was scored as `.*tok:char"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_scores_that_lack_a_metric_are_refused(tmp_path):
    paths = [_scored(tmp_path, "b", BASE, settings=SCORE | {"metrics": ["bleu"]}), _scored(tmp_path, "t", TUNED)]
    with pytest.raises(StageError, match="base lack chrf, ter, rouge, exact_match, "):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def _labelled(outputs: list[str]) -> list[dict]:
    """Rows of three classes: four that are red, four that are green, two that are blue."""
    golds = ["red"] * 4 + ["green"] * 4 + ["blue"] * 2
    return [row | {"label": gold, "output": said} for row, gold, said in zip(BASE, golds, outputs, strict=False)]


def test_classes_have_their_confusion_and_scores_by_hand(tmp_path):
    base = _labelled(["red", "green", "red", "?", "green", "green", "red", "green", "green", "blue"])
    tuned = _labelled(["red", "red", "red", "red", "green", "green", "green", "green", "blue", "blue"])
    labels = ["blue", "green", "red"]
    settings = SETTINGS | {"score": SCORE | {"metrics": ["classification"]}}
    paths = [
        _scored(tmp_path, name, rows, settings=settings["score"], classes=labels)
        for name, rows in (("b", base), ("t", tuned))
    ]
    compare(*paths, str(tmp_path / "metrics.json"), settings)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    found = report["classes"]
    assert found["labels"] == labels
    assert found["confusion"]["base"] == [[1, 1, 0, 0], [0, 3, 1, 0], [0, 1, 2, 1]]
    assert found["confusion"]["tuned"] == [[2, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]]
    assert {label: part["support"] for label, part in found["per_class"].items()} == {"blue": 2, "green": 4, "red": 4}
    green = found["per_class"]["green"]
    assert [green[name]["base"] for name in ("precision", "recall", "f1")] == pytest.approx(
        [100 * 3 / 5, 100 * 3 / 4, 100 * 6 / 9], abs=1e-6
    )
    assert green["recall"]["delta"] == 25
    assert (green["recall"]["n"], green["recall"]["wins"], green["recall"]["higher_is_better"]) == (10, None, True)
    low, high = green["recall"]["ci95"]
    assert low < 25 < high
    accuracy = report["metrics"]["accuracy"]
    assert (accuracy["base"], accuracy["wins"], accuracy["ties"], accuracy["losses"]) == (60, 4, 6, 0)
    assert report["metrics"]["f1_macro"]["wins"] is None


def test_scores_with_other_classes_are_refused(tmp_path):
    rows = _labelled(["red"] * 10)
    settings = SETTINGS | {"score": SCORE | {"metrics": ["classification"]}}
    paths = [
        _scored(tmp_path, name, rows, settings=settings["score"], classes=["red", "green", "blue", *more])
        for name, more in (("b", []), ("t", ["grey"]))
    ]
    with pytest.raises(StageError, match=r"those of tuned into .*'grey'.*`score.classes`"):
        compare(*paths, str(tmp_path / "metrics.json"), settings)


def test_a_metric_of_the_users_own_stands_beside_the_others(tmp_path):
    """Two groups: by hand, the standard error of the difference is sqrt(1 / 2 * (1 + 1)) = 1."""
    about = {"higher_is_better": None, "signature": "mine", "n": ROWS}
    sides = [{"value": 5.0, "groups": [4.0, 6.0]}, {"value": 8.0, "groups": [8.0, 8.0]}]
    paths = []
    for name, rows, side in zip("bt", (BASE, TUNED), sides, strict=True):
        paths.append(_scored(tmp_path, name, rows, own={"mine": side | about}))
        table = pq.read_table(paths[-1])
        signatures = json.loads(table.schema.metadata[b"signatures"]) | {"mine": "mine"}
        pq.write_table(
            table.replace_schema_metadata(table.schema.metadata | {b"signatures": json.dumps(signatures)}), paths[-1]
        )
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    entry = report["metrics"]["mine"]
    assert (entry["base"], entry["tuned"], entry["delta"], entry["wins"], entry["n"]) == (5, 8, 3, None, ROWS)
    assert entry["ci95"] == pytest.approx([3 - 12.706205, 3 + 12.706205], abs=1e-5)  # Student's t of one degree
    assert report["signatures"]["mine"] == "mine"
    assert set(report["signatures"]) == set(report["metrics"])


def _probes(folder: Path, name: str, cost: float, outputs: list[str]) -> str:
    """Three passages of general text, and two templates and prompts with two terms of one axis."""
    empty = dict.fromkeys(("topic", "axis", "group", "term", "prefix", "output"))
    rows = [
        empty | {"kind": "general", "item": f"p{i}", "text": "t", "nll": cost * 10, "n_tokens": 10, "n_bytes": 40}
        for i in range(3)
    ]
    for item in range(2):
        for i, (group, term) in enumerate((("women", "woman"), ("men", "man"))):
            who = empty | {"axis": "gender", "group": group, "term": term, "prefix": f"The {term}", "text": " is"}
            nll = 4 * (1 + (item + 1) * i * cost)
            rows.append(who | {"kind": "likelihood", "item": f"t{item}", "nll": nll, "n_tokens": 4, "n_bytes": 3})
            said = {"output": outputs[i], "nll": None, "n_tokens": 2, "n_bytes": 9}
            rows.append(who | {"kind": "generation", "item": f"g{item}"} | said)
    axis = {"groups": ["women", "men"], "mask": [], "control": False}
    about = {
        "general": {"file": "shipped", "sha256": "0" * 64, "passages": 3},
        "bias": {"file": "shipped", "sha256": "1" * 64, "axes": {"gender": axis}},
    }
    table = pa.Table.from_pylist(rows, schema=PROBES.with_metadata({"probes": json.dumps(about)}))
    pq.write_table(table, folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def test_probes_are_metrics_like_others_and_sections_of_their_own(tmp_path):
    paths = [_scored(tmp_path, name, rows) for name, rows in (("b", BASE), ("t", TUNED))]
    probes = (_probes(tmp_path, "pb", 2.0, ["a b", "a b"]), _probes(tmp_path, "pt", 3.0, ["a b", "c d"]))
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS, probes)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    names = {"general_perplexity", "general_bits_per_byte", "bias_likelihood_gap", "bias_output_difference"}
    assert set(report["metrics"]) == set(report["signatures"]) == PUBLISHED | names
    general = report["metrics"]["general_perplexity"]
    assert (general["base"], general["tuned"]) == pytest.approx((math.exp(2), math.exp(3)), abs=1e-6)
    assert (general["n"], general["losses"], general["higher_is_better"]) == (3, 3, False)
    gap = report["bias"]["gender"]["gap"]
    assert (gap["base"], gap["tuned"], gap["n"]) == pytest.approx((3, 4.5, 2))  # (c + 2 c) / 2 nats per token
    assert report["bias"]["gender"]["output_difference"]["tuned"] == 100
    assert report["bias"]["gender"]["groups"]["men"]["base"] == pytest.approx(1.5)
    assert report["probes"]["general"]["passages"] == 3


def test_without_probes_their_sections_are_null(report):
    assert report["bias"] is None
    assert report["classes"] is None
    assert report["probes"] == {"general": None, "bias": None}


def test_likelihoods_of_two_windows_are_refused(tmp_path):
    paths = [_scored(tmp_path, "b", BASE), _scored(tmp_path, "t", TUNED, windows={"window": 512, "stride": 256})]
    with pytest.raises(StageError, match=r"window of a text:512.*with one setting of `likelihood`"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_one_row_in_two_families_is_refused(tmp_path):
    with pytest.raises(StageError, match="different families"):
        _compared(tmp_path, BASE, [TUNED[0] | {"family": "another"}, *TUNED[1:]])


def test_hostile_texts_are_compared_and_their_metrics_are_numbers(tmp_path):
    texts = ["<script>", "", "\u202e\x00\x1b[31m", "自然言語", "y " * 50_000, "{{ 7 * 7 }}", "\ufffd"]
    sides = [
        [row | {"output": texts[i % len(texts)], "reference": texts[i % 3]} for i, row in enumerate(side)]
        for side in (BASE, TUNED)
    ]
    entries = _compared(tmp_path, *sides)["metrics"]
    assert set(entries) == PUBLISHED
    assert all(math.isfinite(entry["tuned"]) for entry in entries.values())


def test_rows_of_one_family_have_intervals_without_width(tmp_path):
    sides = [[row | {"family": "one"} for row in side] for side in (BASE, TUNED)]
    entry = _compared(tmp_path, *sides)["metrics"]["perplexity"]
    assert entry["ci95"] == pytest.approx([entry["delta"]] * 2, abs=1e-5)
    assert entry["p"] == pytest.approx(2 / 101, abs=1e-6)


def test_neither_torch_nor_transformers_nor_evaluate_is_needed(tmp_path):
    paths = [_scored(tmp_path, name, rows) for name, rows in (("b", BASE), ("t", TUNED))]
    program = (
        "import json, sys\n"
        "from compare import compare\n"
        "compare(*json.loads(sys.argv[1]))\n"
        "print(sorted({'torch', 'transformers', 'evaluate', 'datasets'} & set(sys.modules)))\n"
    )
    scripts = Path(__file__).parents[1] / "workflow/scripts"
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([*paths, str(tmp_path / "metrics.json"), SETTINGS])],
        env=os.environ | {"PYTHONPATH": str(scripts)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_an_infinite_perplexity_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(StageError, match="perplexity: `base` is inf"):
        _compared(tmp_path, [row | {"nll": 1e6} for row in BASE], TUNED)
    assert not (tmp_path / "metrics.json").exists()


def test_the_table_is_aligned_and_shows_both_models_with_their_intervals(report):
    lines = measures.table(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[1:]] == ["perplexity", "BLEU", "ROUGE-L"]
    entry = report["metrics"]["bleu"]
    bleu = lines[2]
    for text in (f" {entry['base']:.2f} ", f" {entry['tuned']:.2f} ", f" {entry['delta']:+.2f} "):
        assert text in bleu
    assert bleu.count("[") == 3
