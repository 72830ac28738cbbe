"""Raw files in, typed rows out; what cannot become a row is set aside with its file, line and reason.

In:  the raw files of one shard, each with the name that it goes by in every later file
Out: rows-<shard>.parquet (schema rows.ROW) and quarantine-<shard>.parquet (schema rows.QUARANTINE)

Rows are read as a stream and written in batches, so that memory is bounded by a batch. A template that names a field
which a row lacks puts that row into quarantine; it never makes an empty text of it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import jinja2
import jinja2.sandbox
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import BATCH_ROWS, QUARANTINE, ROW, TableWriter, row_id
from snaketune.sources import HEAD_CHARS, Bad, Raw, read

Typed = dict[str, str | None]
Maker = Callable[[dict[str, Any]], Iterator[Typed]]


class MissingFieldError(Exception):
    """A raw row lacks what the columns or templates ask of it."""


def ingest(files: list[dict[str, str]], rows: str, quarantine: str, settings: dict[str, Any]) -> str:
    """Read the files of one shard: [{path, name, format}]. Raises StageError at a bad row when `on_bad_row: fail`."""
    make = _from_templates(settings["templates"]) if settings["templates"] else _from_columns(settings["columns"])
    reasons: Counter[str] = Counter()
    with TableWriter(rows, ROW) as good, TableWriter(quarantine, QUARANTINE) as bad:
        for batch, faults in _batched(_typed(files, make, settings)):
            if faults and settings["on_bad_row"] == "fail":
                first = faults[0]
                raise StageError(
                    f"{first['source']}, line {first['line']}: {first['reason']}. Mend the row, or set "
                    "`source.on_bad_row: quarantine` to put such rows aside"
                )
            good.write(pa.Table.from_pylist(batch, schema=ROW))
            bad.write(pa.Table.from_pylist(faults, schema=QUARANTINE))
            reasons.update(fault["reason"] for fault in faults)
    if good.rows == 0:
        why = f"the commonest reason: {reasons.most_common(1)[0][0]}" if reasons else "the files hold no rows"
        raise StageError(f"none of the {bad.rows} raw rows can be used; {why}")
    aside = f", {bad.rows:,} set aside" if bad.rows else ""
    return f"{good.rows:,} rows of {len(files):,} file{'s' * (len(files) != 1)}{aside}"


def _typed(files: list[dict[str, str]], make: Maker, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every raw row as one or more typed rows, or as a quarantine line (it has a `reason`)."""
    for file in files:
        for item in read(file["path"], file["name"], file["format"], settings["text_unit"]):
            try:
                if isinstance(item, Bad):
                    yield _fault(file["name"], item)
                    continue
                kept = {key: item.fields[key] for key in settings["keep"] if key in item.fields}
                meta = _text(json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str)) if kept else None
                made = [_row(typed, file["name"], item.line, meta) for typed in make(item.fields)]
            except (MissingFieldError, RecursionError) as error:
                assert isinstance(item, Raw)
                yield _fault(file["name"], Bad(item.line, str(error), _head(item.fields)))
            else:
                yield from made


def _head(fields: dict[str, Any]) -> str:
    try:
        return json.dumps(fields, ensure_ascii=False, default=str)[:HEAD_CHARS]
    except RecursionError:  # lists in lists, a thousand deep
        return ""


def _row(typed: Typed, source: str, line: int, meta: str | None) -> dict[str, Any]:
    completion = typed["completion"] or ""
    return typed | {
        "row_id": row_id(typed.get("prompt"), completion),
        "source": source,
        "line": line,
        "completion": completion,
        "messages": None,
        "group": typed["group"] or None,  # an empty cell names no group; all such rows would be one family
        "meta": meta,
    }


def _fault(source: str, bad: Bad) -> dict[str, Any]:
    identity = blake2b(f"{source}\0{bad.line}\0{bad.reason}\0{bad.head}".encode("utf-8", "replace"), digest_size=16)
    return {
        "row_id": identity.hexdigest(),
        "source": source,
        "line": bad.line,
        "reason": bad.reason.encode("utf-8", "replace").decode("utf-8"),
        "head": bad.head.encode("utf-8", "replace").decode("utf-8"),
    }


def _batched(items: Iterator[dict[str, Any]]) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for item in items:
        (bad if "reason" in item else good).append(item)
        if len(good) + len(bad) == BATCH_ROWS:
            yield good, bad
            good, bad = [], []
    yield good, bad


def _text(value: Any) -> str | None:
    """A field as text: numbers as they are written, nothing as nothing. Lone surrogates cannot be stored."""
    if value is None:
        return None
    if isinstance(value, bytes):
        raise MissingFieldError("a column holds bytes, where text was expected")
    text = value if isinstance(value, str) else str(value)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MissingFieldError(f"the text holds half a surrogate pair at character {error.start + 1}") from None
    return text


def _from_columns(columns: dict[str, str | None]) -> Maker:
    """Rows by named columns: prompt and completion, or completion alone, or plain text."""

    def make(fields: dict[str, Any]) -> Iterator[Typed]:
        known = fields.keys()
        for own in ("prompt", "completion"):
            if columns[own] != own and columns[own] not in known:
                raise MissingFieldError(f"no column `{columns[own]}`, which `source.columns.{own}` names")
        if columns["completion"] in known:
            prompt, completion = fields.get(columns["prompt"]), fields[columns["completion"]]
        elif columns["text"] in known:
            prompt, completion = None, fields[columns["text"]]
        else:
            raise MissingFieldError(
                f"no column `{columns['text']}` or `{columns['completion']}`; the row has: {', '.join(map(str, known))}"
            )
        for optional in ("group", "label"):
            if columns[optional] and columns[optional] not in known:
                raise MissingFieldError(f"no column `{columns[optional]}`, which `source.columns.{optional}` names")
        yield {
            "prompt": _text(prompt),
            "completion": _text(completion),
            "group": _text(fields.get(columns["group"])) if columns["group"] else None,
            "label": _text(fields.get(columns["label"])) if columns["label"] else None,
        }

    return make


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

    def make(fields: dict[str, Any]) -> Iterator[Typed]:
        made = []
        for number, template in enumerate(compiled, start=1):
            try:
                made.append({key: t.render(fields) if t else None for key, t in template.items()})
            except Exception as error:  # a template is code of the user's, and any fault of it a fault of the row
                raise MissingFieldError(f"template {number}: {error}") from None
        yield from ({key: _text(value) for key, value in row.items()} for row in made)

    return make


if __name__ == "__main__":
    run(
        lambda job: ingest(job.params.files, job.output.rows, job.output.quarantine, job.params.settings),
        snakemake,
    )
