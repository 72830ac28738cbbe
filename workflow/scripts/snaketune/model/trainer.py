"""Transformers' Trainer with what it gets wrong replaced, and what a long training tells the person who waits.

Replaced are the loss (snaketune.model.lm), its average (over the trained tokens of the whole step, however many forward
passes) and the evaluation (over all trained tokens of the validation split).
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from snaketune.job import StageError, interactive, say
from snaketune.model.lm import token_losses

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Block = list[int]


class Items(torch.utils.data.Dataset):
    """What the Trainer shuffles: each item is one or several blocks of row numbers."""

    def __init__(self, items: list[list[Block]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> list[Block]:
        return self.items[number]


class CausalTrainer(Trainer):
    """The Trainer with a loss over the trained tokens of the whole step, and an exact evaluation."""

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, precision: str, validation: list[dict[str, torch.Tensor]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that num_items_in_batch counts the trained tokens of the step
        self.precision = precision
        self.validation = validation

    def _losses(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.args.device
        on = self.precision != "fp32"
        with torch.autocast(device.type, DTYPES[self.precision] if on else None, enabled=on):
            nll, hit, _ = token_losses(model, **{name: tensor.to(device) for name, tensor in inputs.items()})
        return nll, hit

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean loss (nats) of a trained token, over all forward passes of the step."""
        nll, _ = self._losses(model, inputs)
        return nll.sum() / (num_items_in_batch if num_items_in_batch is not None else len(nll))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and accuracy over every trained token of the validation split."""
        self.model.eval()
        total, hits, tokens = 0.0, 0, 0
        with torch.no_grad():
            for batch in self.validation:
                nll, hit = self._losses(self.model, batch)
                total += nll.double().sum().item()
                hits += int(hit.sum())
                tokens += len(nll)
        self.model.train()
        metrics = {"eval_loss": total / tokens, "eval_accuracy": hits / tokens, "eval_tokens": tokens}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Live(TrainerCallback):
    """The line that a person watches, and an evaluation at the very last step."""

    def __init__(self, tokens_per_epoch: int) -> None:
        self.tokens_per_epoch = tokens_per_epoch
        self.validation = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step, self.first_epoch = time.perf_counter(), state.global_step, state.epoch or 0.0
        self.shown = self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "eval_loss" in (logs := logs or {}):
            self.validation = f"  validation {logs['eval_loss']:.3f}"
        now = time.perf_counter()
        pause = 1 if interactive() else 15
        if "loss" not in logs or now - self.shown < pause:
            return
        self.shown = now
        seconds = now - self.started
        speed = (state.epoch - self.first_epoch) * self.tokens_per_epoch / seconds
        left = seconds / max(1, state.global_step - self.first_step) * (state.max_steps - state.global_step)
        line = (
            f"  step {state.global_step:,}/{state.max_steps:,}  loss {logs['loss']:.3f}{self.validation}"
            f"  {speed:,.0f} tokens/s  {int(left // 60)}:{int(left % 60):02d} left"
        )
        say(f"\r\033[K{line}" if interactive() else line, end="" if interactive() else "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if interactive():
            say("\r\033[K", end="")


class Finite(TrainerCallback):
    """Stops a training whose loss is no number any more, before a ruined checkpoint is written."""

    def __init__(self) -> None:
        self.rate = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.rate = (logs := logs or {}).get("learning_rate", self.rate)
        for name in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise StageError(
                    f"the {'validation ' * (name == 'eval_loss')}loss is {logs[name]} at step {state.global_step:,} "
                    f"(learning rate {self.rate:.3g}). Set a lower `train.learning_rate` or a longer `train.warmup`, "
                    "or `train.precision: fp32`"
                )
