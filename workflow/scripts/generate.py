"""The answers of one model to the prompts of the test split.

In:  tokens/test/, split/test.parquet, the folder of a model
Out: generate/<side>.parquet: row_id, prompt, reference, output, n_tokens, stopped

Base and tuned model get the same token ids and the same decoding: that of the settings, and nothing of what the model's
own generation_config.json adds (a repetition penalty, say). Prompts are sorted by length, so that a batch has little
padding; an answer does not hang on it (snaketune.model.decoding).
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from snaketune.job import StageError, run
from snaketune.model.batches import Rows
from snaketune.model.decoding import answers, questions
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
    asked = []
    for question in questions(rows, settings["limit"], settings["text_prompt_tokens"]):
        row = text_of[question.row_id]
        prompt, reference = row["prompt"], row["completion"]
        if question.invented:
            prompt = tokenizer.decode(question.prompt, skip_special_tokens=True)
            rest = question.follows[: settings["max_new_tokens"]]
            reference = tokenizer.decode(rest, skip_special_tokens=True).strip()
        asked.append({"row_id": question.row_id, "prompt": prompt, "reference": reference, "ids": question.prompt})
    return asked


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
