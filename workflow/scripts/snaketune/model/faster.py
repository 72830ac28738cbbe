"""Modules that compute what the model's own compute, in less time; put in place by `quicken`.

GELU: the tanh approximation, which the GPT-2 family writes as eight elementwise operations, is one kernel in torch.

Dropout on a CPU: torch draws its mask one element at a time in one thread, which costs as much as a matrix
multiplication of the model around it. Here every 64 random bits of torch's default generator decide on four elements:
a tenth of the time, the same seeded reproducibility. The probability is rounded to the next 1/65,536, and what is kept
is divided by the share that is kept in truth, so that the expectation is that of the input.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from transformers import activations

STEPS = 1 << 16  # of the probability
# 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), each written in its own way
TANH_GELUS = (activations.NewGELUActivation, activations.FastGELUActivation, activations.AccurateGELUActivation)


def keep_mask(shape: torch.Size, p: float, generator: torch.Generator | None = None) -> tuple[torch.Tensor, float]:
    """Which elements dropout keeps (uint8, of this shape, on the CPU), and the factor that makes up for the others.

    p: the probability of 0, at least 0 and less than 1. Four elements come from one 64-bit draw of the generator.
    """
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64)
    # From the lowest integer to the highest: `random_()` alone fills 63 bits, and every fourth piece would lack one.
    bits.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    dropped = min(round(p * STEPS), STEPS - 1)
    mask = torch.empty(count, dtype=torch.uint8)  # a comparison into bytes is vectorised, into bool is not
    torch.ge(bits.view(torch.int16)[:count], dropped - STEPS // 2, out=mask)
    return mask.view(shape), STEPS / (STEPS - dropped)


def scaled(mask: torch.Tensor, factor: float, other: torch.Tensor) -> torch.Tensor:
    """mask * factor * other, in the number format of `other`."""
    return mask.to(other.dtype).mul_(factor).mul_(other)


class _Drop(torch.autograd.Function):
    """Keeps a byte per element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, p: float) -> torch.Tensor:
        mask, ctx.factor = keep_mask(inputs.shape, p)
        ctx.save_for_backward(mask)
        return scaled(mask, ctx.factor, inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return scaled(mask, ctx.factor, grad), None


class Dropout(nn.Dropout):
    """nn.Dropout on a CPU, with masks from whole random words. torch.compile gets torch's own, which it fuses."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Zeroes elements with probability p and scales the others, while training."""
        if not self.training or self.p == 0:
            return inputs
        if self.p == 1 or inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(inputs)
        return _Drop.apply(inputs, self.p)


def quicken(model: nn.Module, device: torch.device) -> dict[str, int]:
    """Replace what has a faster equal, in place; returns how many modules were replaced, by what replaced them.

    Parameters, their names and the saved model stay as they are.
    """
    replaced: Counter[str] = Counter()
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) in TANH_GELUS:
                new: nn.Module = nn.GELU(approximate="tanh")
            elif type(child) is nn.Dropout and device.type == "cpu":
                new = Dropout(child.p)
            else:
                continue
            parent._modules[name] = new.train(child.training)
            replaced[type(new).__name__] += 1
    return dict(replaced)
