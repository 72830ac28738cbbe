"""Writes config/README.md and workflow/schemas/config.schema.json from the models of the configuration.

python workflow/scripts/snaketune/configdoc.py          writes both
python workflow/scripts/snaketune/configdoc.py --check  exits with 1 and a diff where a file has drifted
"""

from __future__ import annotations

import difflib
import json
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from snaketune.schema import Config, Section, section_of

ROOT = Path(__file__).resolve().parents[3]
INTRODUCTION = """\
# Configuration

A run is described by one YAML file. [`config.yaml`](config.yaml) is the shipped example; `examples/` has more. A file
that names its own `source` stands alone; one that does not is laid over `config.yaml`:

    snakemake --configfile my.yaml

An unknown key, a wrong type or a combination that cannot work is refused before anything runs. Every key is listed
here; this page is generated from the same models that check the file (`make docs`).
"""


def page() -> str:
    """config/README.md."""
    parts = [INTRODUCTION, _table("Top level", "", Config)]
    for name, field in Config.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            parts += _sections(_place(name, field.annotation), section, field.description or "")
    return "\n".join(parts)


def _place(name: str, annotation: Any) -> str:
    """How a section is reached: a list holds many, a mapping one for each name that the user gives."""
    return name + {list: "[]", dict: ".<name>"}.get(get_origin(annotation), "")


def _sections(path: str, section: type[Section], about: str) -> list[str]:
    parts = [_table(f"`{path}`", about, section)]
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            parts += _sections(f"{path}.{_place(name, field.annotation)}", inner, inner.__doc__ or "")
    return parts


def _table(title: str, about: str, section: type[Section]) -> str:
    lines = [
        f"## {title}",
        "",
        *([about, ""] if about else []),
        "| key | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in section.model_fields.items():
        limits = _limits(field.metadata)
        example = f" Example: `{json.dumps(field.examples[0])}`." if field.examples else ""
        meaning = (field.description or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{name}` | {_type(field.annotation)}{limits} | {_default(field)} | {meaning}{example} |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    if section_of(annotation) is not None:
        return {list: "list of sections", dict: "sections by name"}.get(get_origin(annotation), "section")
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return {str: "text", int: "integer", float: "number", bool: "true/false", type(None): "null"}.get(
        annotation, "text"
    )


def _limits(metadata: list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{signs[name]} {getattr(part, name):g}" for part in metadata for name in signs if hasattr(part, name)]
    return f" ({', '.join(limits)})" if limits else ""


def _default(field: Any) -> str:
    if section_of(field.annotation) is not None and field.default not in (None, [], {}):
        return "required" if field.is_required() else "its defaults"
    if field.default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(field.default)}`"


def schema() -> str:
    """The JSON schema, for completion and checks in an editor."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files, or compare them."""
    drifted = 0
    files = {ROOT / "config/README.md": page(), ROOT / "workflow/schemas/config.schema.json": schema()}
    for path, content in files.items():
        if "--check" not in arguments:
            path.write_text(content, encoding="utf-8")
            continue
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if there != content:
            drifted = 1
            sys.stdout.writelines(difflib.unified_diff(there.splitlines(True), content.splitlines(True), str(path)))
    return drifted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
