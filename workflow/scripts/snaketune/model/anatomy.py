"""The parts of a decoder, found by what they are and not by what one architecture calls them.

GPT-2 keeps its blocks in `transformer.h`, Llama in `model.layers`, OPT in `model.decoder.layers`; some name their last
norm `ln_f`, some `norm`, and OPT registers it before the blocks. The blocks are the list of modules as long as the
config says; what stands after them is what runs after them, tried on one token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from snaketune.job import StageError


def blocks_of(model: Any) -> list[nn.Module]:
    """The transformer blocks, from the embeddings upwards. Raises StageError where the model has no such list."""
    if found := find_blocks(model):
        return found
    raise StageError(
        f"{type(model).__name__} has no list of {_depth(model)} transformer blocks that its parts could be told by; "
        "set `train.method: full`"
    )


def find_blocks(model: Any) -> list[nn.Module]:
    """The same; empty where the model has no such list."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    # From the outside inwards: the experts of a block come after the blocks.
    return next((list(blocks) for blocks in lists if len(blocks) == _depth(model)), [])


def _depth(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "num_hidden_layers", None)


def embeddings_of(model: Any) -> list[nn.Parameter]:
    """The tables that tokens and positions are looked up in; none that a block has for itself."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inside = {id(module) for blocks in lists for module in blocks.modules()}
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and id(module) not in inside]
    tables += [table for table in [model.get_input_embeddings()] if table not in tables]
    return [parameter for table in tables for parameter in table.parameters()]


def head_of(model: Any) -> nn.Module:
    """The layer from the last hidden state to the logits. Raises StageError where there is none."""
    if (head := model.get_output_embeddings()) is None:
        raise StageError(f"{type(model).__name__} has no output layer that can learn alone; set `train.method: full`")
    return head


def is_tied(model: Any) -> bool:
    """Whether the head and the token embeddings are one tensor."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def untie_head(model: Any) -> bool:
    """Give a tied head a copy of the token embeddings, for good: the model is saved and loaded again as untied.

    Returns whether the head was tied.
    """
    if not is_tied(model):
        return False
    head = head_of(model)
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


def after_blocks(model: Any, blocks: list[nn.Module]) -> list[nn.Module]:
    """The modules with parameters of their own that run after the last block, in order: final norm, head."""
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = [module for module in model.modules() if id(module) not in inside]
    late: list[nn.Module] = []
    passed = False

    def leave(*_: Any) -> None:
        nonlocal passed
        passed = True

    def meet(module: nn.Module, *_: Any) -> None:
        if passed:
            late.append(module)

    hooks = [blocks[-1].register_forward_hook(leave)]
    hooks += [module.register_forward_hook(meet) for module in outside if [*module.parameters(recurse=False)]]
    training = model.training
    model.eval()  # dropout would draw from the random numbers of the training
    try:
        with torch.no_grad():
            model(torch.zeros((1, 1), dtype=torch.int64, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return late
