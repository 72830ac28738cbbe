"""The state of model and optimiser as one whole, whatever the number of processes that hold it.

Under FSDP every process holds a part of each tensor; a checkpoint holds the whole, so that one file format serves all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from snaketune.model.methods import START, Learner, learnt_state, load_learnt
from snaketune.model.parallel import World

INSIDE = "model."  # what the objective puts before the names of its model's weights


def state_of(module: nn.Module, part: Learner | torch.optim.Optimizer, world: World) -> dict[str, Any]:
    """The learnt weights or the optimiser's state, on the CPU under FSDP; every process must call it."""
    if world.kind != "fsdp":
        return part.state_dict() if isinstance(part, torch.optim.Optimizer) else learnt_state(part)
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if isinstance(part, torch.optim.Optimizer):
        return get_optimizer_state_dict(module, part, options=options)
    names = {INSIDE + name: name for name in part.parameters}
    found = get_model_state_dict(module, options=options)
    own = {names[name]: tensor for name, tensor in found.items() if name in names}
    return own | {name + START: tensor for name, tensor in part.start.items()}


def load_state(module: nn.Module, part: Learner | torch.optim.Optimizer, world: World, state: dict[str, Any]) -> None:
    """Put back what `state_of` gave."""
    if world.kind != "fsdp":
        if isinstance(part, torch.optim.Optimizer):
            part.load_state_dict(state)
        else:
            load_learnt(part, state)
        return
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True, strict=False)
    if isinstance(part, torch.optim.Optimizer):
        set_optimizer_state_dict(module, part, state, options=options)
    else:
        set_model_state_dict(module, {INSIDE + name: tensor for name, tensor in state.items()}, options=options)
