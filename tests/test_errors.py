"""errors.json: rows with their tokens and nearest train rows, failures; with files of hostile texts."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import builders
import error_files
import models
from error_files import ANSWERED, MODEL, ROWS, SCORE, SETTINGS, Files, analysed
from errors import errors
from likelihood import likelihood
from snaketune.job import StageError

files, document = error_files.files, error_files.document  # fixtures


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
    document = analysed(files, tmp_path / "errors.json", rows=ANSWERED)
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
    assert analysed(files, tmp_path / "errors.json", rows=0)["rows"] == []


def test_failures_of_a_format_are_counted_where_one_is_set(files: Files, tmp_path: Path, document) -> None:
    assert [failure["kind"] for failure in document["failures"]] == ["empty", "repeated", "truncated", "copied"]
    found = analysed(files, tmp_path / "errors.json", format=r"(?s)the .*")["failures"]
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
