"""The optimizer: from its name in the configuration and the weights that may learn.

torch's own and Adafactor are made here; those of other packages come through transformers' Trainer, which knows their
classes and number formats. Every group carries the peak learning rate as `initial_lr`, torch's own key, so that the
schedule finds it in a restored state too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from snaketune.job import StageError
from snaketune.optimizer_names import OPTIMIZER_ARGS, OPTIMIZERS, PACKAGES, REFUSED

# transformers 5.23, Trainer.get_decay_parameter_names: names with one of these never decay.
UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
BETAS = ("beta1", "beta2", "beta3")
EPSILONS = ("eps1", "eps2")
KINDS = {"nesterov": bool, "centered": bool, "kahan_sum": bool, "bf16_stochastic_round": bool}
KINDS |= {"block_size": int, "t_alpha": int, "t_beta3": int}  # all others are numbers


def make_optimizer(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    settings: dict[str, Any],
    device: torch.device,
    embeddings: Iterable[torch.nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimizer of a training.

    named_parameters: the weights that may learn, each once; device: where they lie; embeddings: the tables among them,
    whose state an 8-bit optimizer of bitsandbytes keeps in 32 bits, as the Trainer has it. Settings: `optimizer`,
    `optimizer_args`, `learning_rate`, `weight_decay`, and of `scheduler` and `average` whether they go with it.

    Raises StageError for an optimizer that cannot work here, and for arguments that it does not take.
    """
    name = settings["optimizer"]
    _refuse(name, settings, device)
    kind, arguments = _class_of(name, settings, device)
    arguments |= _arguments(name, settings["optimizer_args"], arguments)
    groups = weight_groups(named_parameters, settings["weight_decay"])
    if not groups:
        raise StageError("no weight of the model may learn; see `train.method` and its section")
    try:
        optimizer = kind(groups, **arguments)
    except (ValueError, TypeError) as error:
        raise StageError(f"`train.optimizer_args` do not suit `train.optimizer: {name}`: {error}") from error
    for group in optimizer.param_groups:
        group["initial_lr"] = settings["learning_rate"]
    if PACKAGES.get(name, ("",))[0] == "bitsandbytes" and arguments["optim_bits"] == 8:
        _keep_in_32_bits(embeddings)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def weight_groups(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups: weights that decay, and those that do not; an empty group is left out.

    Biases, norms and all vectors do not decay; matrices do, embeddings and adapters among them. That is the Trainer's
    rule (UNDECAYED), but for vectors of another name (the magnitudes of DoRA), which decay there.
    """
    groups: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]] = ([], [])
    for name, parameter in named_parameters:
        groups[parameter.ndim < 2 or UNDECAYED.search(name.lower()) is not None].append(parameter)
    decays = (weight_decay, 0.0)
    return [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True) if group]


@contextmanager
def evaluating(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put the weights that are to be evaluated and published in place, and the learning ones back afterwards.

    A schedule-free optimizer (Defazio et al. 2024, arXiv:2405.15682) takes gradients at other weights than those that
    it offers. Its own way back would round; the copy kept here is exact, and lies where the gradients lay. For any
    other optimizer nothing happens. A checkpoint to go on from is saved outside.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, held, strict=True):
                parameter.copy_(value)


def _refuse(name: str, settings: dict[str, Any], device: torch.device) -> None:
    """Raise StageError for an optimizer that cannot work here, with what to do."""
    if reason := REFUSED.get(name):
        raise StageError(f"`train.optimizer: {name}` cannot be used: {reason}")
    if name not in OPTIMIZER_ARGS:
        raise StageError(f"`train.optimizer: {name}` is not known; choose one of {', '.join(OPTIMIZERS)}")
    if name.startswith("paged") and device.type != "cuda":
        raise StageError(
            f"`train.optimizer: {name}` pages the memory of a GPU, and there is none; set one without `paged`"
        )
    package, module = PACKAGES.get(name, ("", ""))
    if module and find_spec(module) is None:
        what = f"`train.optimizer: {name}` needs the package {package}"
        raise StageError(f"{what}: `pip install {package}`, or set `adamw_torch_fused`")
    if package == "schedulefree":
        if settings["scheduler"] != "constant":
            raise StageError(f"`train.optimizer: {name}` replaces the schedule; set `train.scheduler: constant`")
        if settings["average"]["kind"] != "none":
            raise StageError(f"`train.optimizer: {name}` averages the weights itself; set `train.average.kind: none`")


def _class_of(name: str, settings: dict[str, Any], device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The optimizer's class and the arguments that make it what its name says."""
    rate = settings["learning_rate"]
    plain = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}
    if name in plain:
        return plain[name], {"lr": rate}
    if name in {"adamw_torch", "adamw_torch_fused"}:
        return torch.optim.AdamW, {"lr": rate, "fused": name == "adamw_torch_fused" or None}
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor, {"lr": rate, "scale_parameter": False, "relative_step": False}
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(optim=name, use_cpu=device.type == "cpu", report_to=[], learning_rate=rate)
    return Trainer.get_optimizer_cls_and_kwargs(arguments)


def _keep_in_32_bits(embeddings: Iterable[torch.nn.Parameter]) -> None:
    """Tell bitsandbytes, which keeps a list for the whole process, by the addresses of weights: clear it first."""
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    manager.initialize()
    manager.override_config(list(embeddings), "optim_bits", 32)


def _arguments(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `train.optimizer_args`: each of its own type, betas and Adafactor's eps gathered."""
    allowed = OPTIMIZER_ARGS[name]
    if unknown := sorted(set(given) - set(allowed)):
        raise StageError(
            f"`train.optimizer_args` has `{unknown[0]}`, which {name} does not take; it takes {', '.join(allowed)}"
        )
    values = {key: _value(key, value) for key, value in given.items()}
    if "beta2" in allowed and any(beta in values for beta in BETAS):
        betas = [*defaults.get("betas", (0.9, 0.999))]
        values["betas"] = tuple(values.pop(key, beta) for key, beta in zip(BETAS, betas, strict=False))
    if any(eps in values for eps in EPSILONS):
        values["eps"] = tuple(values.pop(key, eps) for key, eps in zip(EPSILONS, (1e-30, 1e-3), strict=True))
    return values


def _value(key: str, value: Any) -> float | int | bool:
    """A value as the type of its argument: YAML reads `1e-8` as a text."""
    kind = KINDS.get(key, float)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        number = float("bool" if isinstance(value, bool) else value)
        if kind is int and number != int(number):
            raise ValueError
        return kind(number)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        raise StageError(f"`train.optimizer_args.{key}` is {value!r}; it must be {wanted}") from error
