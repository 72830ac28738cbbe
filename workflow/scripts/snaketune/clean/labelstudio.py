"""Rows for people to annotate in Label Studio, and what they decided, keyed by `row_id`.

A task has the data `row_id`, `prompt`, `completion` and `label`; missing ones are empty, as Label Studio wants a text
for each name in its configuration. The configuration (`labels`) shows the row and asks for `completion` and `prompt`
(text areas, filled with what the row has), `label` (one of those that occur) and `verdict` (keep or reject).

Read back are both exports that keep the task's data: JSON, with its list of annotations, and JSON-MIN, which is flat
and has one record an annotation. Cancelled annotations do not count. A text as it was exported, or an empty one, is no
change. JSON-MIN puts the new text where the old one was, so there an unchanged text is given as if it were chosen.

Formats: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export; label-studio-sdk, converter.py.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa

from snaketune.job import StageError

KEEP, REJECT = "keep", "reject"
FIELDS = ("completion", "prompt", "label", "verdict")


@dataclass(frozen=True)
class Decision:
    """What people decided on a row; None is no change."""

    reject: bool = False
    completion: str | None = None
    prompt: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class _Annotation:
    """One person's word on one row; `order` is later for newer ones."""

    row_id: str
    order: tuple[str, int, str]
    values: dict[str, str]


def tasks(rows: pa.Table) -> list[dict[str, Any]]:
    """A task for each row of a table that has row_id, prompt, completion and label, in its order."""
    wanted = rows.select(["row_id", "prompt", "completion", "label"]).to_pylist()
    return [{"data": {name: value or "" for name, value in row.items()}} for row in wanted]


def labels(names: Iterable[str], prompts: bool) -> str:
    """The labelling configuration, as XML.

    names: the labels to choose from; without any, none is asked for. prompts: whether prompts can be mended.
    """
    view = ElementTree.Element("View")
    if prompts:
        ElementTree.SubElement(view, "Header", value="Prompt")
        ElementTree.SubElement(view, "Text", name="shown_prompt", value="$prompt")
    ElementTree.SubElement(view, "Header", value="Completion")
    ElementTree.SubElement(view, "Text", name="shown", value="$completion")
    if prompts:
        _area(view, "prompt", "Mend the prompt")
    _area(view, "completion", "Mend the completion")
    choices = {"label": sorted(set(names)), "verdict": [KEEP, REJECT]}
    for name, values in choices.items():
        if values:
            ElementTree.SubElement(view, "Header", value=name.capitalize())
            box = ElementTree.SubElement(view, "Choices", name=name, toName="shown", choice="single")
            for value in values:
                ElementTree.SubElement(box, "Choice", value=value)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _area(view: ElementTree.Element, name: str, title: str) -> None:
    ElementTree.SubElement(view, "Header", value=title)
    settings = {"rows": "6", "maxSubmissions": "1", "editable": "true"}
    ElementTree.SubElement(view, "TextArea", name=name, toName="shown", value=f"${name}", **settings)


def read(paths: Iterable[str | Path]) -> dict[str, Decision]:
    """The decision on each row that was annotated, by row_id, from exports of Label Studio.

    Of several annotations of a row, verdict and label go by the majority; where it is tied, and for texts, the newest
    annotation counts that says anything of it (by `updated_at`, then by id). The order of files changes nothing.
    Raises StageError for a file that is no export, and for a task without row_id.
    """
    by_row: dict[str, list[_Annotation]] = defaultdict(list)
    for path in paths:
        for annotation in _annotations(Path(path)):
            by_row[annotation.row_id].append(annotation)
    return {row_id: _decide(by_row[row_id]) for row_id in sorted(by_row)}


def _decide(annotations: list[_Annotation]) -> Decision:
    newest = sorted({annotation.order: annotation.values for annotation in annotations}.items(), reverse=True)
    said = {name: [values[name] for _, values in newest if name in values] for name in FIELDS}
    verdict, label = _majority(said["verdict"]), _majority(said["label"])
    completion, prompt = (next(iter(said[name]), None) for name in ("completion", "prompt"))
    return Decision(verdict == REJECT, completion, prompt, label)


def _majority(values: list[str]) -> str | None:
    """The commonest value, of equals the first; None of none."""
    return Counter(values).most_common(1)[0][0] if values else None


def _annotations(path: Path) -> Iterator[_Annotation]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise StageError(
            f"The annotations {path} cannot be read ({error}): export them from Label Studio as JSON or JSON-MIN."
        ) from None
    listed = found if isinstance(found, list) else [found]
    for number, task in enumerate(listed, start=1):
        if not isinstance(task, dict):
            raise StageError(f"The annotations {path} hold no task in place {number}: export JSON or JSON-MIN.")
        whole = isinstance(task.get("data"), dict)
        row_id = task["data"].get("row_id") if whole else task.get("row_id")
        if not isinstance(row_id, str) or not row_id:
            raise StageError(
                f"Task {number} of the annotations {path} has no `row_id`: annotate the tasks that "
                "`snakemake results/<run>/annotate/tasks.json` writes, and leave their data as it is."
            )
        yield from _of_task(task, row_id) if whole else _of_record(task, row_id)


def _of_task(task: dict[str, Any], row_id: str) -> Iterator[_Annotation]:
    """The annotations of a task of the JSON export."""
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        given: dict[str, str] = {}
        for result in annotation.get("result") or []:
            name = result.get("from_name")
            text = _text(result.get("value"))
            if name in FIELDS and text is not None and text != (task["data"].get(name) or ""):
                given[name] = text
            elif name == "label" and text:
                given[name] = text  # who confirms a label votes for it
        yield _Annotation(row_id, _order(annotation, annotation.get("id")), given)


def _of_record(record: dict[str, Any], row_id: str) -> Iterator[_Annotation]:
    """The annotation of a record of the JSON-MIN export; a task that nobody annotated has none."""
    if record.get("annotation_id") is None:
        return
    texts = {name: _text(record.get(name)) for name in FIELDS}
    given = {name: text for name, text in texts.items() if text is not None}
    yield _Annotation(row_id, _order(record, record["annotation_id"]), given)


def _text(value: Any) -> str | None:
    """What a control holds: a text, a list of texts (a text area: its lines), or a dict with such a list."""
    if isinstance(value, dict):
        value = value.get("choices", value.get("text"))
    if isinstance(value, list):
        value = "\n".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) and value.strip() else None


def _order(annotation: dict[str, Any], number: Any) -> tuple[str, int, str]:
    """What newer annotations have more of: the time, as ISO 8601 text, then the id."""
    name = str(number)
    return str(annotation.get("updated_at") or ""), int(name) if name.isdecimal() else 0, name
