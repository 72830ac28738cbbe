"""Models whose answers are known by hand: each token is followed by the next one of a chain."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import models


def chain(ids: list[int], tokenizer: Any, folder: Path, **options: Any) -> str:
    """A folder with a model that continues each token of a chain with its next one, and every other by itself.

    A token may stand in the chain several times only where the same one follows it.
    """
    follower = dict(pairwise(ids))
    assert len(follower) == len(set(pairwise(ids))), "what follows a token is certain"
    tokenizer.save_pretrained(folder)
    model = models.build("gpt2", len(tokenizer), tokenizer.eos_token_id, width=32, **options)
    codes = torch.sign(torch.randn(len(tokenizer), 32, generator=torch.manual_seed(0)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(codes.clone())
        model.transformer.wte.weight = torch.nn.Parameter(codes.clone())
        for token, following in follower.items():
            model.transformer.wte.weight[token] = codes[following]
    model.save_pretrained(folder)
    return str(folder)
