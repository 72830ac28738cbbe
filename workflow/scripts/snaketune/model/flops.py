"""How much arithmetic a training step is, and how much of it the device could do: model FLOPs utilisation (MFU).

Counted as in PaLM (Chowdhery et al. 2022, appendix B) and nanoGPT: two FLOPs for each weight and token of a matrix
product, twice that again for the backward pass, and the scores and sums of attention. Two things are counted as they
are, where others round up: attention is causal and stays inside each document (and inside the window of a local layer),
and the head is applied to trained tokens alone. Padding and what gradient checkpointing computes twice are no useful
work and count nothing. A layer that is frozen costs less, and less is counted for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from snaketune.model.anatomy import find_blocks

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}

# Dense peaks (no sparsity) in TFLOPS: bf16, fp16, tf32, fp32; None where the device has no such unit. Matrix units are
# those that add up in fp32, as PyTorch's products do. A name must match to its end, so that a part of a GPU (MIG) or
# a sibling of another speed (A10G) is measured rather than mistaken. From NVIDIA's datasheets and whitepapers, their
# sparse figures halved.
PEAKS: tuple[tuple[str, tuple[float | None, float, float | None, float], str], ...] = (
    (r"B200", (2250, 2250, 1100, 75), "HGX B200 datasheet"),
    (r"H200( SXM)?", (989.5, 989.5, 494.5, 67), "H200 datasheet, SXM"),
    (r"H200 NVL", (835.5, 835.5, 417.5, 60), "H200 datasheet, NVL"),
    (r"H100( SXM5?)? 80GB HBM3|H100 SXM5?", (989.5, 989.5, 494.5, 67), "H100 datasheet, SXM"),
    (r"H100 PCIe", (756.5, 756.5, 378, 51), "H100 datasheet, PCIe"),
    (r"H100 NVL", (835.5, 835.5, 417.5, 60), "H100 datasheet, NVL"),
    (r"A100-(SXM4|PCIE?|PG509)-\d+GB|A100 80GB PCIe", (312, 312, 156, 19.5), "A100 datasheet"),
    (r"A10", (125, 125, 62.5, 31.2), "A10 datasheet"),
    (r"L4", (121, 121, 60, 30.3), "L4 datasheet"),
    (r"L40", (181.05, 181.05, 90.5, 90.5), "L40 datasheet"),
    (r"L40S", (362.05, 362.05, 183, 91.6), "L40S datasheet"),
    (r"T4", (None, 65, None, 8.1), "T4 datasheet"),
    (r"V100-SXM2-\d+GB(-LS)?", (None, 125, None, 15.7), "V100 datasheet, SXM2"),
    (r"V100-PCIE-\d+GB", (None, 112, None, 14), "V100 datasheet, PCIe"),
    (r"V100S-PCIE-\d+GB", (None, 130, None, 16.4), "V100 datasheet, V100S"),
    (r"RTX 3090", (71, 71, 35.6, 35.6), "GA102 whitepaper"),
    (r"RTX 4090", (165.2, 165.2, 82.6, 82.6), "Ada whitepaper"),
)


@dataclass(frozen=True)
class Flops:
    """The FLOPs that training spends, by what they are spent on."""

    token: int  # a token, in all matrix products but attention's and the head's
    trained: int  # a trained token, in the head
    pairs: tuple[tuple[int | None, int], ...]  # (window, FLOPs of one pair of tokens that see each other), by layer

    def of(self, lengths: Iterable[int], trained: int) -> int:
        """The FLOPs of a batch of documents, forward and backward.

        lengths: tokens of each document, no padding; trained: how many tokens have a loss.
        """
        lengths = list(lengths)
        total = self.token * sum(lengths) + self.trained * trained
        for window in {window for window, _ in self.pairs}:
            each = sum(flops for of, flops in self.pairs if of == window)
            total += each * sum(seen(length, window) for length in lengths)
        return total


def seen(length: int, window: int | None) -> int:
    """The pairs of tokens of one document where the later sees the earlier, itself included."""
    reach = length if window is None else min(length, window)
    return reach * (reach + 1) // 2 + (length - reach) * reach


def training_flops(model: Any) -> Flops:
    """The FLOPs of training a model as it stands, with what `requires_grad` says of each weight.

    A matrix product costs 2 FLOPs for each weight and token forward, 2 for the gradient of its weights where they
    learn, and 2 for that of its input where anything before it learns; so a LoRA on every layer costs about 4, a
    training of the last layers alone a little more than 2. "Before" is the order in which the modules are
    declared, which is that of the computation but for queries, keys and values of the first layer that learns; there
    a LoRA is counted a little high. Attention without anything that learns in its layer or below has no backward
    pass. Embeddings are looked up, which is no arithmetic.

    Counted are linear layers (also quantised ones, and GPT-2's Conv1D) and attention. In mixtures of experts and
    recurrent models there is more: the result is then a lower bound.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    in_head = {id(module) for module in head.modules()} if head is not None else set()
    layers = find_blocks(model) if getattr(model.config, "num_attention_heads", None) else []  # Mamba has no heads
    token, learns, backward = 0, False, []
    for module in model.modules():
        if id(module) in in_head:
            continue
        if any(module is layer for layer in layers):
            backward.append(learns or any(parameter.requires_grad for parameter in module.parameters()))
        own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if isinstance(module, torch.nn.Linear):
            token += module.in_features * module.out_features * (2 + 2 * own + 2 * learns)
        elif isinstance(module, Conv1D):
            token += module.weight.numel() * (2 + 2 * own + 2 * learns)
        learns |= own
    matrices = [weight for weight in head.parameters() if weight.ndim == 2] if head is not None else []
    per_weight = 2 + 2 * learns + 2 * any(weight.requires_grad for weight in matrices)
    trained = max((weight.numel() for weight in matrices), default=0) * per_weight
    of_pair = [4 * _width(model.config) * (3 if needed else 1) for needed in backward]
    return Flops(token, trained, tuple(zip(_windows(model.config), of_pair, strict=True)) if of_pair else ())


def _width(config: Any) -> int:
    """All heads together."""
    heads = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def _windows(config: Any) -> list[int | None]:
    """How far back each layer looks, in tokens; None is the whole document."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    if kinds is None:
        return [window if isinstance(window, int) else None] * config.num_hidden_layers
    return [window if kind in ("local", "sliding_attention") else None for kind in kinds]


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """The FLOPs per second that a device can do in a precision, and where that number is from.

    precision: bf16, fp16, tf32 or fp32. The vendor's dense peak for a GPU that we know by name; else the speed of a
    large square product, measured in a fraction of a second. A CPU is always measured, with the threads that PyTorch
    may use now.
    """
    if device.type == "cuda" and (known := vendor_peak(torch.cuda.get_device_name(device), precision)) is not None:
        return known
    return _measured(device, PRECISIONS[precision]), "measured: the fastest of several large matrix products"


def vendor_peak(name: str, precision: str) -> tuple[float, str] | None:
    """The dense peak of a GPU by the name that CUDA gives it, and its source; None where we do not know it."""
    model = re.sub(r"^(NVIDIA )?(Tesla |GeForce )?", "", name.strip())
    for pattern, peaks, source in PEAKS:
        if re.fullmatch(pattern, model, re.IGNORECASE):
            peak = dict(zip(PRECISIONS, peaks, strict=True))[precision]
            return None if peak is None else (peak * 1e12, f"{source}: {name}")
    return None


def _measured(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOPs per second of the fastest of the products that fit into about `seconds`."""
    size = 8192 if device.type == "cuda" else 1024
    draw = torch.Generator(device).manual_seed(0)  # its own: the training's random numbers stay untouched
    a, b = (torch.randn(size, size, device=device, generator=draw).to(dtype) for _ in range(2))
    best, spent = float("inf"), 0.0
    with torch.no_grad():
        a @ b  # the first call of a kernel pays for its set-up
        while spent < seconds:
            _wait(device)
            started = time.perf_counter()
            a @ b
            _wait(device)
            taken = time.perf_counter() - started
            best, spent = min(best, taken), spent + taken
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
