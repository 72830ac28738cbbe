"""From likelihoods and answers to a line for each test row, and what is refused on the way."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from score import score
from snaketune.job import StageError
from snaketune.scoring import measures
from snaketune.scoring.likelihood import Likelihood

SETTINGS = {
    "metrics": ["bleu", "rouge", "exact_match", "diversity", "overlap"],
    "own": [],
    "bleu_tokenizer": "13a",
    "rouge_stemmer": False,
    "classes": None,
    "overlap_ngram": 3,
}
ROWS = 20
WINDOWS = {"window": 128, "stride": 64}
TEXTS = ("row_id", "family", "label", "source", "prompt", "messages", "reference", "output")
TYPES = dict.fromkeys(TEXTS, pa.string()) | {"n_prompt_tokens": pa.int64()}


def _rows() -> list[dict]:
    """A row of each kind in turn; the odd ones have a label, and the last five no answer."""
    rng = random.Random(1)
    return [
        {
            "row_id": f"{i * 7919 % 1000:032x}",
            "family": f"{i // 2:032x}",
            "label": "yes" if i % 4 == 1 else "no" if i % 4 == 3 else None,
            "source": "made up",
            "prompt": None if i % 3 == 0 else f"prompt {i}",
            "messages": "[]" if i % 3 == 2 else None,
            "reference": "yes" if i % 2 else "no",
            "output": "Yes." if i % 5 else "",
            "n_prompt_tokens": 3 + i,
            "token_nll": [0.5] * i,
            **{name: float(rng.randint(1, 9)) for name in Likelihood.COLUMNS},
        }
        for i in range(ROWS)
    ]


def _scored(folder: Path, rows: list[dict], answers: list[dict] | None = None, **changes) -> pa.Table:
    answers = rows[:15] if answers is None else answers
    columns = {
        "likelihood": (rows, ["row_id", *Likelihood.COLUMNS, "token_nll"]),
        "generated": (answers, ["row_id", "prompt", "reference", "output", "n_prompt_tokens"]),
        "test": (_rows(), ["row_id", "family", "label", "source", "prompt", "messages"]),
    }
    for name, (lines, names) in columns.items():
        table = pa.table({column: pa.array([line[column] for line in lines], TYPES.get(column)) for column in names})
        if name == "likelihood":
            table = table.replace_schema_metadata({"windows": json.dumps(WINDOWS)})
        pq.write_table(table, folder / f"{name}.parquet")
    pq.write_table(pa.table({"completion": ["a text that was trained on"]}), folder / "train.parquet")
    paths = [str(folder / f"{name}.parquet") for name in ("likelihood", "generated", "test", "scores")]
    score(*paths, SETTINGS | changes, [str(folder / "train.parquet")])
    return pq.read_table(paths[-1])


def _stamp(table: pa.Table, key: str):
    return json.loads(table.schema.metadata[key.encode()])


def test_a_line_of_scores_has_the_rows_keys_its_likelihood_and_the_statistics_of_its_answer(tmp_path):
    rows = _rows()
    table = _scored(tmp_path, rows)
    assert table["row_id"].to_pylist() == sorted(row["row_id"] for row in rows)
    assert "token_nll" not in table.column_names
    by_id = {line["row_id"]: line for line in table.to_pylist()}
    for i, row in enumerate(rows):
        line = by_id[row["row_id"]]
        for name in ("family", "label", "source", *Likelihood.COLUMNS):
            assert line[name] == row[name]
        assert line["kind"] == ("text", "pair", "chat")[i % 3]
        assert line["n_prompt_tokens"] == (row["n_prompt_tokens"] if i < 15 else None)
        assert line["bleu_reference_length"] == (1 if i < 15 else None)
        assert line["bleu_hypothesis_length"] == (None if i >= 15 else 2 if i % 5 else 0)
    assert table.schema.field("n_prompt_tokens").type == pa.int64()


def test_the_file_says_how_its_numbers_came_about(tmp_path):
    table = _scored(tmp_path, _rows())
    loaded = measures.load(SETTINGS)
    assert _stamp(table, "signatures") == Likelihood(WINDOWS).signature() | measures.signatures(loaded)
    assert _stamp(table, "windows") == WINDOWS
    assert _stamp(table, "own") == {}
    assert _stamp(table, "classes") is None


def test_classes_are_found_in_the_labels_and_stand_in_the_file(tmp_path):
    table = _scored(tmp_path, _rows(), metrics=["classification"])
    assert _stamp(table, "classes") == ["no", "yes"]
    cells = {name: sum(table[name].drop_null().to_pylist()) for name in table.column_names if "classification" in name}
    # of the first 15 rows 7 have a label; those of 1, 9, 13 are `yes`, of 3, 7, 11 `no`; row 5 has no answer
    assert cells == {"classification_0_1": 3.0, "classification_1_1": 3.0, "classification_1_2": 1.0}


def test_a_users_own_metric_stands_in_the_file(tmp_path):
    path = tmp_path / "share.py"
    path.write_text(
        "import datasets\nimport evaluate\n"
        "class Share(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        text = datasets.Value('string')\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        "                                   features=datasets.Features({'predictions': text, 'references': text}))\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'share': sum(map(bool, predictions)) / len(predictions)}\n",
        encoding="utf-8",
    )
    table = _scored(tmp_path, _rows(), own=[str(path)])
    found = _stamp(table, "own")["share"]
    assert (found["value"], found["n"], len(found["groups"])) == (12 / 15, 15, 8)
    assert _stamp(table, "signatures")["share"] == found["signature"]
    assert str(tmp_path) not in json.dumps(_stamp(table, "signatures"))


def test_the_order_of_rows_changes_no_byte(tmp_path):
    files = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rows = _rows()
        _scored(folder, random.Random(seed).sample(rows, ROWS), random.Random(seed + 5).sample(rows[:15], 15))
        files.append((folder / "scores.parquet").read_bytes())
    assert files[0] == files[1]


def test_one_answer_is_enough(tmp_path):
    table = _scored(tmp_path, _rows()[:1], _rows()[:1])
    assert table.num_rows == 1
    assert table["diversity_sampled"].to_pylist() == [0]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
@pytest.mark.parametrize("column", ["nll", "entropy"])
def test_a_likelihood_that_is_no_number_is_refused(tmp_path, column, value):
    rows = _rows()
    rows[3][column] = value
    with pytest.raises(StageError, match=rf"column {column} is not a number in 1 rows, the first {rows[3]['row_id']}"):
        _scored(tmp_path, rows)


def test_files_of_different_rows_are_refused(tmp_path):
    rows, strange = _rows(), _rows()[0] | {"row_id": "stranger"}
    with pytest.raises(StageError, match="stranger has an answer, but no likelihood"):
        _scored(tmp_path, rows, [strange])
    with pytest.raises(StageError, match="stranger has a likelihood, but is no row of the test split"):
        _scored(tmp_path, [*rows, strange])
    with pytest.raises(StageError, match="more than once in the answers"):
        _scored(tmp_path, rows, [rows[0], rows[0]])


def test_a_split_without_answers_is_refused(tmp_path):
    with pytest.raises(StageError, match="nothing to score"):
        _scored(tmp_path, _rows(), answers=[])


def test_a_gold_outside_of_the_named_classes_is_refused(tmp_path):
    with pytest.raises(
        StageError, match="`score`: classification cannot be taken of these answers: 'yes' is the right"
    ):
        _scored(tmp_path, _rows(), metrics=["classification"], classes=["no", "maybe"])
