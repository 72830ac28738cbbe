"""From likelihoods and answers to metrics.json: every number, interval and count held against an independent way."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.significance import PairedTest

import compare as comparing
from compare import compare, p_value
from score import score
from snaketune.job import StageError
from snaketune.metrics import LOWER_IS_BETTER, table

SCORE = {"metrics": ["bleu", "chrf", "rouge", "exact_match"], "bleu_tokenizer": "13a", "rouge_stemmer": False}
SETTINGS = {"run": "tiny", "seed": 7, "score": SCORE, "compare": {"resamples": 100}}
WORDS = [
    "the",
    "a",
    "model",
    "parser",
    "learns",
    "fails",
    "to",
    "of",
    "results",
    "data",
    "sets",
    "we",
    "show",
    "improve",
    "on",
    "neural",
    "text",
]
ROWS = 40
PUBLISHED = {"perplexity", "perplexity_full", "bits_per_byte", "token_accuracy", "bleu", "chrf", "exact_match"} | {
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
}


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
            }
        )
    return rows


BASE, TUNED = _side(seed=1, nats=5.0, kept=0.5), _side(seed=2, nats=4.9, kept=0.6)


def _scored(
    folder: Path, name: str, rows: list[dict], answers: list[dict] | None = None, settings: dict = SCORE
) -> str:
    """The stage `score` on these rows; returns the path of its file."""
    answers = rows if answers is None else answers
    paths = {part: str(folder / f"{name}-{part}.parquet") for part in ("likelihood", "generated", "test", "scores")}
    columns = {
        "likelihood": ("row_id", "n_tokens", "nll", "n_tokens_full", "nll_full", "n_bytes", "nll_text", "n_correct"),
        "generated": ("row_id", "reference", "output"),
        "test": ("row_id", "family", "label", "source"),
    }
    for part, names in columns.items():
        lines = answers if part == "generated" else rows
        pq.write_table(pa.table({name: [row[name] for row in lines] for name in names}), paths[part])
    score(paths["likelihood"], paths["generated"], paths["test"], paths["scores"], settings)
    return paths["scores"]


def _compared(folder: Path, base: list[dict] = BASE, tuned: list[dict] = TUNED, **changes) -> dict:
    report = folder / "metrics.json"
    settings = SETTINGS | changes
    compare(_scored(folder, "base", base), _scored(folder, "tuned", tuned), str(report), settings)
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
    assert {name for name, entry in report["metrics"].items() if not entry["higher_is_better"]} == LOWER_IS_BETTER


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


def test_intervals_agree_with_sacrebleus_paired_bootstrap(tmp_path):
    """sacrebleu draws rows, so here each row is a family; other draws, so the ends differ by noise."""
    base, tuned = ([row | {"family": row["row_id"]} for row in side] for side in (BASE, TUNED))
    ours = _compared(tmp_path, base, tuned, compare={"resamples": 2000})["metrics"]
    systems = [("base", [row["output"] for row in base]), ("tuned", [row["output"] for row in tuned])]
    references = [[row["reference"] for row in base]]
    pair = {"BLEU": sacrebleu.BLEU(references=references), "chrF2": sacrebleu.CHRF(references=references)}
    _, theirs = PairedTest(systems, pair, references=None, test_type="bs", n_samples=2000)()
    for metric, results in (("bleu", theirs["BLEU"]), ("chrf", theirs["chrF2"])):
        for side, result in zip(("base", "tuned"), results, strict=True):
            low, high = ours[metric][f"{side}_ci95"]
            assert ours[metric][side] == pytest.approx(result.score, abs=1e-6)
            assert (high - low) / 2 == pytest.approx(result.ci, rel=0.1)
            assert (high + low) / 2 == pytest.approx(result.mean, abs=0.15 * float(result.ci))


def test_the_order_of_rows_changes_no_byte(tmp_path):
    texts = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        shuffled = [random.Random(seed + i).sample(side, ROWS) for i, side in enumerate((BASE, TUNED))]
        _compared(folder, *shuffled)
        texts.append((folder / "metrics.json").read_bytes())
        texts.append((folder / "base-scores.parquet").read_bytes())
    assert texts[:2] == texts[2:]


def test_rows_are_paired_by_their_id_and_not_by_their_place(tmp_path, report):
    paths = [_scored(tmp_path, "b", BASE), _scored(tmp_path, "t", TUNED)]
    pq.write_table(pq.read_table(paths[1]).take(list(range(ROWS))[::-1]), paths[1])
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == report


def test_the_memory_for_draws_changes_no_number(tmp_path, monkeypatch, report):
    monkeypatch.setattr(comparing, "WEIGHTS_AT_ONCE", 200)
    assert _compared(tmp_path) == report


def test_copies_of_a_row_in_its_family_narrow_no_interval(tmp_path, report):
    doubled = [[row | {"row_id": row["row_id"] + copy} for row in side for copy in "ab"] for side in (BASE, TUNED)]
    entries = _compared(tmp_path, *doubled)["metrics"]
    for metric in PUBLISHED:
        assert entries[metric]["n"] == 2 * ROWS
        assert entries[metric]["ci95"] == pytest.approx(report["metrics"][metric]["ci95"], abs=1e-5)


def test_a_model_against_itself_is_no_better(tmp_path):
    for entry in _compared(tmp_path, BASE, BASE)["metrics"].values():
        assert (entry["delta"], entry["ci95"], entry["p"]) == (0, [0, 0], 1)
        assert (entry["wins"], entry["ties"], entry["losses"]) == (0, ROWS, 0)


def test_a_row_is_won_by_the_lower_perplexity_and_the_higher_rouge(tmp_path):
    tuned = [dict(row) for row in BASE]
    for row in tuned[:3]:
        row["nll"], row["output"] = row["nll"] - 1, row["reference"]
    tuned[3]["nll"], tuned[3]["output"] = tuned[3]["nll"] + 1, ""
    entries = _compared(tmp_path, BASE, tuned)["metrics"]
    for metric in ("perplexity", "rouge1", "chrf", "bleu"):
        assert (entries[metric]["wins"], entries[metric]["ties"], entries[metric]["losses"]) == (3, ROWS - 4, 1)


def test_a_sure_difference_has_the_smallest_p_and_none_has_1():
    assert p_value(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert p_value(np.full(999, -0.1)) == pytest.approx(2 / 1000)
    assert p_value(np.array([-1.0, 1.0])) == 1


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
    assert set(entries) == {"perplexity", "perplexity_full", "bits_per_byte", "token_accuracy", "chrf"}
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
    with pytest.raises(StageError, match="base lack chrf, rouge, exact_match"):
        compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused(tmp_path, value):
    with pytest.raises(StageError, match=r"column nll is not a number in 1 rows, the first 0+"):
        _scored(tmp_path, "base", [BASE[0] | {"nll": value}, *BASE[1:]])


def test_an_infinite_perplexity_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(StageError, match="perplexity: `base` is inf"):
        _compared(tmp_path, [row | {"nll": 1e6} for row in BASE], TUNED)
    assert not (tmp_path / "metrics.json").exists()


def test_an_answer_to_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(StageError, match="stranger has an answer, but no likelihood"):
        _scored(tmp_path, "base", BASE, [BASE[0] | {"row_id": "stranger"}])


def test_a_row_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(StageError, match="more than once in the answers"):
        _scored(tmp_path, "base", BASE, [BASE[0], BASE[0]])


def test_the_table_is_aligned_and_shows_both_models_with_their_intervals(report):
    lines = table(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[1:]] == ["perplexity", "BLEU", "ROUGE-L"]
    entry = report["metrics"]["bleu"]
    bleu = lines[2]
    for text in (f" {entry['base']:.2f} ", f" {entry['tuned']:.2f} ", f" {entry['delta']:+.2f} "):
        assert text in bleu
    assert bleu.count("[") == 3
