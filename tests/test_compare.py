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
import pyarrow.parquet as pq
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from compare import compare
from scored_sides import (
    BASE,
    OF_A_CORPUS,
    PUBLISHED,
    ROWS,
    SCORE,
    SETTINGS,
    TUNED,
    bleu_of,
    compared,
    perplexity_of,
    rouge_of,
    scored,
)
from snaketune.job import StageError
from snaketune.scoring import measures
from snaketune.scoring.bootstrap import bootstrap_sums, entries
from snaketune.scoring.likelihood import Likelihood


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("report"))


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


@pytest.mark.parametrize(
    ("metric", "by_hand"), [("bleu", bleu_of), ("perplexity", perplexity_of), ("rougeL", rouge_of)]
)
def test_both_models_have_the_scores_of_an_independent_program(report, metric, by_hand):
    entry = report["metrics"][metric]
    assert (entry["base"], entry["tuned"]) == pytest.approx((by_hand(BASE), by_hand(TUNED)), abs=1e-6)
    assert entry["delta"] == pytest.approx(by_hand(TUNED) - by_hand(BASE), abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "by_hand"), [("bleu", bleu_of), ("perplexity", perplexity_of), ("rougeL", rouge_of)]
)
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
        compared(folder, *shuffled)
        texts.append((folder / "metrics.json").read_bytes())
        for name in ("b", "t"):  # and of the files of scores
            table = pq.read_table(folder / f"{name}-scores.parquet")
            pq.write_table(table.take(random.Random(seed).sample(range(ROWS), ROWS)), folder / f"{name}.parquet")
        compare(str(folder / "b.parquet"), str(folder / "t.parquet"), str(folder / "again.json"), SETTINGS)
        texts.append((folder / "again.json").read_bytes())
    assert len(set(texts)) == 1


def test_copies_of_a_row_in_its_family_narrow_no_interval(tmp_path, report):
    doubled = [[row | {"row_id": row["row_id"] + copy} for row in side for copy in "ab"] for side in (BASE, TUNED)]
    entries = compared(tmp_path, *doubled)["metrics"]
    for metric in PUBLISHED - {"distinct_1", "distinct_2", "self_bleu"}:  # of copies those are less varied
        assert entries[metric]["n"] == 2 * ROWS
        assert entries[metric]["ci95"] == pytest.approx(report["metrics"][metric]["ci95"], abs=1e-5)


def test_a_model_against_itself_is_no_better(tmp_path):
    for name, entry in compared(tmp_path, BASE, BASE)["metrics"].items():
        assert (entry["delta"], entry["ci95"], entry["p"]) == (0, [0, 0], 1)
        if name not in OF_A_CORPUS:
            assert (entry["wins"], entry["ties"], entry["losses"]) == (0, ROWS, 0)


def test_a_row_is_won_by_the_lower_perplexity_and_the_higher_rouge(tmp_path):
    tuned = [dict(row) for row in BASE]
    for row in tuned[:3]:
        row["nll"], row["output"] = row["nll"] - 1, row["reference"]
    tuned[3]["nll"], tuned[3]["output"] = tuned[3]["nll"] + 1, ""
    entries = compared(tmp_path, BASE, tuned)["metrics"]
    for metric in ("perplexity", "rouge1", "chrf", "bleu"):
        assert (entries[metric]["wins"], entries[metric]["ties"], entries[metric]["losses"]) == (3, ROWS - 4, 1)


def test_rows_without_an_answer_count_for_the_likelihood_alone(tmp_path):
    few = [sorted(side, key=lambda row: row["row_id"])[:10] for side in (BASE, TUNED)]
    paths = [
        scored(tmp_path, name, rows, answers) for name, rows, answers in zip("bt", (BASE, TUNED), few, strict=True)
    ]
    scores = pq.read_table(paths[0])
    assert scores["bleu_correct_1"].null_count == scores["rouge_rouge1"].null_count == ROWS - 10
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)
    entries = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert (entries["perplexity"]["n"], entries["bleu"]["n"]) == (ROWS, 10)
    assert entries["bleu"]["base"] == pytest.approx(bleu_of(few[0]), abs=1e-6)
    assert entries["rougeL"]["base"] == pytest.approx(rouge_of(few[0]), abs=1e-6)


