"""A raw row's fields to typed rows: by named columns, by Jinja templates, or from a conversation.

A field that is asked for and not there sets the raw row aside; it never makes an empty text of it. A value that is
there but missing (null, NaN) is no fault yet: the completion or prompt is empty then, and cleaning decides about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jinja2
import jinja2.sandbox

from snaketune.job import StageError
from snaketune.rows import row_id
from snaketune.text import chat


class Typed(NamedTuple):
    """What a row says; an empty prompt is a missing one, a null prompt means that the row is plain text."""

    prompt: str | None
    completion: str
    messages: str | None
    group: str | None
    label: str | None
    split: str | None


Maker = Callable[[dict[str, Any]], list[Typed]]


class MissingFieldError(Exception):
    """A raw row lacks what the columns or templates ask of it, or holds what is no text."""


def maker(settings: dict[str, Any]) -> Maker:
    """How rows are made with the settings of `source`. Raises StageError at a template that is none."""
    if settings["templates"]:
        return _from_templates(settings["templates"])
    return _from_columns(settings["columns"], settings["chat_turns"])


def columns_of(settings: dict[str, Any]) -> set[str]:
    """The columns that can matter; none where templates may read any."""
    return set() if settings["templates"] else set(filter(None, settings["columns"].values())) | set(settings["keep"])


def as_text(value: Any) -> str | None:
    """A field as text: numbers as they are written, nothing as nothing. Raises MissingFieldError where it is no text,
    or no text that can be stored."""
    if not isinstance(value, str):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, (bytes, list, tuple, dict)):
            kind = "bytes" if isinstance(value, bytes) else "an object" if isinstance(value, dict) else "a list"
            raise MissingFieldError(f"a column holds {kind}, where text was expected")
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if "\0" in value:
        raise MissingFieldError(f"the text holds a NUL character at character {value.index(chr(0)) + 1}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MissingFieldError(f"the text holds half a surrogate pair at character {error.start + 1}") from None
    return value


def _from_columns(columns: dict[str, str | None], turns: str) -> Maker:
    """Rows by named columns: prompt and completion, or completion alone, or plain text, or a conversation."""
    prompt, completion, text, messages = (str(columns[own]) for own in ("prompt", "completion", "text", "messages"))
    group, label, split = columns["group"], columns["label"], columns["split"]
    asked = {own: name for own, name in columns.items() if name and name != own} | {
        own: name for own, name in (("group", group), ("label", label), ("split", split)) if name
    }

    def make(fields: dict[str, Any]) -> list[Typed]:
        for own, name in asked.items():
            if name not in fields:
                raise MissingFieldError(f"no column `{name}`, which `source.columns.{own}` names")
        of = as_text(fields[group]) if group else None
        kind = as_text(fields[label]) if label else None
        part = as_text(fields[split]) if split else None
        if completion in fields:
            given = (as_text(fields[prompt]) or "") if prompt in fields else None
            # An empty cell names no group; all such rows would be one family.
            return [Typed(given, as_text(fields[completion]) or "", None, of or None, kind, part or None)]
        if text in fields:
            return [Typed(None, as_text(fields[text]) or "", None, of or None, kind, part or None)]
        if messages in fields:
            return _conversation(fields[messages], turns, of or None, kind, part or None)
        known = ", ".join(map(str, fields))
        raise MissingFieldError(f"no column `{text}` or `{completion}` or `{messages}`; the row has: {known}")

    return make


def _conversation(value: Any, turns: str, group: str | None, label: str | None, split: str | None) -> list[Typed]:
    """The rows of a conversation. Where each of its answers makes one, they are of one group."""
    try:
        messages = chat.parse(value)
    except ValueError as error:
        raise MissingFieldError(str(error)) from None
    for turn in messages:
        as_text(turn["content"])
    if turns == "each" and group is None:
        group = row_id(None, "", chat.dump(messages))
    return [
        Typed(
            chat.render(history),
            answer,
            chat.dump([*history, {"role": "assistant", "content": answer}]),
            group,
            label,
            split,
        )
        for history, answer in chat.rows_of(messages, turns)
    ]


def _present(value: Any) -> Any:
    """What a template may print: a null would become the text "None"."""
    if value is None:
        raise MissingFieldError("a field is null; write `{{ field or '' }}` where that is meant to be empty")
    return value


def _from_templates(templates: list[dict[str, str | None]]) -> Maker:
    """Rows by sandboxed Jinja templates: a template can read the row's fields and nothing else."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, finalize=_present
    )
    try:
        compiled = [
            {field: environment.from_string(text) if text is not None else None for field, text in template.items()}
            for template in templates
        ]
    except jinja2.TemplateSyntaxError as error:
        raise StageError(f"`source.templates`: {error.message}, in line {error.lineno} of the template") from None

    def make(fields: dict[str, Any]) -> list[Typed]:
        made = []
        for number, template in enumerate(compiled, start=1):
            try:
                row = {field: as_text(text.render(fields)) if text else None for field, text in template.items()}
            except Exception as error:  # a template is code of the user's, and any fault of it a fault of the row
                raise MissingFieldError(f"template {number}: {error}") from None
            made.append(
                Typed(
                    row["prompt"],
                    row["completion"] or "",
                    None,
                    row["group"] or None,
                    row["label"],
                    row["split"] or None,
                )
            )
        return made

    return make
