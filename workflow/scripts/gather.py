"""The parts of a split as one data set. Nothing is copied: two small files say which Arrow files belong together.

In:  tokens/<split>/data-<part>.arrow, tokens/parts/<split>-<part>.json and .notes.parquet
Out: tokens/<split>/state.json, dataset_info.json   make the folder one that datasets.load_from_disk opens
     tokens/<split>.json                            the manifest: counts, backend, versions, a hash of the content
     tokens/<split>.notes.parquet                   schema rows.DROPPED: the notes of all parts

The manifest is the same however many parts there are.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import DROPPED, TableWriter, batches
from snaketune.tokens.token_rows import FEATURES

COUNTS = ("rows", "tokens", "trained_tokens", "truncated", "dropped")


def gather(tokens: list[str], about: list[str], notes: list[str], outputs: dict[str, str]) -> str:
    """Join the parts, in their order; `outputs` names the files `state`, `info`, `manifest` and `notes`.

    Raises StageError where the parts hold no row.
    """
    parts = [json.loads(Path(path).read_text(encoding="utf-8")) for path in about]
    manifest = {key: value for key, value in parts[0].items() if key not in (*COUNTS, "texts")}
    manifest |= {name: sum(part[name] for part in parts) for name in COUNTS}
    manifest["texts"] = {name: sum(part["texts"][name] for part in parts) for name in parts[0]["texts"]}
    folder = Path(outputs["state"]).parent
    if not manifest["rows"]:
        raise StageError(
            f"no row of the {folder.name} split is left; `tokenize.overlong_*` dropped them all at "
            f"{manifest['max_length']} tokens"
        )
    manifest["sha256"] = content_hash(tokens)
    names = [Path(path).name for path in tokens]
    for old in set(folder.glob("data-*.arrow")) - {folder / name for name in names}:
        old.unlink()  # of a run with more parts: no one reads it
    _write(outputs["state"], state_of(names, manifest["sha256"]))
    _write(outputs["info"], {"citation": "", "description": "", "features": FEATURES, "homepage": "", "license": ""})
    _write(outputs["manifest"], manifest)
    with TableWriter(outputs["notes"], DROPPED) as out:
        for path in notes:
            for table in batches(path):
                out.write(table)
    cut = "".join(f", {manifest[kind]:,} {kind}" for kind in ("truncated", "dropped") if manifest[kind])
    return f"{folder.name}: {manifest['tokens']:,} tokens in {manifest['rows']:,} rows{cut}"


def content_hash(tokens: list[str]) -> str:
    """The sha256 of what the rows hold, whichever files and batches they stand in.

    Four streams are hashed, each over all rows in order: the token ids and the numbers of tokens and the lengths of the
    prompts as little-endian int32, and the row ids as UTF-8 with a line feed after each. The hash is that of the four
    digests, 32 bytes each, one after the other.
    """
    streams = [sha256() for _ in range(4)]
    for path in tokens:
        # Read, not mapped: pages of a mapped file would count as memory of the job.
        with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                ids, prompts, row_ids = batch.columns
                lengths = np.diff(ids.offsets.to_numpy())
                for digest, numbers in zip(streams, (ids.values.to_numpy(), lengths, prompts.to_numpy()), strict=False):
                    digest.update(np.ascontiguousarray(numbers, dtype="<i4").data)
                streams[3].update("".join(f"{row_id}\n" for row_id in row_ids.to_pylist()).encode())
    return sha256(b"".join(digest.digest() for digest in streams)).hexdigest()


def state_of(names: list[str], digest: str) -> dict[str, Any]:
    """What datasets 5 reads first in a folder: its files, and a fingerprint that follows from the content."""
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": digest[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def _write(path: str, content: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _from_job(job: Any) -> str:
    outputs = {name: job.output[name] for name in ("state", "info", "manifest", "notes")}
    return gather(list(job.input.tokens), list(job.input.about), list(job.input.notes), outputs)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
