"""Small tables for the tests of the data stages: rows, files and settings, in as few words as a test can read."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from snaketune import config
from snaketune.rows import ROW, row_id, write_table

MINIMAL: dict[str, Any] = {"run": "tiny", "source": {"files": "raw/*.jsonl"}, "model": {"base": "base"}}


def raw_config(**sections: Any) -> dict[str, Any]:
    """The smallest configuration that can be run, with sections replaced."""
    return MINIMAL | sections


def settings(section: str, **changes: Any) -> dict[str, Any]:
    """The settings of a section: the defaults, with changes."""
    given = MINIMAL.get(section, {}) | changes
    return config.load(raw_config(**{section: given}))["tiny"][section]


def row(completion: str, prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    """A typed row; its id follows from its texts unless it is given."""
    empty = dict.fromkeys(ROW.names)
    made = {"row_id": row_id(prompt, completion), "source": "raw", "line": 1}
    return empty | made | {"prompt": prompt, "completion": completion} | fields


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = ROW) -> str:
    """Write rows as a table of a schema; columns that a row lacks are null."""
    filled = [dict.fromkeys(schema.names) | {name: row[name] for name in schema.names if name in row} for row in rows]
    write_table(pa.Table.from_pylist(filled, schema=schema), path, schema)
    return str(path)


def read(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a table, read by Arrow alone."""
    return pq.read_table(path).to_pylist()


def jsonl(path: Path, rows: list[Any]) -> Path:
    """Write values as lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
