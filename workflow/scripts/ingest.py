"""Raw files in, typed rows out; what cannot become a row is set aside with its file, line and reason.

In:  the raw files of one shard, or parts of them, each with the name that it goes by in every later file
Out: rows-<shard>.parquet (schema rows.ROW) and quarantine-<shard>.parquet (schema rows.QUARANTINE)

Rows are read as a stream, collected by columns and written in batches, so that memory is bounded by a batch whatever
the size of a file. Most of the time goes into reading JSON, hashing the ids and packing the result.
"""

import json
from collections import Counter
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa

from snaketune.ingest.formats import HEAD_CHARS, Bad, Raw
from snaketune.ingest.sources import opened
from snaketune.ingest.typed import Maker, MissingFieldError, as_text, columns_of, maker
from snaketune.job import StageError, run
from snaketune.rows import BATCH_BYTES, BATCH_ROWS, QUARANTINE, ROW, TableWriter, row_id

REASONS = 1000  # different reasons that are counted, for the sentence at the end


class Collected:
    """Rows by their columns, on their way to a table."""

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self._clear()

    def _clear(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.size = 0

    def add(self, row: tuple[Any, ...], size: int) -> None:
        """Take a row, its values in the order of the schema, of about `size` bytes."""
        self.rows.append(row)
        self.size += size
        if self.size >= BATCH_BYTES or len(self.rows) == BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self.rows:
            schema = self.writer.schema
            columns = [
                pa.array(values, field.type) for values, field in zip(zip(*self.rows, strict=True), schema, strict=True)
            ]
            self._clear()
            self.writer.write(pa.Table.from_arrays(columns, schema=schema))


def ingest(
    files: list[dict[str, Any]], rows: str, quarantine: str, settings: dict[str, Any], *, alone: bool = True
) -> str:
    """Read the files of one shard: [{path, name, format, start, end}], where an `end` of None is the whole file.

    `alone`: these are all files of the run. Raises StageError at a bad row when `on_bad_row: fail`, and where a run
    has bad rows only. A part of a file in which no row begins gives empty tables.
    """
    make, wanted = maker(settings), columns_of(settings)
    reasons: Counter[str] = Counter()
    with TableWriter(rows, ROW) as good, TableWriter(quarantine, QUARANTINE) as bad:
        kept, aside = Collected(good), Collected(bad)
        for file in files:
            for name, items in opened(file, settings, wanted):
                for item in items:
                    fault = item if isinstance(item, Bad) else _keep(item, name, make, settings["keep"], kept)
                    if fault is None:
                        continue
                    if settings["on_bad_row"] == "fail":
                        raise StageError(
                            f"{name}, line {fault.line}: {fault.reason}. Mend the row, or set "
                            "`source.on_bad_row: quarantine` to put such rows aside"
                        )
                    aside.add(_fault(name, fault), len(fault.reason) + len(fault.head))
                    if fault.reason in reasons or len(reasons) < REASONS:
                        reasons[fault.reason] += 1
        kept.flush()
        aside.flush()
        if alone and good.rows == 0 and bad.rows:
            raise StageError(
                f"none of the {bad.rows:,} raw rows can be used; the commonest reason: {reasons.most_common(1)[0][0]}"
            )
    told = f", {bad.rows:,} set aside" if bad.rows else ""
    return f"{good.rows:,} rows of {len(files):,} file{'s' * (len(files) != 1)}{told}"


def _keep(item: Raw, source: str, make: Maker, keep: list[str], kept: Collected) -> Bad | None:
    """Collect the rows that a raw row makes, all or none; the Bad says why none."""
    line, fields = item
    try:
        made = make(fields)
        meta = _meta({key: fields[key] for key in keep if key in fields}) if keep else None
    except (MissingFieldError, RecursionError) as error:
        return Bad(line, str(error), _head(fields))
    for row in made:
        prompt, completion, messages, group, label, split = row
        identity = row_id(prompt, completion, messages)
        size = len(completion) + len(prompt or "") + len(messages or "") + len(meta or "")
        kept.add((identity, source, line, prompt, completion, messages, group, label, split, meta), size)
    return None


def _meta(kept: dict[str, Any]) -> str | None:
    """The columns that are carried along, as compact JSON with sorted keys; NaN is null there."""
    if not kept:
        return None
    try:
        options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
        return orjson.dumps(kept, default=str, option=options).decode()
    except (TypeError, ValueError):  # a whole number over 64 bits, half a surrogate pair
        return as_text(json.dumps(kept, ensure_ascii=False, sort_keys=True, default=str, separators=(",", ":")))


def _head(fields: dict[str, Any]) -> str:
    short = {key: value[:HEAD_CHARS] if isinstance(value, str) else value for key, value in fields.items()}
    try:
        return json.dumps(short, ensure_ascii=False, default=str)[:HEAD_CHARS]
    except (RecursionError, ValueError):  # lists in lists, a thousand deep; a number of thousands of digits
        return ""


def _fault(source: str, bad: Bad) -> tuple[str, str, int, str, str]:
    """A line of the quarantine."""
    identity = blake2b(f"{source}\0{bad.line}\0{bad.reason}\0{bad.head}".encode("utf-8", "replace"), digest_size=16)
    reason, head = (text.encode("utf-8", "replace").decode("utf-8") for text in (bad.reason, bad.head))
    return identity.hexdigest(), source, bad.line, reason, head


if __name__ == "__main__":
    run(
        lambda job: ingest(
            job.params.files, job.output.rows, job.output.quarantine, job.params.settings, alone=job.params.alone
        ),
        snakemake,
        light=True,
    )
