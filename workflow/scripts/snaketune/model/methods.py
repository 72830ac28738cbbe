"""What learns: the whole model, some of its blocks, its head alone, or adapters beside its weights.

`prepare` sets which parameters take a gradient and hands back what the training loop needs to know about it; `unfreeze`
adds blocks as a gradual training goes on; `learnt_state` is what a checkpoint has to hold. Whatever the method, the
model that is published is a plain one, which `AutoModelForCausalLM` loads (`adapters.merge`).

A tied head is one tensor with the token embeddings: it learns where they learn and is frozen where they are. Only
`features: head`, and an adapter on the head, untie it, since they would change the embeddings otherwise.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from snaketune.job import StageError
from snaketune.model import adapters
from snaketune.model.anatomy import after_blocks, blocks_of, embeddings_of, head_of, is_tied, untie_head

START = ".start"  # ends the name of an adapter's first value, where the base model was changed by it (PiSSA)


@dataclass
class Learner:
    """A model whose parameters are set to learn or not to.

    model: the transformers model, adapters put into it in place, so that its parts keep their names
    peft: the PeftModel around it, or None
    total, trainable: parameters of the model before adapters, and those that learn at some time; a tied tensor is one
    words: one sentence for the report
    body_learns: False where nothing but the head takes a gradient, so that the body may run under `no_grad`
    parameters: what learns at some time, by name, in the model's order: what the optimiser and a checkpoint hold
    groups: what a gradual training adds step by step, first to last; empty otherwise
    gradual: the share of the training after which all groups learn
    start: the first values of adapters that were taken out of the base model (PiSSA), by the parameter's name
    settings: the `train` section that it was prepared by
    """

    model: Any
    total: int
    trainable: int
    words: str
    body_learns: bool
    parameters: dict[str, nn.Parameter]
    settings: dict[str, Any]
    peft: Any | None = None
    groups: list[list[nn.Parameter]] = field(default_factory=list)
    gradual: float | None = None
    start: dict[str, torch.Tensor] = field(default_factory=dict)


def prepare(model: Any, settings: dict[str, Any]) -> Learner:
    """Set what of a freshly loaded model learns, by `method` and its section of the `train` settings.

    full: every parameter; also a model that is trained from scratch.
    freeze: all but what `freeze` names. `first` blocks, or all but the `last`, the embeddings, and parameters whose
        name a pattern is found in; norms outside the blocks and an untied head learn unless a pattern names them.
        `gradual` adds the blocks from the top downwards (ULMFiT, Howard & Ruder 2018).
    features: `head`: the head alone, untied. `last_block`: the last block and the norm after it; the embeddings and
        the head, tied or not, stay as they are.
    lora, qlora: adapters; a model for qlora comes from `adapters.load_quantised`.

    The random numbers of the caller are left as they were. Raises StageError for settings that freeze nothing or all,
    and for names that the model does not have.
    """
    method = settings["method"]
    if method in ("lora", "qlora"):
        total = model.num_parameters()  # counts the elements of packed weights too
        peft, detail, start = adapters.inject(model, settings)
        return _learner(model, settings, detail, total=total, peft=peft, start=start)
    if method == "freeze":
        details = _freeze(model, settings["freeze"])
        groups = []
        if (gradual := settings["freeze"]["gradual"]) is not None:
            groups = _groups(model)
            details.append(f"the rest joins from the top block downwards over the first {gradual * 100:g} %")
        if not details:
            raise StageError(
                "`train.method: freeze` with nothing frozen; set `train.freeze.first`, `last`, `embeddings`, "
                "`patterns` or `gradual`, or `train.method: full`"
            )
        learner = _learner(model, settings, ", ".join(details), groups=groups, gradual=gradual)
        unfreeze(learner, 1, 2)
        return learner
    return _learner(model, settings, _features(model, settings["features"]) if method == "features" else "")


def _learner(model: Any, settings: dict[str, Any], detail: str, total: int | None = None, **more: Any) -> Learner:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise StageError("`train.freeze` leaves nothing to learn; freeze fewer blocks, or take a pattern away")
    total, trainable = total or model.num_parameters(), sum(map(torch.numel, parameters.values()))
    words = f"{_count(trainable)} of {_count(total)} parameters learn: {detail}"
    head = None if is_tied(model) else model.get_output_embeddings()
    only = set() if head is None else {id(parameter) for parameter in head.parameters()}
    return Learner(
        model=model,
        total=total,
        trainable=trainable,
        words=words if detail else f"all {_count(total)} parameters learn",
        body_learns=any(id(parameter) not in only for parameter in parameters.values()),
        parameters=parameters,
        settings=settings,
        **more,
    )


def _count(parameters: int) -> str:
    """A number of parameters for a reader: 14,336, 0.15 M, 7.08 M, 124 M, 1,558 M."""
    if parameters < 100_000:
        return f"{parameters:,}"
    millions = parameters / 1e6
    return f"{millions:,.{2 if millions < 10 else 1 if millions < 100 else 0}f} M"


def unfreeze(learner: Learner, step: int, steps: int) -> bool:
    """Set what learns at `step` (the first is 1) of `steps` under gradual unfreezing; True where that changed the set.

    The top block with what runs after it learns at once, one block further from the top at each equal share of the
    training, and last the embeddings (with a tied head), all of it after the share `gradual`. The answer depends on
    the step alone, so that a resumed training has the same set. An optimiser leaves a parameter without a gradient
    alone, weight decay included.
    """
    changed = False
    for number, group in enumerate(learner.groups):
        share = Fraction(str(learner.gradual)) * number / max(1, len(learner.groups) - 1)
        learns = step > min(math.ceil(share * steps), steps - 1)  # at the last step at the latest
        for parameter in group:
            if parameter.requires_grad != learns:
                parameter.requires_grad_(learns)
                parameter.grad = parameter.grad if learns else None
                changed = True
    return changed


def learnt_state(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies, on the CPU, of all that ever learns, by name; a tied tensor once, under its first name.

    For PiSSA also the first values of the adapters, which were taken out of the base model: another machine would
    take out slightly different ones.
    """
    tensors = {name: parameter.detach() for name, parameter in learner.parameters.items()}
    tensors |= {name + START: tensor for name, tensor in learner.start.items()}
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def load_learnt(learner: Learner, state: dict[str, torch.Tensor]) -> None:
    """Put a learnt state into a model that was prepared by the same settings from the same base.

    Raises StageError where the state is of something else.
    """
    own = {name: tuple(parameter.shape) for name, parameter in learner.parameters.items()}
    own |= {name + START: tuple(tensor.shape) for name, tensor in learner.start.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if odd := sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name)):
        raise StageError(
            f"the checkpoint is of another model or `train.method`: {len(odd)} tensors differ, as {odd[0]}; take "
            "the checkpoint away and train again"
        )
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            parameter.copy_(state[name])
    if learner.start:
        adapters.rebase(learner, {name: state[name + START] for name in learner.start})