def test_an_empty_answer_is_scored_and_not_left_out(tmp_path):
    silent = [row | {"output": "" if i < 5 else row["output"]} for i, row in enumerate(BASE)]
    entry = compared(tmp_path, BASE, silent)["metrics"]["rougeL"]
    assert (entry["n"], entry["tuned"]) == (ROWS, pytest.approx(rouge_of(silent), abs=1e-6))


def test_one_metric_alone_can_be_asked_for(tmp_path):
    settings = SCORE | {"metrics": ["chrf"]}
    paths = [scored(tmp_path, name, rows, settings=settings) for name, rows in (("b", BASE), ("t", TUNED))]
    sentence = compare(*paths, str(tmp_path / "metrics.json"), SETTINGS | {"score": settings})
    entries = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert set(entries) == {*Likelihood.METRICS, "chrf"}
    assert sentence.startswith("perplexity ")


def test_different_rows_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"different rows; 1 stand on one side only, such as 0+"):
        compared(tmp_path, BASE, TUNED[1:])


def test_different_answered_rows_are_refused(tmp_path):
    paths = [scored(tmp_path, "b", BASE, BASE[:5]), scored(tmp_path, "t", TUNED, TUNED[:6])]
    with pytest.raises(StageError, match=r"generate\.limit"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_scores_of_two_tokenizers_are_refused(tmp_path):
    paths = [scored(tmp_path, "b", BASE, settings=SCORE | {"bleu_tokenizer": "char"}), scored(tmp_path, "t", TUNED)]
    with pytest.raises(StageError, match=r"bleu of base was scored as `.*tok:char"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_scores_that_lack_a_metric_are_refused(tmp_path):
    paths = [scored(tmp_path, "b", BASE, settings=SCORE | {"metrics": ["bleu"]}), scored(tmp_path, "t", TUNED)]
    with pytest.raises(StageError, match="base lack chrf, ter, rouge, exact_match, "):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_without_probes_their_sections_are_null(report):
    assert report["bias"] is None
    assert report["classes"] is None
    assert report["probes"] == {"general": None, "bias": None}


def test_likelihoods_of_two_windows_are_refused(tmp_path):
    paths = [scored(tmp_path, "b", BASE), scored(tmp_path, "t", TUNED, windows={"window": 512, "stride": 256})]
    with pytest.raises(StageError, match=r"window of a text:512.*with one setting of `likelihood`"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


def test_one_row_in_two_families_is_refused(tmp_path):
    with pytest.raises(StageError, match="different families"):
        compared(tmp_path, BASE, [TUNED[0] | {"family": "another"}, *TUNED[1:]])


def test_hostile_texts_are_compared_and_their_metrics_are_numbers(tmp_path):
    texts = ["<script>", "", "\u202e\x00\x1b[31m", "自然言語", "y " * 50_000, "{{ 7 * 7 }}", "\ufffd"]
    sides = [
        [row | {"output": texts[i % len(texts)], "reference": texts[i % 3]} for i, row in enumerate(side)]
        for side in (BASE, TUNED)
    ]
    entries = compared(tmp_path, *sides)["metrics"]
    assert set(entries) == PUBLISHED
    assert all(math.isfinite(entry["tuned"]) for entry in entries.values())


def test_rows_of_one_family_have_intervals_without_width(tmp_path):
    sides = [[row | {"family": "one"} for row in side] for side in (BASE, TUNED)]
    entry = compared(tmp_path, *sides)["metrics"]["perplexity"]
    assert entry["ci95"] == pytest.approx([entry["delta"]] * 2, abs=1e-5)
    assert entry["p"] == pytest.approx(2 / 101, abs=1e-6)


def test_neither_torch_nor_transformers_nor_evaluate_is_needed(tmp_path):
    paths = [scored(tmp_path, name, rows) for name, rows in (("b", BASE), ("t", TUNED))]
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
        compared(tmp_path, [row | {"nll": 1e6} for row in BASE], TUNED)
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
