"""The answers of one model to the prompts of the test split.

In:  tokens/test/, split/test.parquet, the folder of a model; for a base model with `few_shot`, the train split
Out: generate/<side>.parquet: row_id, prompt, reference, output, n_tokens, stopped, n_prompt_tokens, n_cut; with the
     setting `part`, generate/parts/<side>-<part>.parquet: the same of a part of the rows

Base and tuned model get the same token ids and the same decoding: that of the settings, and nothing of what the model's
own generation_config.json adds (a repetition penalty, say). An answer does not hang on its batch
(snaketune.model.decoding), in fp32: in bf16 it may, where two tokens are about equally likely.

`few_shot` shows a base model, which has never seen the task, some pairs of the train split before each prompt: the same
for all rows, as far as they fit. Its answer then ends with the first blank line, too, for it would go on with a pair of
its own. A prompt that is too long for the model loses its head (`n_cut` of `n_prompt_tokens`), but never to examples.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from snaketune.job import StageError, run
from snaketune.model import dealt
from snaketune.model.batches import Rows
from snaketune.model.decoding import BLANK_LINE, answer_all, as_text, questions
from snaketune.model.lm import HALVES, device_of, load_model, load_tokenizer, positions_of, precision_of
from snaketune.reuse import table_of
from snaketune.rows import batches, write_table
from snaketune.tokens.backends import HuggingFace

ANSWERS = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("output", pa.string()),
        ("n_tokens", pa.int64()),  # without the end-of-text token
        ("stopped", pa.string()),  # eos, length, or blank: ended by a blank line (few_shot alone)
        ("n_prompt_tokens", pa.int64()),  # of the whole prompt, with its separator and without examples
        ("n_cut", pa.int64()),  # those of them that found no room
    ]
)


def generate(
    tokens: str,
    texts: str,
    model: str,
    out: str,
    settings: dict[str, Any],
    *,
    train: str | None = None,
    gpus: int,
    threads: int,
) -> str:
    """Answer the prompts of a token folder, or those of `settings["part"]`.

    texts: the split that it was made of; train: the one of examples.
    """
    rows = _rows(tokens, settings)
    if not len(rows):
        write_table(ANSWERS.empty_table(), out, ANSWERS)
        return f"{dealt.spoken(settings['part'])}no row is left for it"
    torch.set_num_threads(threads)
    network = opened(model, settings, device_of(gpus))
    tokenizer = load_tokenizer(model, settings["trust_remote_code"])
    asked = prompts(rows, texts, tokenizer, settings)
    room = (positions_of(network.config) or 1 << 30) - settings["max_new_tokens"]
    if room < 1:
        raise StageError(
            f"`generate.max_new_tokens` is {settings['max_new_tokens']}, and the model has "
            f"{positions_of(network.config)} positions for prompt and answer together"
        )
    examples = drawn(train, tokenizer, settings) if train and settings["few_shot"] else []
    for row in asked:
        shown = fitting(examples, room - len(row["ids"])) if row["pair"] else []
        row |= {"shown": len(shown), "n_prompt_tokens": len(row["ids"]), "n_cut": max(len(row["ids"]) - room, 0)}
        row["ids"] = np.concatenate([*shown, row["ids"][-room:]])
    started = time.perf_counter()
    for rows in ([row for row in asked if not row["shown"]], [row for row in asked if row["shown"]]):
        to_blank = any(row["shown"] for row in rows)
        given = [row["ids"] for row in rows], [row["row_id"] for row in rows]
        for row, answer in zip(rows, answer_all(network, *given, tokenizer, settings, to_blank=to_blank), strict=True):
            row["output"], row["n_tokens"], row["stopped"] = as_text(answer, tokenizer, to_blank)
    seconds = time.perf_counter() - started
    write_table(pa.Table.from_pylist(asked, schema=ANSWERS), out, ANSWERS)
    return dealt.spoken(settings.get("part")) + summary(asked, examples, seconds)


def _rows(tokens: str, settings: dict[str, Any]) -> Rows:
    """The rows of this job."""
    if "part" not in settings:
        return Rows(tokens)
    sizes = dealt.sizes_of(tokens)
    costs = sizes.answering(settings["text_prompt_tokens"], settings["max_new_tokens"])
    return dealt.rows_of(tokens, sizes, costs[: settings["limit"]], settings["part"])


def opened(model: str, settings: dict[str, Any], device: torch.device) -> Any:
    """The model on its device, in the number format of the settings, with a neutral generation_config.

    Weights are cast and buffers are not: the frequencies of rotary positions must keep their bits.
    """
    from transformers import GenerationConfig

    wanted, best = settings["precision"], precision_of("auto", device)
    if wanted == "bf16" and best == "fp16":
        raise StageError("`generate.precision: bf16` is not computed by this GPU; set `auto` or `fp32`")
    network = load_model(model, settings["trust_remote_code"]).eval()
    if settings["cache"] == "static" and not network._can_compile_fullgraph:  # of GPT-Neo: wrong answers, and no error
        raise StageError(f"`generate.cache: static` is not for {type(network).__name__} in transformers; set `dynamic`")
    dtype = HALVES.get(best if wanted == "auto" else wanted, torch.float32)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.generation_config = GenerationConfig()
    return network.to(device)


def prompts(rows: Rows, texts: str, tokenizer: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What is asked, one for each row of the split: row_id, prompt and reference as text, the prompt's token ids, and
    whether it is a `pair`: a prompt of the data, as text and not written by a chat template."""
    table = dealt.texts_of(texts, ["row_id", "prompt", "completion", "messages"], rows)
    text_of = {row["row_id"]: row for row in table.to_pylist()}
    written = bool(getattr(tokenizer, "chat_template", None))
    asked = []
    for question in questions(rows, settings["limit"], settings["text_prompt_tokens"]):
        row = text_of[question.row_id]
        prompt, reference = row["prompt"], row["completion"]
        if question.invented:
            prompt = tokenizer.decode(question.prompt, skip_special_tokens=True)
            rest = question.follows[: settings["max_new_tokens"]]
            reference = tokenizer.decode(rest, skip_special_tokens=True).strip()
        pair = not question.invented and not (written and row["messages"])
        about = {"row_id": question.row_id, "prompt": prompt, "reference": reference}
        asked.append(about | {"ids": question.prompt, "pair": pair})
    return asked


