"""What a model is asked and what it answers, as the test answers and the samples of a training share it.

Prompts are padded on the left with an attention mask, which makes a batched answer equal to the answer alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snaketune.model.batches import Rows


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


def answers(network: Any, ids: list[np.ndarray], tokenizer: Any, settings: dict[str, Any]) -> list[list[int]]:
    """The new token ids of each prompt; the last is the end-of-text token where the model ended by itself.

    ids: the prompts, [length] int64 each; settings: `strategy` (greedy, beam, sample), `num_beams`, `max_new_tokens`,
    and for sampling `temperature`, `top_p`, `top_k`. The network's own generation_config is what else decides.
    """
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
