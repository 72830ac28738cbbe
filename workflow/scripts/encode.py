"""Rows of text in, rows of token ids out, with the base model's own tokenizer.

In:  split/<split>.parquet, and the folder of the base model
Out: tokens/<split>/              opened by datasets.load_from_disk: input_ids, prompt_len, row_id
     tokens/<split>.json          the manifest: counts, and a hash of the content
     tokens/<split>.notes.parquet schema rows.DROPPED: rows that were dropped or cut, and by how much

Prompt and completion are tokenized apart and joined, so that the border between them is the one that generation will
meet, and no token straddles it. Ids are written straight to the Arrow stream format that `datasets` maps into memory:
nothing is read back, merged or copied.
"""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import DROPPED, batches, write_table

TOKENS = pa.schema([("input_ids", pa.list_(pa.int32())), ("prompt_len", pa.int32()), ("row_id", pa.string())])
DEFAULT_LENGTH = 1024


def encode(rows: str, base: str, outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Tokenize one split; `outputs` names the folder, the manifest and the notes."""
    tokenizer = open_tokenizer(Path(base), settings["trust_remote_code"])
    if tokenizer.eos_token_id is None:  # it also pads batches and begins texts, whatever `append_eos` says
        raise StageError(
            f"the tokenizer in {base} has no end-of-text token; name its `eos_token` in tokenizer_config.json"
        )
    length = longest(settings["max_length"], json.loads((Path(base) / "config.json").read_text(encoding="utf-8")))
    notes: list[dict[str, Any]] = []
    counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "truncated": 0, "dropped": 0}
    digest = sha256()
    folder = Path(outputs["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    schema = TOKENS.with_metadata({"huggingface": json.dumps({"info": {"features": _features()}})})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), schema) as stream:
        for table in batches(rows):
            encoded = list(_encoded(table, tokenizer, length, settings, notes))
            batch = _arrow(encoded, schema)
            stream.write_batch(batch)
            digest.update(batch.column(0).values.to_numpy().tobytes())
            digest.update(batch.column(0).offsets.to_numpy().tobytes())
            digest.update(batch.column(1).to_numpy().tobytes())
            digest.update("".join(row_id for _, _, row_id in encoded).encode())
            counts["rows"] += len(encoded)
            counts["tokens"] += sum(len(ids) for ids, _, _ in encoded)
            counts["trained_tokens"] += sum(len(ids) - max(1, prompt) for ids, prompt, _ in encoded)
    if not counts["rows"]:
        raise StageError(f"no row of {rows} is left; `tokenize.overlong_*` dropped them all at {length} tokens")
    counts["truncated"] = sum(note["rule"] == "truncated" for note in notes)
    counts["dropped"] = sum(note["rule"] != "truncated" for note in notes)
    _describe(folder, digest.hexdigest())
    write_table(pa.Table.from_pylist(notes, schema=DROPPED), outputs["notes"], DROPPED)
    manifest = counts | {"max_length": length, "vocabulary": len(tokenizer), "sha256": digest.hexdigest()}
    Path(outputs["manifest"]).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    cut = "".join(f", {counts[kind]:,} {kind}" for kind in ("truncated", "dropped") if counts[kind])
    return f"{folder.name}: {counts['tokens']:,} tokens in {counts['rows']:,} rows of at most {length:,}{cut}"


def open_tokenizer(base: Path, trust_remote_code: bool) -> Any:
    """The base model's tokenizer; where its tokenizer.json says everything, without AutoTokenizer and its torch."""
    about = base / "tokenizer_config.json"
    special = about.exists() and "auto_map" in json.loads(about.read_text(encoding="utf-8"))
    if (base / "tokenizer.json").exists() and not special:
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    try:
        return Tokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise StageError(f"{base} holds no tokenizer that can be loaded: {error}") from error


def longest(wanted: int | None, config: dict[str, Any]) -> int:
    """The row length in tokens: as set, or the model's positions up to 1024. Raises StageError beyond the model's."""
    names = ("n_positions", "max_position_embeddings", "max_seq_len")
    positions = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    if wanted is None:
        return min(positions or DEFAULT_LENGTH, DEFAULT_LENGTH)
    if positions is not None and wanted > positions:
        raise StageError(f"`tokenize.max_length` is {wanted}, but the model has {positions} positions")
    return wanted


Encoded = tuple[list[int], int, str]


def _encoded(
    table: pa.Table, tokenizer: Any, length: int, settings: dict[str, Any], notes: list[dict[str, Any]]
) -> Iterator[Encoded]:
    """The rows of a batch as (ids, length of the prompt, row_id); what was cut or dropped goes to `notes`."""
    prompts = [None if text is None else text + settings["separator"] for text in table["prompt"].to_pylist()]
    heads = _ids(tokenizer, [text for text in prompts if text is not None])
    tails = _ids(tokenizer, table["completion"].to_pylist())
    end = [tokenizer.eos_token_id] if settings["append_eos"] else []
    head_of = iter(heads)
    for number, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
        head = [] if prompt is None else next(head_of)
        row_id = table["row_id"][number].as_py()
        kept, rule = fit(head, tail + end, length, settings)
        if rule:
            notes.append(
                {
                    **{name: table[name][number].as_py() for name in ("row_id", "source", "line")},
                    "stage": "tokenize",
                    "rule": rule,
                    "value": float(len(head) + len(tail) + len(end)),
                    "threshold": float(length),
                }
            )
        for ids, prompt_length in kept:
            yield ids, prompt_length, row_id


def fit(
    head: list[int], tail: list[int], length: int, settings: dict[str, Any]
) -> tuple[list[tuple[list[int], int]], str | None]:
    """Make a row fit `length` tokens: its parts as (ids, length of the prompt), and the rule that was applied.

    A pair loses the head of its prompt, never its completion; a completion that leaves no room is dropped. Chunks of
    plain text lose nothing: where the last would be one token, with nothing to learn, it takes the one before along.
    """
    if not tail or len(head) + len(tail) < 2:
        return [], "no_trainable_token"
    if len(head) + len(tail) <= length:
        return [(head + tail, len(head))], None
    room = length - len(tail)
    if settings["overlong_pairs" if head else "overlong_text"] == "drop" or (head and room < 1):
        return [], "overlong"
    if head:
        return [(head[-room:] + tail, room)], "truncated"
    if settings["overlong_text"] == "truncate":
        return [(tail[:length], 0)], "truncated"
    starts = list(range(0, len(tail), length))
    starts[-1] -= len(tail) - starts[-1] == 1
    ends = [*starts[1:], len(tail)]
    return [(tail[start:end], 0) for start, end in zip(starts, ends, strict=True)], None


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _arrow(encoded: list[Encoded], schema: pa.Schema) -> pa.RecordBatch:
    lengths = np.fromiter((len(ids) for ids, _, _ in encoded), np.int32, len(encoded))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.fromiter((token for ids, _, _ in encoded for token in ids), np.int32, int(offsets[-1]))
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        pa.array([prompt for _, prompt, _ in encoded], pa.int32()),
        pa.array([row_id for _, _, row_id in encoded], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _features() -> dict[str, Any]:
    value = lambda dtype: {"dtype": dtype, "_type": "Value"}  # noqa: E731
    return {
        "input_ids": {"feature": value("int32"), "_type": "List"},
        "prompt_len": value("int32"),
        "row_id": value("string"),
    }


def _describe(folder: Path, digest: str) -> None:
    """The two small files that make a folder of Arrow streams a saved data set (datasets 5)."""
    state = {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
        "_fingerprint": digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": _features(), "homepage": "", "license": ""}
    for name, content in (("state.json", state), ("dataset_info.json", info)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(
        lambda job: encode(
            job.input.rows,
            job.params.base,
            {name: job.output[name] for name in ("folder", "manifest", "notes")},
            job.params.settings,
        ),
        snakemake,
    )
