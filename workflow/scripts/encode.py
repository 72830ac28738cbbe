"""One part of a split: rows of text in, rows of token ids out, with the base model's own tokenizer.

In:  split/<split>.parquet or augment/train.parquet, and the folder of the base model
Out: tokens/<split>/data-<part>.arrow            input_ids, prompt_len, row_id: schema token_rows.TOKENS
     tokens/parts/<split>-<part>.json            counts; which library tokenized, and why
     tokens/parts/<split>-<part>.notes.parquet   schema rows.DROPPED: rows that were dropped or cut, and by how much

Prompt and completion are tokenized apart and joined, so that the border between them is the one that generation will
meet, and no token straddles it. Ids are written straight to the Arrow stream format that `datasets` maps into memory:
nothing is read back, merged or copied. A job holds one row group of text, at most 8 MB, with its ids.
"""

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.job import run
from snaketune.rows import DROPPED, TableWriter
from snaketune.tokens.parity import choose
from snaketune.tokens.ragged import Ragged, merged
from snaketune.tokens.token_rows import NOTHING, RULES, TOKENS, TRUNCATED, fit, fitted_batch
from snaketune.tokens.tokenizer import longest, open_tokenizer

COLUMNS = ["row_id", "source", "line", "prompt", "completion", "messages"]
LIBRARIES = ("tokenizers", "transformers", "gigatoken")


def encode(
    rows: str, base: str, outputs: dict[str, str], settings: dict[str, Any], *, part: int = 0, threads: int = 1
) -> str:
    """Tokenize part `part` of `settings["shards"]`; `outputs` names the files `tokens`, `about` and `notes`."""
    if threads > 1:  # read by both libraries when they first tokenize
        os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
    coder = Coder(base, rows, settings, threads)
    for path in outputs.values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("rows", "tokens", "trained_tokens", "truncated", "dropped"), 0)
    with (
        pa.ipc.new_stream(outputs["tokens"], TOKENS) as stream,
        TableWriter(outputs["notes"], DROPPED) as notes,
    ):
        for table in part_of(rows, part, settings["shards"]):
            batch, noted = coder.encode(table)
            stream.write_batch(batch)
            notes.write(noted)
            prompts, tokens = batch.column("prompt_len").to_numpy(), len(batch.column("input_ids").values)
            cut = int(pc.sum(pc.equal(noted["rule"], RULES[TRUNCATED])).as_py() or 0)
            counts["rows"] += batch.num_rows
            counts["tokens"] += tokens
            # The first token of a plain text has nothing before it to be foretold from.
            counts["trained_tokens"] += tokens - int(np.maximum(prompts, 1).sum())
            counts["truncated"] += cut
            counts["dropped"] += noted.num_rows - cut
    about = counts | coder.about()
    Path(outputs["about"]).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    cut = "".join(f", {counts[kind]:,} {kind}" for kind in ("truncated", "dropped") if counts[kind])
    name = Path(outputs["tokens"]).parent.name + (f" {part + 1}/{settings['shards']}" if settings["shards"] > 1 else "")
    done = f"{counts['tokens']:,} tokens in {counts['rows']:,} rows of at most {about['max_length']:,}"
    return f"{name}: {done}{cut} ({about['backend']})"


def part_of(rows: str, part: int, parts: int) -> Iterator[pa.Table]:
    """The rows from n * part // parts to n * (part + 1) // parts of a table, by row groups."""
    with pq.ParquetFile(rows) as file:
        total = file.metadata.num_rows
        first, last, start = total * part // parts, total * (part + 1) // parts, 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if start < last and end > first:
                table = file.read_row_group(group, columns=COLUMNS)
                yield table.slice(max(first - start, 0), min(last, end) - max(first, start)).combine_chunks()
            start = end


class Coder:
    """Tables of rows to batches of token rows, under the settings of a run."""

    def __init__(self, base: str, rows: str, settings: dict[str, Any], threads: int) -> None:
        self._settings = settings
        self._tokenizer = open_tokenizer(Path(base), settings["trust_remote_code"])
        config = json.loads((Path(base) / "config.json").read_text(encoding="utf-8"))
        self._length = longest(settings["max_length"], config)
        self._backend, self._why = choose(self._tokenizer, rows, settings, threads)
        self._template: Any = None
        if settings["chat_template"] == "auto" and getattr(self._tokenizer, "chat_template", None):
            from snaketune.tokens.chat_ids import ChatTemplate

            self._template = ChatTemplate(self._tokenizer, settings["special_tokens"] == "parse")

    def about(self) -> dict[str, Any]:
        """What the manifest says beside the counts."""
        return {
            "max_length": self._length,
            "vocabulary": len(self._tokenizer),
            "backend": self._backend.name,
            "why": self._why,
            "texts": {"gigatoken": 0, "huggingface": 0} | self._backend.texts,
            "versions": {name: version(name) for name in LIBRARIES},
        }

    def encode(self, table: pa.Table) -> tuple[pa.RecordBatch, pa.Table]:
        """The token rows of a table, and what was dropped or cut of it, as rows of DROPPED."""
        heads, tails = self._ids(table)
        fitted = fit(heads.lengths, tails.lengths, self._length, self._settings)
        batch = fitted_batch(heads, tails, fitted, table["row_id"].combine_chunks())
        noted = np.flatnonzero(fitted.rule != NOTHING)
        had = (heads.lengths + tails.lengths)[noted].astype(np.float64)
        notes = {name: table[name].take(pa.array(noted)) for name in ("row_id", "source", "line")} | {
            "stage": pa.repeat("tokenize", len(noted)),
            "rule": pa.array(RULES, pa.string()).take(pa.array(fitted.rule[noted])),
            "value": pa.array(had),
            "threshold": pa.repeat(float(self._length), len(noted)),
        }
        return batch, pa.table(notes, schema=DROPPED)

    def _ids(self, table: pa.Table) -> tuple[Ragged, Ragged]:
        """The ids of the prompts and of the rest with its end, one of each for each row."""
        chat = np.zeros(table.num_rows, bool)
        if self._template is not None:
            chat = table["messages"].is_valid().to_numpy()
        rest = table.filter(pa.array(~chat)) if chat.any() else table
        prompts = pc.binary_join_element_wise(rest["prompt"], self._settings["separator"], "")
        pair = prompts.is_valid().to_numpy()
        given = self._backend.encode(_array(prompts.drop_null()))
        heads = merged(pair, given, Ragged(np.zeros(0, np.int32), np.zeros((~pair).sum() + 1, np.int64)))
        tails = self._backend.encode(_array(rest["completion"]))
        endless = np.ones(table.num_rows, bool)
        if chat.any():
            talks = table.filter(pa.array(chat))
            asked, answered, endless[chat] = self._template.encode(_array(talks["messages"]), _array(talks["row_id"]))
            heads, tails = merged(chat, asked, heads), merged(chat, answered, tails)
        return heads, tails.ended(self._tokenizer.eos_token_id, endless) if self._settings["append_eos"] else tails


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _from_job(job: Any) -> str:
    outputs = {name: job.output[name] for name in ("tokens", "about", "notes")}
    arguments = (job.input.rows, job.params.base, outputs, job.params.settings)
    return encode(*arguments, part=job.params.part, threads=job.threads)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
