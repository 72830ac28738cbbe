"""Raw rows become typed rows by columns or templates; what cannot is set aside with its file, line and reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import jsonl
from raw_files import taken
from snaketune.job import StageError


def test_a_template_that_names_a_missing_or_null_field_sets_the_row_aside(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "one?", "a": "1"}, {"q": "two?"}, {"q": "three?", "a": None}])
    rows, aside = taken(path, "jsonl", templates=[{"prompt": "Q: {{ q }}", "completion": "{{ a }}"}])
    assert [(row["line"], row["prompt"], row["completion"]) for row in rows] == [(1, "Q: one?", "1")]
    assert [(row["source"], row["line"]) for row in aside] == [("a.jsonl", 2), ("a.jsonl", 3)]
    assert "template 1: 'a' is undefined" in aside[0]["reason"]
    assert "null" in aside[1]["reason"]
    assert json.loads(aside[0]["head"]) == {"q": "two?"}


def test_a_template_may_have_a_default_for_a_missing_or_null_field(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "raw.jsonl", [{"a": "one"}, {"a": None}, {"b": "two"}, {"a": ""}])
    rows, aside = taken(path, "jsonl", templates=[{"completion": "{{ a | default('none', true) }}"}])
    assert [row["completion"] for row in rows] == ["one", "none", "none", "none"]
    assert not aside


def test_a_raw_row_gives_a_row_for_each_template_or_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "1", "b": "2"}, {"a": "1", "b": "\ud800"}, {"a": "1"}])
    rows, aside = taken(path, "jsonl", templates=[{"completion": "{{ a }}"}, {"completion": "{{ b }}"}])
    assert [(row["line"], row["completion"]) for row in rows] == [(1, "1"), (1, "2")]
    assert [row["line"] for row in aside] == [2, 3]


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ a.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{{ a.b.c }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_sets_the_row_aside(tmp_path: Path, attack: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x", "good": True}, {"a": "x"}])
    template = "{% if good is defined %}fine{% else %}" + attack + "{% endif %}"
    rows, aside = taken(path, "jsonl", templates=[{"completion": template}])
    assert [row["line"] for row in rows] == [1]
    assert [row["line"] for row in aside] == [2]


def test_a_template_that_is_none_is_told_before_any_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x"}])
    with pytest.raises(StageError, match=r"`source.templates`.*line 1"):
        taken(path, "jsonl", templates=[{"completion": "{{ a "}])


def test_columns_are_found_under_their_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "why?", "completion": 42, "who": "", "x": [1]}, {"completion": "b"}])
    rows, aside = taken(path, "jsonl", columns={"prompt": "q", "group": "who"}, keep=["x"])
    (row,) = rows
    assert (row["prompt"], row["completion"], json.loads(row["meta"])) == ("why?", "42", {"x": [1]})
    assert row["group"] is None  # an empty cell is no group: else all such rows would be one family
    assert aside[0]["reason"] == "no column `q`, which `source.columns.prompt` names"


@pytest.mark.parametrize(
    "fields",
    [{"text": "\ud800"}, {"\udfff": "x"}, {"text": "ok", "x": "\ud83d"}, {"text": "ok", "x": {"\ud83d": 1}}],
)
def test_half_a_surrogate_pair_is_set_aside_and_no_crash(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [fields, {"text": "good 😀"}])
    rows, aside = taken(path, "jsonl", keep=["x"])
    assert [row["completion"] for row in rows] == ["good 😀"]
    assert [row["line"] for row in aside] == [1]


def test_bytes_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([b"abc", None], pa.binary())}), tmp_path / "a.parquet")
    rows, aside = taken(tmp_path / "a.parquet", "parquet")
    assert [row["line"] for row in aside] == [1]
    assert [row["completion"] for row in rows] == [""]  # null: clean drops it, with a line in the ledger


def test_on_bad_row_fail_stops_with_file_line_and_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"txt": "y"}])
    with pytest.raises(StageError, match=r"a\.jsonl, line 2: no column `text` or `completion`"):
        taken(path, "jsonl", on_bad_row="fail")
    assert not list(tmp_path.glob("*.parquet*"))


def test_no_usable_row_at_all_is_told_with_the_commonest_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x"}, {"a": "y"}])
    with pytest.raises(StageError, match=r"none of the 2 raw rows .* no column `text`"):
        taken(path, "jsonl")


def test_equal_rows_have_one_id_and_moved_borders_another(tmp_path: Path) -> None:
    values = [
        {"prompt": "ab", "completion": "c"},
        {"prompt": "a", "completion": "bc"},
        {"completion": "abc"},
        {"prompt": "", "completion": "abc"},
        {"prompt": "ab", "completion": "c", "other": 1},
        {"prompt": "café", "completion": "c"},
        {"prompt": "cafe\u0301", "completion": "c"},
    ]
    rows, _ = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl")
    ids = [row["row_id"] for row in rows]
    assert ids[0] == ids[4]
    assert ids[5] == ids[6]  # the same text in two Unicode forms
    assert len(set(ids)) == 5
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


def test_a_missing_prompt_is_empty_and_plain_text_has_none(tmp_path: Path) -> None:
    values = [
        {"prompt": None, "completion": "a"}, {"prompt": "", "completion": "b"}, {"completion": "c"}, {"text": "d"},
        {"prompt": "q", "completion": None}, {"text": None}, {"prompt": float("nan"), "completion": 7},
    ]  # fmt: skip
    rows, aside = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl")
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        ("", "a"), ("", "b"), (None, "c"), (None, "d"), ("q", ""), (None, ""), ("", "7")
    ]  # fmt: skip
    assert not aside


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_nul_in_a_used_field_sets_the_row_aside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_bytes(b"text,other\na\0b,x\nc,\0\nd,x\n")
    else:
        jsonl(path, [{"text": "a\0b", "other": "x"}, {"text": "c", "other": "\0"}, {"text": "d", "other": "x"}])
    rows, aside = taken(path, kind)
    assert [row["completion"] for row in rows] == ["c", "d"]
    assert [row["reason"] for row in aside] == ["the text holds a NUL character at character 2"]


@pytest.mark.parametrize("value", [[1, 2], {"a": None}])
def test_a_list_or_an_object_is_no_text(tmp_path: Path, value: Any) -> None:
    rows, aside = taken(jsonl(tmp_path / "a.jsonl", [{"text": value}, {"text": "x"}]), "jsonl")
    assert [row["completion"] for row in rows] == ["x"]
    assert "where text was expected" in aside[0]["reason"]


def test_a_split_that_the_data_names_is_carried_along(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "part": "dev"}, {"text": "y", "part": ""}, {"text": "z"}])
    rows, aside = taken(path, "jsonl", columns={"split": "part"})
    assert [row["split"] for row in rows] == ["dev", None]
    assert aside[0]["reason"] == "no column `part`, which `source.columns.split` names"
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x", "b": "test"}])
    rows, _ = taken(path, "jsonl", templates=[{"completion": "{{ a }}", "split": "{{ b }}", "label": "{{ b }}"}])
    assert [(row["split"], row["label"]) for row in rows] == [("test", "test")]


def test_columns_that_are_carried_along_are_json_whatever_they_hold(tmp_path: Path) -> None:
    values = [{"text": "x", "b": 2**70, "a": [None, True]}, {"text": "y", "b": float("nan"), "a": "é"}]
    rows, _ = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl", keep=["b", "a", "absent"])
    assert [row["meta"] for row in rows] == ['{"a":[null,true],"b":1180591620717411303424}', '{"a":"é","b":null}']


def test_rows_come_out_in_the_order_of_the_files_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{number} " * 9} for number in range(50)])
    whole, _ = taken(path, "jsonl")
    monkeypatch.setattr("ingest.BATCH_ROWS", 7)
    monkeypatch.setattr("ingest.BATCH_BYTES", 40)
    assert taken(path, "jsonl")[0] == whole
    assert [row["line"] for row in whole] == list(range(1, 51))
