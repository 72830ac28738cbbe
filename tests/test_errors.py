"""errors.json: rows with their tokens and nearest train rows, slices, failures; with files of hostile texts."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from tokenizers import Tokenizer

import builders
import models
from errors import errors
from likelihood import likelihood
from snaketune.job import StageError
from snaketune.rows import SPLIT
from snaketune.scoring import measures
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.slices import slices

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


def _rows() -> list[dict[str, Any]]:
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
        self.rows = _rows()
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
def files(tmp_path_factory) -> Files:
    made = Files(tmp_path_factory.mktemp("errors"))
    made.written()
    return made


def _errors(files: Files, out: Path, **changes: Any) -> dict[str, Any]:
    errors(files.paths, str(out), SETTINGS | changes)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document(files: Files) -> dict[str, Any]:
    return _errors(files, files.folder / "errors.json")


def _rouge(files: Files, side: str, row_id: str) -> float:
    scores = pq.read_table(files.paths["scores"][side == "tuned"])
    return 100 * dict(zip(scores["row_id"].to_pylist(), scores["rouge_rougeL"].to_pylist(), strict=True))[row_id]


def test_the_rows_are_those_that_won_and_lost_most_with_both_answers(files, document) -> None:
    assert document["measure"] == "ROUGE-L"
    assert [row["kind"] for row in document["rows"]] == ["won", "won", "lost", "lost", "random", "random"]
    gains = {
        row["row_id"]: _rouge(files, "tuned", row["row_id"]) - _rouge(files, "base", row["row_id"])
        for row in files.rows[:ANSWERED]
    }
    won, lost = (sorted(gains, key=lambda row: (sign * gains[row], row))[:2] for sign in (-1, 1))
    assert [row["row_id"] for row in document["rows"][:4]] == [*won, *lost]
    known = {row["row_id"]: (row, i) for i, row in enumerate(files.rows)}
    for row in document["rows"]:
        test, place = known[row["row_id"]]
        assert (row["prompt"], row["reference"]) == (test["prompt"], test["completion"])
        assert (row["label"], row["source"]) == (test["label"], test["source"])
        for side in ("base", "tuned"):
            assert row[side]["output"] == files.outputs[side][place]
            assert row[side]["value"] == pytest.approx(_rouge(files, side, row["row_id"]), abs=1e-5)


def test_the_tokens_are_the_reference_with_what_each_cost(files: Files, tmp_path: Path) -> None:
    document = _errors(files, tmp_path / "errors.json", rows=ANSWERED)
    likelihoods = [
        {row["row_id"]: row for row in pq.read_table(path).to_pylist()} for path in files.paths["likelihoods"]
    ]
    assert len(document["rows"]) == ANSWERED
    for row in document["rows"]:
        costs = [side[row["row_id"]]["token_nll"] for side in likelihoods]
        assert len(row["tokens"]) + row["tokens_left_out"] == len(costs[0])
        text = "".join(token["text"] for token in row["tokens"])
        if row["tokens_left_out"]:
            assert len(row["tokens"]) == 400
            assert row["reference"].startswith(text)
        else:
            assert text == row["reference"] + files.tokenizer.decode([0], skip_special_tokens=False)
        for side, cost in zip(("base", "tuned"), costs, strict=True):
            assert [token[side] for token in row["tokens"]] == pytest.approx(cost[:400], abs=1e-4)


def test_the_tokens_of_a_real_likelihood_are_the_reference_and_its_end(tmp_path: Path) -> None:
    base = models.base(tmp_path / "base")
    rows = [("never", "river stone 語"), ("green", "<b>{{ 7 }}\x1b"), (None, "naïve 👩‍👧 light\n\n house")]
    folder = models.tokens(rows, base, tmp_path / "tokens", "test", max_length=models.POSITIONS)
    settings = {"window": None, "stride": None, "trust_remote_code": False, "special_tokens": "text"}
    paths: dict[str, list[str]] = {"likelihoods": [], "answers": [], "scores": []}
    for side in ("base", "tuned"):
        paths["likelihoods"].append(str(tmp_path / f"likelihood-{side}.parquet"))
        likelihood(folder, f"{folder}.parquet", base, paths["likelihoods"][-1], settings, gpus=0, threads=1)
        costs = pq.read_table(paths["likelihoods"][-1])
        row_ids = costs["row_id"].to_pylist()
        texts = {name: ["x"] * 3 for name in ("prompt", "reference", "output", "stopped")}
        answers = pa.table({"row_id": row_ids, "n_tokens": [1] * 3} | texts)
        scores = costs.drop_columns(["token_ids", "token_nll"])
        for name in ("family", "label", "source", "kind"):
            scores = scores.append_column(name, pa.array(row_ids))
        for kind, table in (("answers", answers), ("scores", scores)):
            paths[kind].append(str(tmp_path / f"{kind}-{side}.parquet"))
            pq.write_table(table, paths[kind][-1])
    train = builders.write(tmp_path / "train.parquet", [builders.row("river")])
    given = paths | {"test": f"{folder}.parquet", "train": train, "tokenizer": base}
    errors(given, str(tmp_path / "errors.json"), SETTINGS | {"score": SCORE | {"metrics": ["exact_match"]}})
    found = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))
    texts = {"".join(token["text"] for token in row["tokens"]) for row in found["rows"]}
    assert texts == {f"{completion}<|endoftext|>" for _, completion in rows}


def test_a_tokenizer_without_a_tokenizer_json_shows_the_same_tokens(files: Files, tmp_path: Path, document) -> None:
    model = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}), encoding="utf-8"
    )
    shutil.copy(MODEL / "config.json", tmp_path)
    errors(files.paths | {"tokenizer": str(tmp_path)}, str(tmp_path / "errors.json"), SETTINGS)
    assert json.loads((tmp_path / "errors.json").read_text(encoding="utf-8")) == document


def test_won_and_lost_rows_have_their_nearest_train_row(files: Files, tmp_path: Path, document) -> None:
    assert all(row["nearest"] is None for row in document["rows"] if row["kind"] == "random")
    worst = next(row for row in document["rows"] if row["kind"] == "lost")
    copy = builders.row(worst["reference"] + " indeed", worst["prompt"])
    planted = [builders.row("w1 w2 w3 w4"), copy, builders.row("w5 w6 w7")]
    paths = files.paths | {"train": builders.write(tmp_path / "train.parquet", planted)}
    errors(paths, str(tmp_path / "errors.json"), SETTINGS)
    found = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))["rows"]
    near = next(row["nearest"] for row in found if row["row_id"] == worst["row_id"])
    assert (near["row_id"], near["prompt"], near["completion"]) == (copy["row_id"], copy["prompt"], copy["completion"])
    assert 0.8 < near["similarity"] < 1


def test_slices_cover_all_rows_and_what_is_left_out_is_counted(document) -> None:
    covered: dict[str, int] = {}
    for part in [*document["slices"], *({"by": p["by"], "n": p["rows"]} for p in document["slices_left_out"])]:
        covered[part["by"]] = covered.get(part["by"], 0) + part["n"]
    assert covered == {"length": ROWS, "prompt length": ANSWERED, "source": ROWS, "label": ROWS}
    assert [(part["value"], part["n"]) for part in document["slices"] if part["by"] == "source"] == [
        ("a", 24), ("b", 8), ("c", 8)
    ]  # fmt: skip
    assert {part["value"] for part in document["slices"] if part["by"] == "label"} == {None, "l0", "l1", "l2"}


def test_a_slice_has_the_scores_of_its_rows_alone(files: Files, document) -> None:
    part = next(part for part in document["slices"] if (part["by"], part["value"]) == ("source", "b"))
    chosen = [i for i, row in enumerate(files.rows) if row["source"] == "b"]
    scores = pq.read_table(files.paths["scores"][1])
    nats, tokens = (sum(scores[name][i].as_py() for i in chosen) for name in ("nll", "n_tokens"))
    assert part["metrics"]["perplexity"]["tuned"] == pytest.approx(math.exp(nats / tokens), abs=1e-5)
    chosen = [i for i in chosen if i < ANSWERED]
    outputs = [files.outputs["tuned"][i] for i in chosen]
    by_sacrebleu = sacrebleu.corpus_bleu(outputs, [[files.rows[i]["completion"] for i in chosen]]).score
    entry = part["metrics"]["bleu"]
    assert (entry["tuned"], entry["n"]) == (pytest.approx(by_sacrebleu, abs=1e-5), len(chosen))
    assert entry["wins"] + entry["ties"] + entry["losses"] == entry["n"]
    assert entry["ci95"][0] <= entry["delta"] <= entry["ci95"][1]
    assert list(part["metrics"]) == ["perplexity", "rougeL", "bleu"]


def test_length_slices_are_quartiles(files: Files, document) -> None:
    parts = [part for part in document["slices"] if part["by"] == "length"]
    lengths = sorted(len(files.tokenizer.encode(row["completion"]).ids) + 1 for row in files.rows)
    assert sum(part["n"] for part in parts) == ROWS
    done = 0
    for part in parts:
        inside = lengths[done : done + part["n"]]
        assert part["value"] == f"{inside[0]:,} to {inside[-1]:,} tokens"
        done += part["n"]


def test_forty_lengths_make_four_slices_of_ten_and_equal_lengths_stand_together(files: Files) -> None:
    scores = pq.read_table(files.paths["scores"][0])
    nats = np.random.default_rng(1).uniform(1, 90, size=ROWS)
    scores = scores.set_column(scores.column_names.index("nll"), "nll", pa.array(nats))
    order = np.random.default_rng(0).permutation(ROWS)
    for lengths, sizes in ((order + 1, [10, 10, 10, 10]), (np.where(order < 15, 1, order), [15, 5, 10, 10])):
        given = scores.set_column(scores.column_names.index("n_tokens"), "n_tokens", pa.array(lengths))
        parts = [part for part in slices(given, given, {}, 100, 1)[0] if part["by"] == "length"]
        assert [part["n"] for part in parts] == sizes
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            inside = (order >= start) & (order < start + size)
            by_hand = math.exp(nats[inside].sum() / lengths[inside].sum())
            assert part["metrics"]["perplexity"]["base"] == pytest.approx(by_hand, rel=1e-6)
            start += size


def test_the_rarest_of_many_values_are_one_slice(files: Files) -> None:
    scores = pq.read_table(files.paths["scores"][0])
    sizes = [7, 6, *[2] * 12, 3]
    names = [f"s{number:02}" for number, size in enumerate(sizes) for _ in range(size)]
    scores = scores.set_column(scores.column_names.index("source"), "source", pa.array(names))
    scores = scores.set_column(scores.column_names.index("family"), "family", scores["row_id"])
    made, left_out = slices(scores, scores, measures.load(SCORE), 100, 1)
    assert [(part["value"], part["n"], part["values"]) for part in made if part["by"] == "source"] == [
        ("s00", 7, 1), ("s01", 6, 1), ("other", 8, 4)
    ]  # fmt: skip
    assert [part for part in left_out if part["by"] == "source"] == [{"by": "source", "values": 9, "rows": 19}]


def test_rows_of_a_few_families_are_no_slice(files: Files) -> None:
    """Two sources of twenty rows each: one in four families, the other in twenty."""
    scores = pq.read_table(files.paths["scores"][0])
    for name, values in (
        ("source", ["few"] * 20 + ["many"] * 20),
        ("family", [f"f{i % 4 if i < 20 else i}" for i in range(ROWS)]),
    ):
        scores = scores.set_column(scores.column_names.index(name), name, pa.array(values))
    made, left_out = slices(scores, scores, {}, 100, 1)
    assert [(part["value"], part["n"]) for part in made if part["by"] == "source"] == [("many", 20)]
    assert [part for part in left_out if part["by"] == "source"] == [{"by": "source", "values": 1, "rows": 20}]


def test_the_order_of_rows_changes_no_byte(files: Files, tmp_path: Path) -> None:
    texts = set()
    for seed in range(2):
        paths = dict(files.paths)
        for kind in ("scores", "answers", "likelihoods"):
            paths[kind] = []
            for path in files.paths[kind]:
                table = pq.read_table(path)
                order = random.Random(f"{seed} {path}").sample(range(table.num_rows), table.num_rows)
                pq.write_table(table.take(order), tmp_path / Path(path).name)
                paths[kind].append(str(tmp_path / Path(path).name))
        errors(paths, str(tmp_path / "errors.json"), SETTINGS)
        texts.add((tmp_path / "errors.json").read_bytes())
    assert texts == {(files.folder / "errors.json").read_bytes()}


def test_no_rows_are_a_setting_too(files: Files, tmp_path: Path) -> None:
    assert _errors(files, tmp_path / "errors.json", rows=0)["rows"] == []


def test_failures_of_a_format_are_counted_where_one_is_set(files: Files, tmp_path: Path, document) -> None:
    assert [failure["kind"] for failure in document["failures"]] == ["empty", "repeated", "truncated", "copied"]
    found = _errors(files, tmp_path / "errors.json", format=r"(?s)the .*")["failures"]
    (one,) = [failure for failure in found if failure["kind"] == "off_format"]
    starts = [output.startswith("the ") for output in files.outputs["tuned"][:ANSWERED]]
    assert (one["tuned"], one["of"]) == (starts.count(False), ANSWERED)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("answers", lambda table: table.slice(1), r"answered different rows.*`generate\.limit`"),
        ("scores", lambda table: table.slice(1), "scored on different rows; 1 stand on one side only"),
        ("likelihoods", lambda table: table.slice(0, 1), "lacks the row .*different splits"),
        (
            "likelihoods",
            lambda table: table.set_column(1, "token_ids", pa.array([[1]] * ROWS, pa.list_(pa.int32()))),
            "scored on different tokens of the row .*one tokenizer",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(files: Files, tmp_path: Path, kind, change, says) -> None:
    pq.write_table(change(pq.read_table(files.paths[kind][1])), tmp_path / "tuned.parquet")
    paths = files.paths | {kind: [files.paths[kind][0], str(tmp_path / "tuned.parquet")]}
    with pytest.raises(StageError, match=says):
        errors(paths, str(tmp_path / "errors.json"), SETTINGS)
    assert not (tmp_path / "errors.json").exists()


def test_neither_torch_nor_transformers_nor_evaluate_is_needed(files: Files, tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from errors import errors\n"
        "errors(*json.loads(sys.argv[1]))\n"
        "print(sorted({'torch', 'transformers', 'evaluate'} & set(sys.modules)))\n"
    )
    scripts = Path(__file__).parents[1] / "workflow/scripts"
    given = json.dumps([files.paths, str(tmp_path / "errors.json"), SETTINGS])
    done = subprocess.run(
        [sys.executable, "-c", program, given],
        env=os.environ | {"PYTHONPATH": str(scripts)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_without_rouge_the_loss_ranks_the_rows(files: Files, tmp_path: Path) -> None:
    paths = files.paths | {"scores": []}
    for path in files.paths["scores"]:
        table = pq.read_table(path)
        pq.write_table(
            table.select([name for name in table.column_names if not name.startswith("rouge_")]),
            tmp_path / Path(path).name,
        )
        paths["scores"].append(str(tmp_path / Path(path).name))
    score = SCORE | {"metrics": ["bleu"]}
    errors(paths, str(tmp_path / "errors.json"), SETTINGS | {"score": score})
    found = json.loads((tmp_path / "errors.json").read_text(encoding="utf-8"))
    assert found["measure"] == "loss"
    won = next(row for row in found["rows"] if row["kind"] == "won")
    assert won["tuned"]["value"] < won["base"]["value"]
    assert list(found["slices"][0]["metrics"]) == ["perplexity", "bleu"]
