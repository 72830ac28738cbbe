"""What a model is asked and what it answers, as the test answers and the samples of a training share it.

An answer is that of the row alone. Prompts are padded on the left with an attention mask and positions, which makes a
batched answer equal to the answer alone, in fp32 but for ties in the last bit. A drawn answer depends on the seed, the
row and the step, and on nothing of the batch: the argmax of logits + Gumbel noise is a draw from their softmax (Gumbel
1954; Maddison et al. 2014), and the noise is a hash of those three. Base and tuned model see the same noise for a row
(common random numbers), which takes variance out of their difference.

The decoding loop is that of transformers, which computes finished rows on to the end of their batch. On the example's
tuned model (mean answer 16 of at most 64 tokens) all of decoding is a third of the time and reading the prompts is the
rest, so that a loop of our own, which drops finished rows, would save less than a fifth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from snaketune.job import StageError
from snaketune.model.batches import Rows

BLANK_LINE = r"\n[^\S\n]*\n"
_BLANK = re.compile(BLANK_LINE)


@dataclass(frozen=True)
class Question:
    """A prompt and what followed it in the data, as token ids (int64)."""

    row_id: str
    prompt: np.ndarray
    follows: np.ndarray
    invented: bool  # the row is plain text (or its prompt empty), and its first tokens were made the prompt


def questions(rows: Rows, limit: int | None, text_prompt_tokens: int) -> list[Question]:
    """The first `limit` rows of a split by row id, each asked once: a long text with its first chunk.

    A row of plain text gives its first tokens as the prompt, half of a short one, and what follows as the reference.
    """
    first = {row_id: row for row, row_id in reversed(list(enumerate(rows.row_ids)))}
    asked = []
    for row_id in sorted(first)[:limit]:
        ids = rows[first[row_id]].astype(np.int64)
        cut = int(rows.prompt_lengths[first[row_id]])
        if invented := cut == 0:
            cut = min(text_prompt_tokens, max(1, len(ids) // 2))
        asked.append(Question(row_id, ids[:cut], ids[cut:], invented))
    return asked


def answer_all(
    network: Any,
    ids: Sequence[np.ndarray],
    row_ids: Sequence[str],
    tokenizer: Any,
    settings: dict[str, Any],
    *,
    to_blank: bool = False,
) -> list[list[int]]:
    """The new token ids of each prompt, as `answers` gives them, in batches of prompts of like length.

    A batch is filled while rows * beams * (longest prompt + max_new_tokens) is at most `batch_tokens`; one row always
    fits. The longest come first, so that memory runs out early or never. Where a GPU's memory runs out, this batch and
    the later ones are halved, and the log says so. With `cache: static` all batches but the last have as many rows,
    because a GPU compiles the model anew for another number. Raises StageError where one prompt alone is too much.
    """
    order = sorted(range(len(ids)), key=lambda row: (-len(ids[row]), row_ids[row]))
    made: list[list[int]] = [[] for _ in order]
    budget, start = settings["batch_tokens"], 0
    while start < len(order):
        longest = len(ids[order[0 if settings["cache"] == "static" else start]])
        cost = settings["num_beams"] * (longest + settings["max_new_tokens"])
        part = order[start : start + max(1, budget // cost)]
        try:
            got = answers(
                network,
                [ids[row] for row in part],
                tokenizer,
                settings,
                row_ids=[row_ids[row] for row in part],
                to_blank=to_blank,
            )
        except torch.OutOfMemoryError:
            got = None  # dealt with below, where no traceback holds the tensors of the batch
        if got is None:
            budget = _halved(len(part), cost, longest)
            continue
        for row, answer in zip(part, got, strict=True):
            made[row] = answer
        start += len(part)
    return made


def _halved(rows: int, cost: int, longest: int) -> int:
    """The tokens of half a batch that the device had no memory for."""
    if rows == 1:
        raise StageError(
            f"the device has no memory for one prompt of {longest:,} tokens and its answer; lower "
            "`generate.max_new_tokens` or `generate.num_beams`, or set `generate.precision: bf16`"
        )
    torch.cuda.empty_cache()
    print(f"out of memory with {rows} prompts of at most {longest:,} tokens; going on with {rows // 2}", flush=True)
    return rows // 2 * cost


def answers(
    network: Any,
    ids: Sequence[np.ndarray],
    tokenizer: Any,
    settings: dict[str, Any],
    *,
    row_ids: Sequence[str] = (),
    to_blank: bool = False,
) -> list[list[int]]:
    """The new token ids of each prompt of one batch; the last is the end-of-text token where the model wrote one.

    ids: the prompts, [length] int64 each; settings: `strategy` (greedy, beam, sample), `num_beams`, `max_new_tokens`,
    `cache` (dynamic, static), and for sampling `temperature`, `top_p`, `top_k`, `seed`; row_ids: for sampling;
    to_blank: an answer also ends with its first blank line, and what follows is the end-of-text token as padding.
    The network's own generation_config is what else decides.
    """
    width, end = max(map(len, ids)), tokenizer.eos_token_id
    batch = np.full((len(ids), width), end, dtype=np.int64)
    mask = np.zeros_like(batch)
    for row, prompt in enumerate(ids):
        batch[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    options: dict[str, Any] = {}
    if settings["strategy"] == "sample":
        options["logits_processor"] = [Sampler(settings, row_ids, width, network.device)]
    if to_blank:
        options["stopping_criteria"] = [_blank_criterion(tokenizer, width)]
    with torch.no_grad():
        made = network.generate(
            input_ids=torch.from_numpy(batch).to(network.device),
            attention_mask=torch.from_numpy(mask).to(network.device),
            max_new_tokens=settings["max_new_tokens"],
            num_beams=settings["num_beams"],
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
            use_cache=True,
            cache_implementation=settings["cache"],
            **options,
        )
    new = made[:, width:].tolist()
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in new]


def as_text(answer: list[int], tokenizer: Any, to_blank: bool = False) -> tuple[str, int, str]:
    """The text of an answer, how many tokens it is made of, and how it ended: eos, length, or blank.

    The end-of-text token is not counted, nor is what follows the text before a blank line.
    """
    ended = bool(answer) and answer[-1] == tokenizer.eos_token_id
    ids = answer[:-1] if ended else answer
    written = tokenizer.decode(ids, skip_special_tokens=True)
    if not to_blank or not _BLANK.search(written):
        return written.strip(), len(ids), "eos" if ended else "length"
    kept = _BLANK.split(written, maxsplit=1)[0].strip()
    count = len(ids)
    while count and _BLANK.split(tokenizer.decode(ids[: count - 1], skip_special_tokens=True))[0].strip() == kept:
        count -= 1
    return kept, count, "blank"


def _blank_criterion(tokenizer: Any, width: int) -> Callable[..., torch.Tensor]:
    """Which of some sequences [n, width + new] have a blank line among their new tokens: [n] bool."""

    def blank(input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        texts = tokenizer.batch_decode(input_ids[:, width:], skip_special_tokens=True)
        return torch.tensor([_BLANK.search(text) is not None for text in texts], device=input_ids.device)

    return blank


class Sampler:
    """Turns logits into scores whose argmax is a draw: a logits processor for greedy decoding.

    Temperature, top-k and top-p are transformers' own, in its order; Gumbel noise comes last. row_ids: of the batch;
    width: the tokens of its padded prompts. A row's noise is a function of `seed`, row id, step and token.
    """

    def __init__(self, settings: dict[str, Any], row_ids: Sequence[str], width: int, device: torch.device) -> None:
        from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self.warpers: list[Any] = []
        if settings["temperature"] != 1.0:
            self.warpers.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            self.warpers.append(TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] < 1.0:
            self.warpers.append(TopPLogitsWarper(settings["top_p"]))
        self.width = width
        self.keys = torch.tensor([row_key(settings["seed"], row_id) for row_id in row_ids], device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids [B, width + step], logits [B, V] to perturbed log-probabilities [B, V] float64."""
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        return scores.double() + gumbel(self.keys, input_ids.shape[1] - self.width, scores.shape[1])


