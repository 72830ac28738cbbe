"""Label Studio: what is exported comes back keyed by row_id, whoever annotated it and in which format."""

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from snaketune.clean.labelstudio import Decision, labels, read, tasks
from snaketune.job import StageError

DATA = {"row_id": "r1", "prompt": "How?", "completion": "So.", "label": "a"}


def result(name: str, value: str, kind: str = "textarea") -> dict[str, Any]:
    """A region of Label Studio's JSON export, as its documentation shows them."""
    key = "text" if kind == "textarea" else "choices"
    return {"id": "x", "from_name": name, "to_name": "shown", "type": kind, "value": {key: [value]}}


def annotation(number: int, *results: dict[str, Any], day: int = 1, **fields: Any) -> dict[str, Any]:
    stamp = f"2026-01-{day:02d}T10:00:00.000000Z"
    return {"id": number, "result": list(results), "was_cancelled": False, "updated_at": stamp, **fields}


def verdict(value: str) -> dict[str, Any]:
    return result("verdict", value, "choices")


def export(path: Path, *annotations: dict[str, Any], data: dict[str, Any] = DATA) -> Path:
    task = {"id": 7, "data": data, "annotations": list(annotations), "predictions": []}
    path.write_text(json.dumps([task], ensure_ascii=False), encoding="utf-8")
    return path


def test_a_row_becomes_a_task_with_texts_for_all_its_fields() -> None:
    rows = pa.table(
        {"row_id": ["r1", "r2"], "prompt": ['Q <&> "x"', None], "completion": ["A", "B"], "label": [None, "a"]}
    )
    assert tasks(rows) == [
        {"data": {"row_id": "r1", "prompt": 'Q <&> "x"', "completion": "A", "label": ""}},
        {"data": {"row_id": "r2", "prompt": "", "completion": "B", "label": "a"}},
    ]


def test_the_configuration_asks_for_texts_label_and_verdict() -> None:
    view = ElementTree.fromstring(labels(["b & c", "a <1>", '"q"'], prompts=True))
    assert view.tag == "View"
    shown = {text.get("name"): text.get("value") for text in view.iter("Text")}
    areas = {area.get("name"): area for area in view.iter("TextArea")}
    choices = {box.get("name"): [choice.get("value") for choice in box] for box in view.iter("Choices")}
    assert set(shown.values()) == {"$prompt", "$completion"}
    assert {name: area.get("value") for name, area in areas.items()} == {
        "prompt": "$prompt",
        "completion": "$completion",
    }
    assert choices == {"label": ['"q"', "a <1>", "b & c"], "verdict": ["keep", "reject"]}
    controls = [*areas.values(), *view.iter("Choices")]
    assert all(control.get("toName") in shown for control in controls)
    names = [element.get("name") for element in view.iter() if element.get("name")]
    assert len(names) == len(set(names))


def test_nothing_is_asked_for_that_the_rows_do_not_have() -> None:
    view = ElementTree.fromstring(labels([], prompts=False))
    assert {element.get("name") for element in (*view.iter("TextArea"), *view.iter("Choices"))} == {
        "completion",
        "verdict",
    }


def test_the_json_export_gives_what_was_changed(tmp_path: Path) -> None:
    changed = [result("completion", "So <it> is."), result("prompt", "How so?"), result("label", "b", "choices")]
    path = export(tmp_path / "a.json", annotation(1, *changed, verdict("keep")))
    assert read([path]) == {"r1": Decision(False, "So <it> is.", "How so?", "b")}


def test_a_text_as_it_was_or_emptied_is_no_change(tmp_path: Path) -> None:
    path = export(tmp_path / "a.json", annotation(1, result("completion", "So."), result("prompt", "  ")))
    assert read([path]) == {"r1": Decision()}


def test_a_text_of_several_parts_is_its_lines(tmp_path: Path) -> None:
    parts = result("completion", "one")
    parts["value"]["text"].append("two")
    assert read([export(tmp_path / "a.json", annotation(1, parts))])["r1"].completion == "one\ntwo"


def test_cancelled_annotations_and_tasks_without_any_do_not_count(tmp_path: Path) -> None:
    cancelled = annotation(2, verdict("reject"), day=9, was_cancelled=True)
    assert read([export(tmp_path / "a.json", annotation(1, verdict("keep")), cancelled)]) == {"r1": Decision()}
    assert read([export(tmp_path / "b.json", cancelled)]) == {}
    assert read([export(tmp_path / "c.json")]) == {}


def test_the_majority_decides_on_verdict_and_label(tmp_path: Path) -> None:
    def vote(number: int, say: str, label: str) -> dict[str, Any]:
        return annotation(number, verdict(say), result("label", label, "choices"), day=number)

    path = export(tmp_path / "a.json", vote(1, "reject", "a"), vote(2, "reject", "a"), vote(3, "keep", "b"))
    assert read([path]) == {"r1": Decision(reject=True, label="a")}


def test_where_votes_are_tied_and_for_texts_the_newest_counts_then_the_largest_id(tmp_path: Path) -> None:
    old = annotation(10, verdict("reject"), result("completion", "old"), day=1)
    new = annotation(9, verdict("keep"), result("completion", "new"), day=2)
    same = annotation(11, verdict("reject"), result("completion", "same day"), day=2)
    silent = annotation(12, day=3)
    for order in itertools.permutations([old, new]):
        assert read([export(tmp_path / "a.json", *order)])["r1"] == Decision(False, "new")
    for order in itertools.permutations([new, same, silent]):
        assert read([export(tmp_path / "a.json", *order)])["r1"] == Decision(True, "same day")


def test_annotations_are_gathered_over_files_in_any_order_and_counted_once(tmp_path: Path) -> None:
    one = export(tmp_path / "a.json", annotation(1, verdict("reject"), day=1))
    two = export(tmp_path / "b.json", annotation(2, verdict("keep"), day=2), annotation(3, verdict("keep"), day=3))
    other = export(tmp_path / "c.json", annotation(4, verdict("reject")), data=DATA | {"row_id": "r0"})
    expected = {"r0": Decision(reject=True), "r1": Decision()}
    for order in itertools.permutations([one, one, one, two, other]):
        assert read(order) == expected
        assert list(read(order)) == ["r0", "r1"]


def test_json_min_is_read_with_texts_choices_and_lists(tmp_path: Path) -> None:
    record = {"id": 7, "annotation_id": 3, "annotator": 1, "updated_at": "2026-01-01T00:00:00Z", "lead_time": 2.5}
    records = [
        DATA | record | {"completion": "Changed.", "verdict": "reject"},
        DATA | record | {"row_id": "r2", "completion": {"text": ["two", "lines"]}, "label": {"choices": ["b"]}},
        DATA | record | {"row_id": "r3", "annotation_id": None},
    ]
    path = tmp_path / "min.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert read([path]) == {
        "r1": Decision(True, "Changed.", "How?", "a"),
        "r2": Decision(False, "two\nlines", "How?", "b"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "cannot be read .* as JSON or JSON-MIN"),
        ("[1]", "hold no task in place 1"),
        ('[{"data": {"text": "x"}, "annotations": []}]', "has no `row_id`"),
        ('[{"text": "x", "annotation_id": 1}]', "has no `row_id`"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_export_is_told_in_a_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "notes.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match=rf"notes\.json.*{message}|{message}.*|Task 1 of .*notes\.json {message}"):
        read([path])
