"""Clean rows in, their signatures out: all that the search for duplicates needs of most rows.

In:  clean/rows-<shard>.parquet
Out: dedup/signatures-<shard>.parquet, schema `signatures.schema`, the rows in the same order

A row is compared as one text, its prompt and completion on two lines. `exact` and `question` are 128-bit hashes of the
comparable texts (lower case, white space collapsed); a prompt of nothing but white space counts as none. The band keys
are those of `minhash`; a text without any word has none. A batch of rows is in memory, and five times its text.
"""

from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import run
from snaketune.minhash import band_keys, shingle_sets
from snaketune.rows import TableWriter, batches
from snaketune.signatures import DIGEST, band, schema
from snaketune.words import comparable, joint

COLUMNS = ["row_id", "source", "line", "group", "label", "split", "prompt", "completion"]


def sign(rows: str, signatures: str, settings: dict[str, Any]) -> str:
    """Sign the rows of one shard; `settings` holds shingle_words, bands and rows_per_band."""
    names = [band(number) for number in range(settings["bands"])]
    wordless = 0
    with TableWriter(signatures, schema(settings["bands"])) as out:
        for batch in batches(rows, COLUMNS):
            prompt, completion = batch["prompt"].combine_chunks(), batch["completion"].combine_chunks()
            flat, offsets = shingle_sets(joint(prompt, completion), settings["shingle_words"])
            keys = band_keys(flat, offsets, settings["bands"], settings["rows_per_band"])
            empty = np.diff(offsets) == 0
            wordless += int(empty.sum())
            exact, question = _digests(prompt, completion)
            length = pc.add(*(pc.fill_null(pc.utf8_length(text), 0) for text in (prompt, completion)))
            columns = {name: batch[name] for name in COLUMNS[:6]} | {"chars": length.cast(pa.int64())}
            columns |= {"exact": exact, "question": question}
            columns |= {name: pa.array(keys[:, number], mask=empty) for number, name in enumerate(names)}
            out.write(pa.table(columns))
    return f"{out.rows:,} rows signed" + (f", {wordless:,} of them without any word" if wordless else "")


def _digests(prompt: pa.Array, completion: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The hashes of both texts, and of the prompt, of each row."""
    exact, question = [], []
    pairs = zip(_bytes(comparable(prompt)), _bytes(comparable(completion)), strict=True)
    for asked, answered in pairs:
        digest = blake2b(len(asked).to_bytes(8, "little"), digest_size=16)
        digest.update(asked)
        question.append(digest.digest() if len(asked) else None)
        digest.update(len(answered).to_bytes(8, "little"))
        digest.update(answered)
        exact.append(digest.digest())
    return pa.array(exact, DIGEST), pa.array(question, DIGEST)


def _bytes(texts: pa.Array) -> list[memoryview]:
    """The UTF-8 of each text, without a copy; of null, nothing."""
    texts = pc.fill_null(texts, "")
    if not len(texts):
        return []
    data = memoryview(texts.buffers()[2] or b"")
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1].tolist()
    return [data[start:end] for start, end in pairwise(ends)]


if __name__ == "__main__":
    run(lambda job: sign(job.input.rows, job.output.signatures, job.params.settings), snakemake)
