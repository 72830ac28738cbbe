"""Two models' scores of the same forty rows, as the stage `score` writes them, and what an independent program says."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from compare import compare
from snaketune.scoring import measures
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


def side_of(seed: int, nats: float, kept: float) -> list[dict]:
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


BASE, TUNED = side_of(seed=1, nats=5.0, kept=0.5), side_of(seed=2, nats=4.9, kept=0.6)


def scored(
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


def compared(folder: Path, base: list[dict] = BASE, tuned: list[dict] = TUNED, **changes: Any) -> dict:
    """The metrics.json of two sides; changes: over SETTINGS."""
    report = folder / "metrics.json"
    settings = SETTINGS | changes
    paths = [scored(folder, name, rows, settings=settings["score"]) for name, rows in (("b", base), ("t", tuned))]
    compare(*paths, str(report), settings)
    return json.loads(report.read_text(encoding="utf-8"))


def bleu_of(rows: list[dict]) -> float:
    """BLEU by sacrebleu, 0 to 100."""
    return sacrebleu.corpus_bleu([row["output"] for row in rows], [[row["reference"] for row in rows]]).score


def perplexity_of(rows: list[dict]) -> float:
    """Perplexity of the completions, by its definition."""
    return math.exp(math.fsum(row["nll"] for row in rows) / sum(row["n_tokens"] for row in rows))


def rouge_of(rows: list[dict]) -> float:
    """ROUGE-L by rouge_score, 0 to 100."""
    scorer = RougeScorer(["rougeL"])
    return 100 * math.fsum(scorer.score(r["reference"], r["output"])["rougeL"].fmeasure for r in rows) / len(rows)
