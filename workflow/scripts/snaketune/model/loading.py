"""A process made ready for training, and the base model loaded as its method needs it."""

from __future__ import annotations

import os
from typing import Any

import torch

from snaketune.model import adapters, attention
from snaketune.model.lm import HALVES, load_model


def set_up(settings: dict[str, Any], precision: str, threads: int) -> None:
    """What is set once in a process: threads, TF32, deterministic kernels."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if settings["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def load_for(base: str, settings: dict[str, Any], device: torch.device, precision: str) -> Any:
    """The base model as a training needs it: in fp32, or in 4 bits for qlora."""
    if settings["method"] == "qlora":
        compute = HALVES.get(precision, torch.float32)
        return adapters.load_quantised(base, device, compute, settings["trust_remote_code"])
    model = load_model(base, settings["trust_remote_code"])
    attention.set_dropout(model, settings["attention_dropout"])
    return model
