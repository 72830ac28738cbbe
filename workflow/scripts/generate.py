"""The answers of one model to the prompts of the test split.

In:  tokens/test/, split/test.parquet, the folder of a model
Out: generate/<side>.parquet: row_id, prompt, reference, output, n_tokens, stopped

Base and tuned model get the same token ids and the same decoding: that of the settings, and nothing of what the model's
own generation_config.json adds (a repetition penalty, say). Prompts are sorted by length and padded on the left
with an attention mask, which makes a batched answer equal to the answer alone. A row of plain text gives its first
tokens as the prompt and what follows as the reference.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from snaketune.job import StageError, run
from snaketune.model.batches import Rows
from snaketune.model.lm import device_of, load_model, load_tokenizer, positions_of
from snaketune.rows import read_table, write_table

ANSWERS = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("output", pa.string()),
        ("n_tokens", pa.int64()),
        ("stopped", pa.string()),
    ]
)


def generate(
    tokens: str, texts: str, model: str, out: str, settings: dict[str, Any], *, gpus: int, threads: int
) -> str:
    """Answer the prompts of a token folder; `texts` is the split that it was made of."""
    from transformers import GenerationConfig

    torch.set_num_threads(threads)
    torch.manual_seed(settings["seed"])
    device = device_of(gpus)
    network = load_model(model, settings["trust_remote_code"]).to(device).eval()
    network.generation_config = GenerationConfig()
    tokenizer = load_tokenizer(model, settings["trust_remote_code"])
    asked = prompts(Rows(tokens), texts, tokenizer, settings)
    room = (positions_of(network.config) or 1 << 30) - settings["max_new_tokens"]
    if room < 1:
        raise StageError(
            f"`generate.max_new_tokens` is {settings['max_new_tokens']}, and the model has "
            f"{positions_of(network.config)} positions for prompt and answer together"
        )
    ids = [row["ids"][-room:] for row in asked]
    order = sorted(range(len(ids)), key=lambda row: (-len(ids[row]), row))
    size = settings["batch_size"]
    for start, end in pairwise([*range(0, len(order), size), len(order)]):
        part = order[start:end]
        for row, answer in zip(part, answers(network, [ids[row] for row in part], tokenizer, settings), strict=True):
            stopped = bool(len(answer)) and answer[-1] == tokenizer.eos_token_id
            text = answer[:-1] if stopped else answer
            asked[row]["output"] = tokenizer.decode(text, skip_special_tokens=True).strip()
            asked[row]["n_tokens"] = len(text)
            asked[row]["stopped"] = "eos" if stopped else "length"
    table = pa.Table.from_pylist(asked, schema=ANSWERS)
    write_table(table, out, ANSWERS)
    ended = table["stopped"].to_pylist().count("eos")
    words = sum(table["n_tokens"].to_pylist()) / len(asked)
    return f"{len(asked):,} answers of {words:.0f} tokens on average, {ended / len(asked):.0%} ended by themselves"


def prompts(rows: Rows, texts: str, tokenizer: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What is asked: token ids, the text of the prompt and the reference, one for each row of the split."""
    table = read_table(texts, ["row_id", "prompt", "completion"])
    text_of = {row["row_id"]: row for row in table.to_pylist()}
    first = {row_id: row for row, row_id in reversed(list(enumerate(rows.row_ids)))}  # a text's first chunk
    asked = []
    for row_id in sorted(first)[: settings["limit"]]:
        ids = rows[first[row_id]].astype(np.int64)
        cut = int(rows.prompt_lengths[first[row_id]])
        row = text_of[row_id]
        if cut == 0:
            cut = min(settings["text_prompt_tokens"], max(1, len(ids) // 2))
            rest = ids[cut : cut + settings["max_new_tokens"]]
            row = row | {
                "prompt": tokenizer.decode(ids[:cut], skip_special_tokens=True),
                "completion": tokenizer.decode(rest, skip_special_tokens=True).strip(),
            }
        asked.append({"row_id": row_id, "prompt": row["prompt"], "reference": row["completion"], "ids": ids[:cut]})
    return asked


def answers(network: Any, ids: list[np.ndarray], tokenizer: Any, settings: dict[str, Any]) -> list[list[int]]:
    """The new token ids of each prompt; the last is the end-of-text token where the model ended by itself."""
    width = max(map(len, ids))
    batch = np.full((len(ids), width), tokenizer.eos_token_id, dtype=np.int64)
    mask = np.zeros_like(batch)
    for row, prompt in enumerate(ids):
        batch[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    strategy: dict[str, Any] = {"do_sample": settings["strategy"] == "sample", "num_beams": settings["num_beams"]}
    if settings["strategy"] == "sample":
        strategy |= {name: settings[name] for name in ("temperature", "top_p", "top_k")}
    with torch.no_grad():
        made = network.generate(
            input_ids=torch.from_numpy(batch).to(network.device),
            attention_mask=torch.from_numpy(mask).to(network.device),
            max_new_tokens=settings["max_new_tokens"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            use_cache=True,
            **strategy,
        )
    cut = []
    for answer in made[:, width:].tolist():
        ends = answer.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in answer else len(answer)
        cut.append(answer[:ends])
    return cut


if __name__ == "__main__":
    run(
        lambda job: generate(
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
