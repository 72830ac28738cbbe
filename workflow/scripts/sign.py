"""Clean rows in, their signatures out: all that the search for duplicates needs of most rows.

In:  clean/rows-<shard>.parquet
Out: dedup/signatures-<shard>.parquet, schema `signatures.schema`, the rows in the same order

A row is compared as one text, its prompt and completion on two lines. `exact` and `question` are hashes of the texts
but for case and white space (see `digests`); a prompt of nothing but white space counts as none. The band keys are
those of `minhash`; a text without any word has none. A batch of rows is in memory, and three times its text.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.dedup.signatures import band, schema
from snaketune.job import run
from snaketune.rows import TableWriter, batches
from snaketune.text.digests import digests
from snaketune.text.minhash import band_keys, shingle_sets
from snaketune.text.words import joint

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
            exact, question = digests(prompt, completion)
            length = pc.add(*(pc.fill_null(pc.utf8_length(text), 0) for text in (prompt, completion)))
            columns = {name: batch[name] for name in COLUMNS[:6]} | {"chars": length.cast(pa.int64())}
            columns |= {"exact": exact, "question": question}
            columns |= {name: pa.array(keys[:, number], mask=empty) for number, name in enumerate(names)}
            out.write(pa.table(columns))
    return f"{out.rows:,} rows signed" + (f", {wordless:,} of them without any word" if wordless else "")


if __name__ == "__main__":
    run(lambda job: sign(job.input.rows, job.output.signatures, job.params.settings), snakemake, light=True)
