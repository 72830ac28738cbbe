"""An average of the weights over the training, evaluated and published instead of the last ones.

`ema`: an exponential moving average from step 1 on. Its decay warms up as min(decay, (1 + t) / (10 + t)) at step t
(tf.train.ExponentialMovingAverage with `num_updates`), so that the weights before the training are forgotten after
some ten steps even where 1 / (1 - decay) is longer than the training.

`swa`: the plain average of the weights after each step of the last part of the training. Izmailov et al. 2018
(arXiv:1803.05407) average once an epoch at a constant or cyclic learning rate; fine-tuning has few epochs, so every
step counts here (tail averaging: Jain et al. 2018, arXiv:1610.03774). It gains most with `scheduler: constant`: under
a schedule that ends at 0 the last weights hardly move, and are their own average.

The updates are torch.optim.swa_utils's, on fp32 copies of the learnt weights alone (4 bytes a weight; AveragedModel
would copy the frozen ones of a LoRA training too). A sharded weight (DTensor, FSDP2) is averaged shard by shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class Average:
    """The running average of some weights.

    parameters: the weights that learn; settings: `kind` (none, ema, swa), `decay` of ema, `start` of swa, the share of
    the training after which it begins; steps: of the whole training. With `none` nothing is ever averaged.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], settings: dict[str, Any], steps: int) -> None:
        self.kind: str = settings["kind"]
        self._decay: float = settings["decay"]
        self._begin = int(settings["start"] * steps) if self.kind == "swa" else 0
        self._parameters = [] if self.kind == "none" else list(parameters)
        self._mean: list[torch.Tensor] = []
        self._swapped = False
        if self.kind == "ema":
            self._mean = self._copies()

    def active(self, step: int) -> bool:
        """Whether there is an average after an optimizer step, counted from 1; else the weights stand for it."""
        return self.kind != "none" and step > self._begin

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after an optimizer step, counted from 1. To be called after every step."""
        self._refuse_swapped()
        if not self.active(step):
            return
        count = step - self._begin - 1  # of the weights that `swa` has averaged already
        if self.kind == "swa" and count == 0:
            self._mean = self._copies()
            return
        weights = [parameter.detach().float() for parameter in self._parameters]
        if self.kind == "ema":
            get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))(self._mean, weights, None)
        else:
            get_swa_multi_avg_fn()(self._mean, weights, count)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the weights are the average, if there is one; afterwards they are what they were, bit for bit.

        A copy of the learnt weights is kept meanwhile; it needs no more than their gradients did, if those were freed.
        """
        self._refuse_swapped()
        if not self._mean:
            yield
            return
        held = [parameter.detach().clone() for parameter in self._parameters]
        self._swapped = True
        self._write(self._mean)
        try:
            yield
        finally:
            self._write(held)
            self._swapped = False

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """The average so far, whole, in the order of the weights; no copy unless it is sharded.

        Where the weights are sharded, every process must call it.
        """
        return {"mean": [mean.full_tensor().cpu() if isinstance(mean, DTensor) else mean for mean in self._mean]}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Go on from a state. Raises ValueError where it is not that of these weights."""
        mean = state["mean"]
        shapes = [parameter.shape for parameter in self._parameters]
        if (mean or self.kind == "ema") and [tensor.shape for tensor in mean] != shapes:
            raise ValueError("the saved average is not one of these weights")
        self._mean = self._copies() if mean else []
        with torch.no_grad():
            for own, saved in zip(self._mean, mean, strict=True):
                if isinstance(own, DTensor):
                    own.copy_(distribute_tensor(saved.to(own.device), own.device_mesh, own.placements))
                else:
                    own.copy_(saved)

    def _copies(self) -> list[torch.Tensor]:
        return [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _write(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def _refuse_swapped(self) -> None:
        if self._swapped:
            raise RuntimeError("the weights are swapped for their average")
