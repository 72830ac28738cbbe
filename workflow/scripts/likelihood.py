"""The loss of every test row under one model, summed over its tokens, and what else the model says of them.

In:  tokens/test/ and its manifest, split/test.parquet, the folder of a model
Out: likelihood/<side>.parquet, one line a row: sums of nats and counts of tokens, never means; and the loss of each
     token. The settings `window` and `stride` stand in the file's own metadata. With the setting `part`, likelihood/
     parts/<side>-<part>.parquet: the same of a part of the rows.

Rows are scored in fp32 and each token once. A completion is conditioned on its prompt, exactly as in training and in
generation; plain text is conditioned on the begin-of-text token, so that its first token counts too. A text that was
cut into chunks is one text again, and read in windows. Rows share sequences, isolated from each other, so the sums do
not depend on batches or padding.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from snaketune.job import StageError, run
from snaketune.model import dealt
from snaketune.model.batches import Rows
from snaketune.model.lm import (
    PLAIN_HEADS,
    device_of,
    isolates,
    load_model,
    load_tokenizer,
    positions_of,
    token_scores,
)
from snaketune.model.scoring_windows import Documents, passes, windows_of
from snaketune.model.token_sums import TokenSums
from snaketune.reuse import table_of
from snaketune.rows import write_table
from snaketune.scoring.likelihood import BINS

LIKELIHOOD = pa.schema(
    [
        ("row_id", pa.string()),
        ("n_tokens", pa.int64()),
        ("nll", pa.float64()),
        ("n_tokens_full", pa.int64()),
        ("nll_full", pa.float64()),
        ("n_bytes", pa.int64()),
        ("nll_text", pa.float64()),
        ("n_correct", pa.int64()),
        ("n_top5", pa.int64()),
        ("entropy", pa.float64()),
        *((f"bin{k}_n", pa.int64()) for k in range(BINS)),
        *((f"bin{k}_{name}", pa.float64()) for k in range(BINS) for name in ("confidence", "correct")),
        ("token_ids", pa.list_(pa.int32())),
        ("token_nll", pa.list_(pa.float32())),
    ]
)
BATCH_TOKENS = 8192
LOGITS = 1 << 28  # numbers, 1 GiB: models that are not in PLAIN_HEADS give all logits of a batch together


def likelihood(
    tokens: str, texts: str, model: str, out: str, settings: dict[str, Any], *, gpus: int, threads: int
) -> str:
    """Score the rows of a token folder, or those of `settings["part"]`; `texts` is the split that they were made of.

    Raises StageError for a window that the model cannot read, or that would leave tokens out.
    """
    rows, part = _rows(tokens, settings), settings.get("part")
    stamp = {"windows": json.dumps({name: settings[name] for name in ("window", "stride")})}
    schema = LIKELIHOOD.with_metadata(stamp)
    if not len(rows):
        write_table(schema.empty_table(), out, schema)
        return f"{dealt.spoken(part)}no row is left for it"
    torch.set_num_threads(threads)
    device = device_of(gpus)
    network = load_model(model, settings["trust_remote_code"]).to(device).eval()
    tokenizer = load_tokenizer(model, settings["trust_remote_code"])
    about = json.loads(Path(f"{tokens}.json").read_text(encoding="utf-8"))
    documents = Documents(rows)
    window, stride = _window(settings, positions_of(network.config), about["max_length"])
    windows = windows_of(documents.lengths, documents.prompt_lengths, window, stride)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    batch_tokens = BATCH_TOKENS
    if network.config.model_type not in PLAIN_HEADS:
        batch_tokens = min(BATCH_TOKENS, LOGITS // network.get_input_embeddings().num_embeddings)
    sums = TokenSums(documents)
    for batch in passes(documents, windows, start, tokenizer.eos_token_id, batch_tokens, isolates(network)):
        ids, positions, targets = (tensor.to(device) for tensor in (batch.input_ids, batch.position_ids, batch.targets))
        sums.add(batch, token_scores(network, ids, positions, targets))
    kept = dict(zip(documents.row_ids.tolist(), documents.lengths.tolist(), strict=True)) if about["truncated"] else {}
    said = dealt.texts_of(texts, ["row_id", "prompt", "completion"], rows)
    sizes = _bytes(said, kept, tokenizer, settings["special_tokens"] == "text")
    table = sums.table(sizes, tokenizer.eos_token_id, LIKELIHOOD)
    write_table(table, out, schema)
    told = f"{table.num_rows:,} rows, perplexity {sums.perplexity:,.2f} over {sums.n_tokens:,} completion tokens"
    return dealt.spoken(part) + told


def _rows(tokens: str, settings: dict[str, Any]) -> Rows:
    """The rows of this job."""
    if "part" not in settings:
        return Rows(tokens)
    sizes = dealt.sizes_of(tokens)
    return dealt.rows_of(tokens, sizes, sizes.reading(), settings["part"])


def _window(settings: dict[str, Any], positions: int | None, longest: int) -> tuple[int, int]:
    """The window and the stride in tokens; `longest`: what a row may have, which is what a model without a limit reads.

    A stride that is not set is the window.
    """
    window = settings["window"] or positions or longest
    stride = settings["stride"] or window
    if positions and window > positions:
        raise StageError(
            f"`likelihood.window` is {window:,} tokens, and the model has {positions:,} positions; set it to at most "
            f"{positions:,}, or to null"
        )
    if stride > window:
        raise StageError(
            f"`likelihood.stride` is {stride:,} tokens and the window {window:,}, so that tokens would be left out; "
            f"set it to at most {window:,}, or to null"
        )
    return window, stride


def _bytes(texts: pa.Table, kept: dict[str, int], tokenizer: Any, as_text: bool) -> dict[str, int]:
    """The UTF-8 bytes of each row's completion, as far as it was scored.

    kept: the tokens of each row, where plain texts may have lost their tails, else nothing; as_text: a special token
    that is written in a text is no token, as when the rows were tokenized.
    """
    sizes = {}
    for row in texts.to_pylist():
        row_id, text = row["row_id"], row["completion"]
        if row["prompt"] is None and row_id in kept:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=as_text, verbose=False)["input_ids"]
            if kept[row_id] < len(ids):
                text = tokenizer.decode(ids[: kept[row_id]], clean_up_tokenization_spaces=False)
        sizes[row_id] = len(text.encode("utf-8"))
    return sizes


def _from_job(job: Any) -> str:
    tokens, gpus = str(Path(job.input.state).parent), job.resources.get("gpu", 0)
    return table_of(
        job,
        "likelihood",
        device_of(gpus).type,
        [job.input.tokens, job.input.texts, *job.input.model],
        lambda out: likelihood(
            tokens, job.input.texts, job.params.model, out, job.params.settings, gpus=gpus, threads=job.threads
        ),
    )


if __name__ == "__main__":
    run(_from_job, snakemake)
