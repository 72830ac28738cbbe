"""The learning rate of every step: the peak times a factor that depends on the step alone.

The factors are transformers' own, read from the function inside its scheduler (`lr_lambdas`) instead of stepping it:
a pure function of the step has no state to save, and a resumed training asks it for the next step. Only
`reduce_on_plateau` remembers; torch's ReduceLROnPlateau works on a stand-in whose learning rate is the factor, so that
the warm-up lies over it and its `eps` of 1e-8 is a share of the peak, not above it.

transformers' numbers are kept as they are, so that published recipes carry over: step s (from 1) of a warm-up of W has
the factor (s-1)/W. The first step of a warm-up therefore changes no weight, and the peak is reached at step W+1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from snaketune.job import StageError


class Schedule:
    """Sets the learning rate of an optimizer before each step.

    steps: how many steps the training has. Settings: `scheduler`; `warmup` (below 1 a share of all steps, rounded up as
    transformers does, else steps; of every schedule); `min_learning_rate` (a share of the peak: linear, cosine,
    polynomial and warmup_stable_decay end there, inverse_sqrt and reduce_on_plateau do not fall below it); `decay`
    (the share of the steps in which warmup_stable_decay decays, along a cosine); `power` (of polynomial); `plateau`
    (`factor`, `patience`, `threshold`: better is lower by this share). Each group keeps its own peak, `initial_lr`.

    Raises StageError for a warm-up (and decay) longer than the training.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: dict[str, Any], steps: int) -> None:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.warmup = warmup_steps(settings["warmup"], steps)
        self._optimizer = optimizer
        self._curve: Callable[[int], float] | None = None
        if settings["scheduler"] == "reduce_on_plateau":
            self._plateau: ReduceLROnPlateau | None = ReduceLROnPlateau(
                _stand_in(), **settings["plateau"], min_lr=settings["min_learning_rate"]
            )
        else:
            self._plateau = None
            self._curve = _curve(settings, self.warmup, steps)
        self._floor = settings["min_learning_rate"]
        self._ends_at_floor = settings["scheduler"] not in {"constant", "inverse_sqrt"}

    def factor(self, step: int) -> float:
        """The share of the peak learning rate at an optimizer step, counted from 1."""
        past = step - 1
        if past < self.warmup:
            return past / self.warmup
        if self._plateau is not None:
            return float(self._plateau.optimizer.param_groups[0]["lr"])
        share = float(self._curve(past))
        return share * (1 - self._floor) + self._floor if self._ends_at_floor else max(share, self._floor)

    def before_step(self, step: int) -> None:
        """Set the learning rates of the optimizer step that is about to be made, counted from 1."""
        factor = self.factor(step)
        for group in self._optimizer.param_groups:
            rate = group["initial_lr"] * factor
            if isinstance(group["lr"], torch.Tensor):  # torchao's optimizers and compiled ones hold a tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def evaluated(self, loss: float) -> None:
        """Take the validation loss into account (nats); only `reduce_on_plateau` does."""
        if self._plateau is not None:
            self._plateau.step(loss)

    @property
    def rate(self) -> float:
        """The learning rate now, of the first group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """What cannot be computed from the step: numbers and lists, none but for `reduce_on_plateau`."""
        return {} if self._plateau is None else self._plateau.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state)
            self._plateau.optimizer.param_groups[0]["lr"] = self._plateau.get_last_lr()[0]


def warmup_steps(warmup: float, steps: int) -> int:
    """The steps of a warm-up that is given as a share of all steps (below 1) or in steps.

    Raises StageError where there are more of them than steps: the peak would never be reached.
    """
    count = math.ceil(steps * warmup) if warmup < 1 else int(warmup)
    if count > steps:
        raise StageError(
            f"`train.warmup` is {count:,} steps, and the training has {steps:,}; set a share below 1, such as 0.05"
        )
    return count


def _curve(settings: dict[str, Any], warmup: int, steps: int) -> Callable[[int], float]:
    """transformers' factor by the number of steps that are past, ending at 0."""
    from transformers import get_scheduler

    name = {"constant": "constant_with_warmup"}.get(settings["scheduler"], settings["scheduler"])
    own: dict[str, Any] = {}
    if name == "polynomial":
        own = {"power": settings["power"], "lr_end": 0.0}
    elif name == "warmup_stable_decay":
        decay = round(steps * settings["decay"])
        if warmup + decay > steps + 1:  # both are rounded, so that one step may be too many
            raise StageError(
                f"`train.warmup` ({warmup:,} steps) and `train.decay` ({decay:,} steps) are longer than the training "
                f"({steps:,} steps); lower one of them"
            )
        own = {"num_decay_steps": min(decay, steps - warmup)}
    return get_scheduler(name, _stand_in(), warmup, steps, own).lr_lambdas[0]


def _stand_in() -> torch.optim.Optimizer:
    """An optimizer of one weight and the learning rate 1: what is done to that rate is the factor."""
    return torch.optim.SGD([torch.zeros(1)], lr=1.0)
