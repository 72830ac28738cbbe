"""The loss of every test row under one model, summed over its tokens.

In:  tokens/test/ and its manifest, split/test.parquet, the folder of a model
Out: likelihood/<side>.parquet, one line a row: sums of nats and counts of tokens, never means

Rows are scored in fp32 and each token once. A completion is conditioned on its prompt, exactly as in training and in
generation; plain text is conditioned on the begin-of-text token, so that its first token counts too. A chunk that fills
all positions of the model has no room for that token, and only its first token is conditioned on it. A text that was
cut into chunks is scored chunk by chunk and summed. Rows share sequences, isolated from each other, so the sums do not
depend on batches or padding.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from snaketune.job import run
from snaketune.model.batches import Rows, collate
from snaketune.model.lm import device_of, isolates, load_model, load_tokenizer, positions_of, token_losses
from snaketune.packing import pack
from snaketune.rows import read_table, write_table

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
    ]
)
BATCH_TOKENS = 8192


def likelihood(
    tokens: str, texts: str, model: str, out: str, settings: dict[str, Any], *, gpus: int, threads: int
) -> str:
    """Score the rows of a token folder; `texts` is the split that they were made of."""
    torch.set_num_threads(threads)
    device = device_of(gpus)
    network = load_model(model, settings["trust_remote_code"]).to(device).eval()
    tokenizer = load_tokenizer(model, settings["trust_remote_code"])
    rows = Rows(tokens)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    sums = _sums(network, rows, start, tokenizer.eos_token_id, device)
    table = pd.DataFrame({"row_id": rows.row_ids} | sums).groupby("row_id", sort=True).sum().reset_index()
    as_text = settings["special_tokens"] == "text"
    table["n_bytes"] = table["row_id"].map(_bytes(texts, rows, tokenizer, as_text))
    write_table(pa.Table.from_pandas(table[LIKELIHOOD.names], LIKELIHOOD, preserve_index=False), out, LIKELIHOOD)
    perplexity = float(np.exp(table["nll"].sum() / table["n_tokens"].sum()))
    return f"{len(table):,} rows, perplexity {perplexity:,.2f} over {table['n_tokens'].sum():,} completion tokens"


def _bytes(texts: str, rows: Rows, tokenizer: Any, as_text: bool) -> dict[str, int]:
    """The UTF-8 bytes of each row's completion, as far as it was scored: a plain text may have lost its tail.

    as_text: a special token that is written in a text is no token, as when the rows were tokenized.
    """
    kept: Counter[str] = Counter()
    for row_id, length in zip(rows.row_ids, rows.lengths.tolist(), strict=True):
        kept[row_id] += length
    sizes = {}
    for row in read_table(texts, ["row_id", "prompt", "completion"]).to_pylist():
        row_id, text = row["row_id"], row["completion"]
        if row["prompt"] is None and row_id in kept:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=as_text, verbose=False)["input_ids"]
            if kept[row_id] < len(ids):
                text = tokenizer.decode(ids[: kept[row_id]], clean_up_tokenization_spaces=False)
        sizes[row_id] = len(text.encode("utf-8"))
    return sizes


def _sums(network: torch.nn.Module, rows: Rows, start: int, end: int, device: torch.device) -> dict[str, np.ndarray]:
    """Sums by token row, [rows] each: of all tokens, of the completion, and of the completion without its end."""
    prompts = np.asarray(rows.prompt_lengths)
    full = (prompts == 0) & (rows.lengths >= (positions_of(network.config) or np.inf))
    begins = (prompts == 0) & ~full
    sequences = [np.concatenate([[start] * int(begins[row]), rows[row]]).astype(np.int64) for row in range(len(rows))]
    sequences += [np.array([start, rows[row][0]], dtype=np.int64) for row in np.flatnonzero(full)]
    row_of = np.concatenate([np.arange(len(rows)), np.flatnonzero(full)])
    first = np.concatenate([prompts + begins, np.ones(full.sum(), np.int64)])  # the place where the completion begins
    lengths = np.array([len(sequence) for sequence in sequences])
    ends = np.array([_end(sequence, end) for sequence in sequences])
    width = int(lengths.max())
    blocks = pack(lengths, width) if isolates(network) else [[number] for number in range(len(sequences))]
    size = max(1, BATCH_TOKENS // width)
    names = ("n_tokens", "nll", "n_tokens_full", "nll_full", "nll_text", "n_correct")
    sums = {name: np.zeros(len(rows), np.int64 if name.startswith("n_") else np.float64) for name in names}
    with torch.no_grad():
        for at in range(0, len(blocks), size):
            part = blocks[at : at + size]
            batch = collate(part, sequences, np.zeros(len(sequences), np.int64), "all", end, "rows").to(device)
            nll, hit, counted = token_losses(network, batch.input_ids, batch.position_ids, batch.labels())
            owner, place = _owners(part, sequences, counted.cpu())
            row, answer = row_of[owner], place >= first[owner]
            is_end = place >= ends[owner]
            nll, hit = nll.double().cpu().numpy(), hit.cpu().numpy()
            np.add.at(sums["nll_full"], row, nll)
            np.add.at(sums["n_tokens_full"], row, 1)
            np.add.at(sums["nll"], row, nll * answer)
            np.add.at(sums["n_tokens"], row, answer)
            np.add.at(sums["n_correct"], row, hit & answer)
            np.add.at(sums["nll_text"], row, nll * (answer & ~is_end))
    return sums


def _end(sequence: np.ndarray, end: int) -> int:
    """The place from which a sequence says no more than that it ends; some chat templates put a line feed after."""
    tail = sequence[max(1, len(sequence) - 2) :]  # the first token is never scored, and may be the begin-of-text token
    found = np.flatnonzero(tail == end)
    return len(sequence) - (len(tail) - int(found[-1]) if len(found) else 0)


def _owners(
    blocks: list[list[int]], sequences: list[np.ndarray], counted: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """For each counted token [n]: the number of its sequence, and its place in it. counted: [B, T-1] bool."""
    owner = np.full((len(blocks), counted.shape[1] + 1), -1, np.int64)
    place = np.zeros_like(owner)
    for number, block in enumerate(blocks):
        at = 0
        for row in block:
            size = len(sequences[row])
            owner[number, at : at + size] = row
            place[number, at : at + size] = np.arange(size)
            at += size
    mask = counted.numpy()
    return owner[:, 1:][mask], place[:, 1:][mask]


if __name__ == "__main__":
    run(
        lambda job: likelihood(
            str(Path(job.input.state).parent),
            job.input.texts,
            job.params.model,
            job.output.table,
            job.params.settings,
            gpus=job.resources.get("gpu", 0),
            threads=job.threads,
        ),
        snakemake,
    )