def _freeze(model: Any, freeze: dict[str, Any]) -> list[str]:
    """Freeze what the settings name; returns it in words."""
    blocks = blocks_of(model)
    first, last = freeze["first"], freeze["last"]
    for name, number in (("first", first), ("last", last or 0)):
        if number > len(blocks):
            raise StageError(f"`train.freeze.{name}: {number}`: the model has {len(blocks)} blocks")
    lower = len(blocks) - last if last is not None else first
    words = []
    for block in blocks[:lower]:
        block.requires_grad_(False)
    if lower:
        words.append(f"the first {lower} of {len(blocks)} blocks are frozen")
    if freeze["embeddings"]:
        for parameter in embeddings_of(model):
            parameter.requires_grad_(False)
        words.append("the embeddings " + "and the head tied to them " * is_tied(model) + "are frozen")
    for pattern in freeze["patterns"]:
        words.append(f"{_freeze_pattern(model, pattern)} tensors named like `{pattern}` are frozen")
    return words


def _freeze_pattern(model: Any, pattern: str) -> int:
    """Freeze the parameters whose name a pattern is found in, both names of a tied one; returns how many."""
    named = list(model.named_parameters(remove_duplicate=False))
    found = {id(parameter): parameter for name, parameter in named if re.search(pattern, name)}
    if not found:
        raise StageError(
            f"`train.freeze.patterns`: `{pattern}` is found in the name of no parameter; names are such as "
            f"{named[0][0]} and {named[len(named) // 2][0]}"
        )
    for parameter in found.values():
        parameter.requires_grad_(False)
    return len(found)


def _groups(model: Any) -> list[list[nn.Parameter]]:
    """What still learns, in the order in which gradual unfreezing adds it; what is shared with embeddings is last."""
    blocks = blocks_of(model)
    tables = {id(parameter) for parameter in embeddings_of(model)}
    late = [parameter for module in after_blocks(model, blocks) for parameter in module.parameters(recurse=False)]
    groups = [[*block.parameters()] for block in reversed(blocks)]
    groups[0] += [parameter for parameter in late if id(parameter) not in tables]
    placed = {id(parameter) for group in groups for parameter in group}
    groups.append([parameter for parameter in model.parameters() if id(parameter) not in placed])
    learning = [[parameter for parameter in group if parameter.requires_grad] for group in groups]
    return [group for group in learning if group]


def _features(model: Any, features: str) -> str:
    """Freeze all but the head, or all but the last block with its norm; returns a sentence to fill in."""
    if features == "head":
        head = head_of(model)
        untied = untie_head(model)
        model.requires_grad_(False)
        head.requires_grad_(True)
        return "the head alone" + ", untied from the embeddings" * untied
    blocks = blocks_of(model)
    model.requires_grad_(False)
    blocks[-1].requires_grad_(True)
    for module in after_blocks(model, blocks):
        if all(parameter.ndim < 2 for parameter in module.parameters(recurse=False)):
            module.requires_grad_(True)
    return "the last block and the norm after it"
