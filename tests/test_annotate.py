"""Rows are drawn by the seed, exported as tasks, and what people make of them comes back."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from annotate import annotate
from builders import row, settings, write
from snaketune.clean.labelstudio import Decision, read
from snaketune.job import StageError
from snaketune.rows import SPLIT


def run(folder: Path, given: list[dict[str, Any]], seed: int = 42, **changes: Any) -> tuple[list[dict[str, Any]], Any]:
    """The tasks and the configuration for some rows."""
    files = [str(folder / "annotate" / name) for name in ("tasks.json", "labels.xml")]
    annotate(write(folder / "rows.parquet", given, SPLIT), *files, settings("annotate", **changes) | {"seed": seed})
    return json.loads(Path(files[0]).read_text(encoding="utf-8")), ElementTree.parse(files[1])


def names(made: list[dict[str, Any]]) -> list[str]:
    return [task["data"]["row_id"] for task in made]


ROWS = sorted(
    (row(f"answer {n}", f"question {n}", label="ab"[n % 2]) for n in range(60)), key=lambda row: row["row_id"]
)


def test_the_seed_draws_the_rows_and_more_rows_are_the_same_and_some_more(tmp_path: Path) -> None:
    ten, twenty, other = (names(run(tmp_path, ROWS, seed, rows=n)[0]) for n, seed in ((10, 1), (20, 1), (10, 2)))
    assert (len(set(ten)), len(set(twenty)), len(set(other))) == (10, 20, 10)
    assert set(ten) < set(twenty)
    assert set(ten) != set(other)
    assert set(names(run(tmp_path, ROWS[::-1], 1, rows=10)[0])) == set(ten)
    assert len(run(tmp_path, ROWS, rows=500)[0]) == 60


def test_a_row_that_stands_twice_is_annotated_once(tmp_path: Path) -> None:
    assert names(run(tmp_path, [*ROWS, *ROWS])[0]) == names(run(tmp_path, ROWS)[0])


def test_the_labels_to_choose_from_are_those_of_the_whole_split(tmp_path: Path) -> None:
    boxes = {
        box.get("name"): [one.get("value") for one in box] for box in run(tmp_path, ROWS, rows=1)[1].iter("Choices")
    }
    assert boxes["label"] == ["a", "b"]
    plain = run(tmp_path, [row("a text", None)])[1]
    assert [area.get("name") for area in plain.iter("TextArea")] == ["completion"]
    assert [box.get("name") for box in plain.iter("Choices")] == ["verdict"]


def test_what_is_decided_comes_back_by_row_id(tmp_path: Path) -> None:
    made, _ = run(tmp_path, [row('Say "é" & <b>', "Q\n2", label="x")])
    given = made[0]["data"]
    assert given == {
        "row_id": row('Say "é" & <b>', "Q\n2")["row_id"],
        "prompt": "Q\n2",
        "completion": 'Say "é" & <b>',
        "label": "x",
    }
    said = {"completion": {"text": ["Say <i>ü</i>"]}, "prompt": {"text": ["Q\n2"]}, "verdict": {"choices": ["reject"]}}
    results = [{"from_name": name, "to_name": "shown", "value": value} for name, value in said.items()]
    task = {"id": 1, **made[0], "annotations": [{"id": 5, "result": results, "updated_at": "2026-01-01T00:00:00Z"}]}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]), encoding="utf-8")
    assert read([path]) == {given["row_id"]: Decision(reject=True, completion="Say <i>ü</i>")}


def test_a_split_without_rows_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"The test split has no rows .* `annotate\.split`"):
        run(tmp_path, [], split="test")
