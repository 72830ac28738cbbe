"""What the error analysis reads: likelihoods, answers and scores of forty rows, some of them hostile."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import builders
from errors import errors
from snaketune.rows import SPLIT
from snaketune.scoring import measures
from snaketune.scoring.likelihood import Likelihood

MODEL = Path(__file__).parents[1] / "resources/tiny-gpt"
SCORE = {
    "metrics": ["bleu", "rouge"],
    "own": [],
    "bleu_tokenizer": "13a",
    "rouge_stemmer": False,
    "classes": None,
    "overlap_ngram": 8,
}
SETTINGS = {
    "rows": 6,
    "format": None,
    "seed": 7,
    "score": SCORE,
    "compare": {"resamples": 100},
    "trust_remote_code": False,
}
WORDS = ["the", "a", "model", "parser", "learns", "fails", "to", "of", "results", "data", "we", "show", "text"]
HOSTILE = [
    "<script>alert(1)</script> {{ 7 * 7 }} the model",
    "naïve 自然言語処理 हिन्दी में مرحبا 👩‍👩‍👧 \u202e\x1b[31m",
    "y " * 50_000,
]
ROWS = 40
ANSWERED = 36  # the last rows have no answer


def made_rows() -> list[dict[str, Any]]:
    """Test rows in about twenty families, from three sources, with four labels; the first ones hostile."""
    rng = random.Random(0)
    rows = []
    for i in range(ROWS):
        text = HOSTILE[i] if i < len(HOSTILE) else " ".join(rng.choices(WORDS, k=5 + i // 4))
        rows.append(
            builders.row(
                text,
                " ".join(rng.choices(WORDS, k=rng.randint(3, 30))),
                source=["a", "a", "a", "b", "c"][i % 5],
                label=None if i % 4 == 3 else f"l{i % 4}",
                family=f"{rng.randrange(ROWS // 2):032x}",
                cluster="",
            )
        )
    return sorted(rows, key=lambda row: row["row_id"])


class Files:
    """The files that the error analysis reads, of a base that keeps half of the words and a tuned model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = made_rows()
        self.tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        self.outputs = {
            "base": [self._said(row["completion"], 1, 0.5) for row in self.rows],
            "tuned": [self._said(row["completion"], 2, 0.6) for row in self.rows],
        }
        train = [builders.row(" ".join(random.Random(i).choices(WORDS, k=12)), "Say:") for i in range(300)]
        self.paths: dict[str, Any] = {
            "test": builders.write(folder / "test.parquet", self.rows, SPLIT),
            "train": builders.write(folder / "train.parquet", train),
            "tokenizer": str(MODEL),
        }

    def _said(self, text: str, seed: int, kept: float) -> str:
        rng = random.Random(f"{seed} {text[:99]}")
        return " ".join(word if rng.random() < kept else rng.choice(WORDS) for word in text.split()[:60])

    def written(self) -> dict[str, Any]:
        """Write likelihoods, answers and scores of both sides; returns all paths."""
        for number, side in enumerate(("base", "tuned")):
            rng = np.random.default_rng(number)
            ids = [[*self.tokenizer.encode(row["completion"]).ids, 0] for row in self.rows]
            nll = [rng.gamma(2.0, 2.5 - number, size=len(one)).astype(np.float32) for one in ids]
            row_ids = [row["row_id"] for row in self.rows]
            lists = {"token_ids": pa.array(ids, pa.list_(pa.int32())), "token_nll": pa.array(nll)}
            self._write("likelihoods", side, {"row_id": row_ids, **lists})
            texts = {name: [row[name] for row in self.rows] for name in ("prompt", "completion")}
            answers = {"row_id": row_ids, "prompt": texts["prompt"], "reference": texts["completion"]}
            answers |= {"output": self.outputs[side], "n_tokens": [9] * ROWS, "stopped": ["eos"] * ROWS}
            self._write("answers", side, {name: values[:ANSWERED] for name, values in answers.items()})
            self._write("scores", side, self._scores(side, ids, nll))
        return self.paths

    def _scores(self, side: str, ids: list[list[int]], nll: list[np.ndarray]) -> dict[str, Any]:
        keys = {name: [row[name] for row in self.rows] for name in ("row_id", "family", "label", "source")}
        tokens, nats = [len(one) for one in ids], [float(one.sum()) for one in nll]
        columns = keys | {name: [1.0] * ROWS for name in Likelihood.COLUMNS}
        columns |= {"kind": ["pair"] * ROWS, "n_tokens": tokens, "nll": nats}
        asked = [len(row["prompt"].split()) for row in self.rows]
        columns["n_prompt_tokens"] = pa.array([*asked[:ANSWERED], *[None] * (ROWS - ANSWERED)], pa.int64())
        references = [row["completion"] for row in self.rows][:ANSWERED]
        blank = [""] * ANSWERED
        answers = measures.Answers(self.outputs[side][:ANSWERED], references, blank, blank)
        for name, measure in measures.load(SCORE).items():
            for statistic, values in measure.statistics(answers).items():
                columns[f"{name}_{statistic}"] = pa.array([*values, *[None] * (ROWS - ANSWERED)], pa.float64())
        return columns

    def _write(self, kind: str, side: str, columns: dict[str, Any]) -> None:
        path = self.folder / f"{kind}-{side}.parquet"
        pq.write_table(pa.table(columns), path)
        self.paths.setdefault(kind, []).append(str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("errors"))
    made.written()
    return made


def analysed(files: Files, out: Path, **changes: Any) -> dict[str, Any]:
    """The errors.json of these files; changes: over SETTINGS."""
    errors(files.paths, str(out), SETTINGS | changes)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document(files: Files) -> dict[str, Any]:
    return analysed(files, files.folder / "errors.json")
