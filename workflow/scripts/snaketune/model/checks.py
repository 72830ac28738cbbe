"""What the preflight looks at before it trains a step: rows, and what a model makes of them one by one and together."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numpy as np
import torch

from snaketune.model.batches import Plan, Rows
from snaketune.model.lm import IGNORED, token_losses
from snaketune.model.samples import shown
from snaketune.packing import trained_tokens
from snaketune.tokens.pieces import pieces

ENDS_SEEN = 10_000  # rows whose end is looked at
LONG = 512  # tokens of the longest row that is compared: further than the local windows of GPT-Neo reach
SHORT = 96  # of the others
MARKED_TOKENS = 60  # of an example: so many at most before its trained tokens begin, and of those
GREEN, PLAIN = "\033[32m", "\033[0m"


def ends(rows: Rows, tokenizer: Any, loss_on: str) -> dict[str, Any]:
    """How much of the rows is trained, and how they end.

    Returns `rows`, `pairs` (rows with a prompt), `tokens`, `trained_tokens`, and `end_trained`: the share of pairs (of
    all rows, where there are none) whose trained tokens end with the end-of-text token, but for white space: chat
    templates write a line feed after it. Without it a model would never stop.
    """
    pairs = np.flatnonzero(rows.prompt_lengths > 0)
    asked = pairs if len(pairs) else np.arange(len(rows))
    seen = asked[:: -(-len(asked) // ENDS_SEEN)].tolist()
    trained = trained_tokens(rows.lengths, rows.prompt_lengths, loss_on)
    ended = sum(_ended(rows[row][-trained[row] :].tolist() if trained[row] > 0 else [], tokenizer) for row in seen)
    return {
        "rows": len(rows),
        "pairs": len(pairs),
        "tokens": int(rows.lengths.sum()),
        "trained_tokens": int(trained.sum()),
        "end_trained": round(ended / len(seen), 4),
    }


def _ended(ids: list[int], tokenizer: Any) -> bool:
    end = tokenizer.eos_token_id
    if ids[-1:] == [end]:
        return True
    return end in ids and not tokenizer.decode(ids[len(ids) - ids[::-1].index(end) :]).strip()


def not_finite_weight(model: Any) -> str:
    """The name of a weight that holds something else than finite numbers; empty where there is none."""
    named = ((name, weight) for name, weight in model.named_parameters() if weight.is_floating_point())
    return next((name for name, weight in named if not bool(torch.isfinite(weight).all())), "")


def sample(rows: Rows) -> list[np.ndarray]:
    """Some rows for comparisons, [length] int64 each: the longest and four of varied length; cut if long.

    They are few, so that a CPU takes no more than a second or two over them. A row of one token has no loss.
    """
    order = np.argsort(rows.lengths, kind="stable")
    picked = order[np.linspace(len(order) - 1, 0, 5).astype(int)].tolist()
    documents = [rows[row][: SHORT if place else LONG] for place, row in enumerate(dict.fromkeys(picked))]
    return [np.asarray(ids, dtype=np.int64) for ids in documents if len(ids) >= 2]


def padding_difference(model: Any, documents: list[np.ndarray], pad: int) -> dict[str, float]:
    """The largest difference of a token's loss (nats) between each document alone and all of them in a batch.

    "batch": padded on the right, as scoring has them; "left": padded on the left with an attention mask and positions,
    as generation has them. Not a number where a loss is none.
    """
    device = next(model.parameters()).device
    documents = [ids[:SHORT] for ids in documents]
    alone = [_losses(model, torch.from_numpy(ids)[None].to(device)) for ids in documents]
    width = max(map(len, documents)) + 1  # one more: the longest is padded too
    found = {}
    for name in ("batch", "left"):
        ids = torch.full((len(documents), width), pad, device=device)
        mask = torch.zeros_like(ids)
        for row, document in enumerate(documents):
            place = slice(0, len(document)) if name == "batch" else slice(width - len(document), width)
            ids[row, place], mask[row, place] = torch.from_numpy(document).to(device), 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        together = _scored(model, ids, positions, mask) if name == "batch" else _masked(model, ids, positions, mask)
        differences = [(one - other).abs().max() for one, other in zip(alone, together, strict=True)]
        found[name] = float(torch.stack(differences).max())
    return found


@torch.no_grad()
def _losses(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The loss of each token of one document, [T - 1], by the plain model."""
    return _nll(model(ids, use_cache=False).logits[0], ids[0])


@torch.no_grad()
def _scored(model: Any, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The losses of the documents of a batch that is padded on the right, as they are scored."""
    nll, _, counted = token_losses(model, ids, positions, ids.masked_fill(mask == 0, IGNORED))
    return list(nll.split(counted.sum(1).tolist()))


@torch.no_grad()
def _masked(model: Any, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """The losses of the documents of a batch that is padded on the left, with an attention mask."""
    arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = positions
    logits = model(**arguments).logits
    within = mask[:, 1:] * mask[:, :-1] == 1
    return [_nll(logits[row], ids[row])[within[row]] for row in range(len(ids))]


def _nll(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    chances = torch.log_softmax(logits[:-1].float(), -1)
    return -chances.gather(-1, ids[1:, None])[:, 0]


def examples(rows: Rows, plan: Plan, tokenizer: Any, loss_on: str, count: int) -> list[dict[str, Any]]:
    """The first rows that will be trained, token by token: `row_id`, `tokens` (texts), `trained` (of each token).

    Long rows are cut; `before`, `after`: how many tokens are not shown on either side.
    """
    first = [row for block in plan.blocks(1) for row in block][:count]
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    found = []
    for row in first:
        ids = rows[row].tolist()
        begins = max(1, int(rows.prompt_lengths[row])) if loss_on == "completion" else 1
        cut, stop = max(0, begins - MARKED_TOKENS), min(len(ids), begins + MARKED_TOKENS)
        found.append(
            {
                "row_id": rows.row_ids[row],
                "before": cut,
                "after": len(ids) - stop,
                "tokens": pieces(decode, ids, cut, stop),
                "trained": [place >= begins for place in range(cut, stop)],
            }
        )
    return found


def marked(example: dict[str, Any], colour: bool) -> str:
    """An example as one line for the terminal: trained tokens in green, or where there is no colour in \u27e6 \u27e7.

    Nothing of the data can steer the terminal: what does not print is escaped.
    """
    on, off = (GREEN, PLAIN) if colour else ("\u27e6", "\u27e7")
    text = "  trained in green: " if colour else "  trained between \u27e6 and \u27e7: "
    text += "\u2026" * bool(example["before"])
    within = False
    for token, trained in zip(example["tokens"], example["trained"], strict=True):
        if trained != within:
            text += on if trained else off
            within = trained
        text += shown(token, 200)
    return text + off * within + "\u2026" * bool(example["after"])