def drawn(train: str, tokenizer: Any, settings: dict[str, Any]) -> list[np.ndarray]:
    """The examples of a run: `few_shot` pairs of the train split, drawn by the seed, as token ids [length] int64 each.

    A pair is its prompt, the separator, its completion and a blank line, tokenized apart as the rows are. Pairs whose
    completion has a blank line itself are left out: they would teach to answer beyond the place where answers end.
    """
    count, draw = settings["few_shot"], np.random.default_rng(settings["seed"])
    best: list[tuple[float, str, str]] = []
    for table in batches(train, ["prompt", "completion"]):
        chances = draw.random(table.num_rows)
        usable = pc.and_(
            pc.fill_null(pc.not_equal(table["prompt"], ""), False),
            pc.invert(pc.match_substring_regex(table["completion"], BLANK_LINE)),
        )
        numbers = np.flatnonzero(usable.to_numpy())
        first = numbers[np.argsort(chances[numbers])[:count]]
        found = table.take(pa.array(first)).to_pylist()
        best += [(chances[n], row["prompt"], row["completion"]) for n, row in zip(first.tolist(), found, strict=True)]
        best = sorted(best)[:count]
    coder = HuggingFace(tokenizer, parse=False)
    pieces = [[prompt + settings["separator"], completion, "\n\n"] for _, prompt, completion in best]
    return [coder.encode(pa.array(piece)).values.astype(np.int64) for piece in pieces]


def fitting(examples: list[np.ndarray], room: int) -> list[np.ndarray]:
    """The examples that fit in so many tokens, each taken in turn if it still does."""
    taken = []
    for example in examples:
        if len(example) <= room:
            taken.append(example)
            room -= len(example)
    return taken


def summary(asked: list[dict[str, Any]], examples: list[np.ndarray], seconds: float) -> str:
    """The sentence of the terminal."""
    ended = Counter(row["stopped"] for row in asked)
    share = {how: f"{ended[how] / len(asked):.0%}" for how in ("eos", "length", "blank")}
    tokens = sum(row["n_tokens"] for row in asked)
    told = f"{len(asked):,} answers of {tokens / len(asked):.0f} tokens on average: {share['eos']} ended by themselves"
    if examples:
        shown = sum(row["shown"] for row in asked) / len(asked)
        told += f", {share['blank']} by a blank line after {shown:.1f} examples on average"
    told += f", {share['length']} hit max_new_tokens"
    if cut := sum(row["n_cut"] > 0 for row in asked):
        told += f"; the head of {cut:,} prompts was cut"
    return f"{told}; {tokens / seconds:,.0f} tokens/s"


def _from_job(job: Any) -> str:
    tokens, gpus = str(Path(job.input.state).parent), job.resources.get("gpu", 0)
    train = next(iter(job.input.train), None)
    return table_of(
        job,
        "generate",
        device_of(gpus).type,
        [job.input.tokens, job.input.texts, *job.input.train, *job.input.model],
        lambda out: generate(
            tokens,
            job.input.texts,
            job.params.model,
            out,
            job.params.settings,
            train=train,
            gpus=gpus,
            threads=job.threads,
        ),
    )


if __name__ == "__main__":
    run(_from_job, snakemake)