def row_key(seed: int, row_id: str) -> int:
    """A row's own 64 bits, as a signed integer."""
    digest = blake2b(f"{seed}:{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def gumbel(keys: torch.Tensor, step: int, size: int) -> torch.Tensor:
    """Standard Gumbel noise [n, size] float64 for the rows of some keys [n] int64, at a step from 0 on.

    The uniform numbers are those of SplitMix64 (Steele, Lea and Flood 2014), one generator for each row and step: a
    hash of a counter, which needs no state, gives the same on every device, and is indexed in any order.
    """
    at_step = splitmix(keys, torch.full_like(keys, step))  # [n]
    bits = splitmix(at_step[:, None], torch.arange(size, device=keys.device)[None])  # [n, size]
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52  # exact; with one bit more it could round to 1
    return -torch.log(-torch.log(uniform))


def splitmix(state: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Number `count`, from 0 on, of the SplitMix64 that starts at `state`; int64 that wraps stands for unsigned."""
    mixed = state + (count + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15
    mixed = (mixed ^ _shifted(mixed, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    mixed = (mixed ^ _shifted(mixed, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return mixed ^ _shifted(mixed, 31)


def _shifted(value: torch.Tensor, places: int) -> torch.Tensor:
    """An unsigned shift to the right; that of int64 would drag its sign along."""
    return (value >> places) & ((1 << (64 - places)) - 1)
