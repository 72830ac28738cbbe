"""What the programs of this benchmark share: the training that they all do, and the meter that they all carry.

A folder made by prepare.py holds a training: `setting.json`, plans, and what the preflight chose. A program trains it
in its own way, tells the meter of each step, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snaketune.model.batches import Rows, collate
from snaketune.model.flops import Flops
from snaketune.model.lm import HALVES
from snaketune.model.objective import Objective
from snaketune.model.watch import peak_memory
from snaketune.packing import group_by_length, trained_tokens


@dataclass(frozen=True)
class Setting:
    """A training that every program does."""

    model: str  # a folder with the base model and a tokenizer
    tokens: str  # a folder with the token folders `train` and `validation`
    loss_on: str  # completion, or all
    width: int  # the most tokens of a sequence
    device: str  # cpu or cuda
    threads: int
    batch_size: int  # sequences in a step
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    seed: int
    warm_up: int  # steps before the clock starts
    steps: int  # steps on the clock
    until: float | None  # instead: train until the validation loss is as low as this, for at most so many steps
    every: int  # steps between two looks at the validation loss, where `until` is set
    peak: dict[str, float]  # FLOPs per second of the device, by precision

    @classmethod
    def of(cls, folder: Path) -> Setting:
        """The setting of a folder that prepare.py made."""
        return cls(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))

    def rows(self, split: str) -> Rows:
        """The rows of a split."""
        return Rows(f"{self.tokens}/{split}")

    def examples(self, split: str) -> list[dict[str, list[int]]]:
        """The rows of a split as the peers take them: token ids, and labels that are -100 where nothing is trained."""
        rows, found = self.rows(split), []
        for row, prompt in enumerate(rows.prompt_lengths.tolist()):
            ids = rows[row].tolist()
            given = prompt if self.loss_on == "completion" else 0
            found.append({"input_ids": ids, "labels": [-100] * given + ids[given:]})
        return found


def options(words: str) -> argparse.ArgumentParser:
    """The options that every program has."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("folder", type=Path, help="of prepare.py")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return parser


class Meter:
    """Times the steps after a warm-up, and counts what is useful in them: rows without their padding.

    Call `start` before the first step, `saw` once or several times in each, `step_done` after it; what happens `aside`
    is not on the clock.
    """

    def __init__(self, setting: Setting, precision: str) -> None:
        self.setting, self.precision, self.device = setting, precision, torch.device(setting.device)
        self.warm_up = 0 if setting.until is not None else setting.warm_up
        self.last = self.warm_up + setting.steps
        self.step = 0
        self.seen: list[tuple[Any, Any]] = []  # (lengths of documents, trained tokens) of each pass; lists or tensors
        self.seconds = self.paused = self.paused_used = 0.0
        self.memory = 0
        self.loss: float | None = None  # the latest validation loss

    def start(self) -> None:
        """Before the first step."""
        if not self.warm_up:
            self._begin()

    def saw(self, lengths: Any, trained: Any) -> None:
        """A pass of the step that is under way: its documents' lengths and trained tokens (numbers, or tensors)."""
        if not self.seconds:
            self.seen.append((lengths, trained))

    def step_done(self) -> None:
        """After a step."""
        self.step += 1
        if self.step == self.warm_up:
            self._begin()
        elif self.step == self.last:
            self.stop()

    def stop(self) -> None:
        """Stop the clock, unless it has stopped."""
        if not self.seconds:
            now, used = self._now(), time.process_time()
            self.seconds = now - self.started - self.paused
            self.used = used - self.used - self.paused_used
            self.memory = peak_memory(self.device)
            self.timed = self.step - self.warm_up

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is not on the clock."""
        began, used = self._now(), time.process_time()
        yield
        self.paused += self._now() - began
        self.paused_used += time.process_time() - used

    def due(self) -> bool:
        """Whether the validation loss is to be looked at after this step."""
        return self.setting.until is not None and self.step % self.setting.every == 0

    def reached(self, loss: float) -> bool:
        """Take in a validation loss; whether it is low enough, where that ends the training."""
        self.loss = loss
        low = self.setting.until is not None and loss <= self.setting.until
        if low:
            self.stop()
        return low

    def report(self, name: str, flops: Flops, **more: Any) -> None:
        """Print the line of this program. flops: of the model, as `training_flops` counts them."""
        lengths = [_list(lengths) for lengths, _ in self.seen]
        trained = [int(count) for _, count in self.seen]
        tokens = sum(map(sum, lengths))
        spent = sum(flops.of(of, count) for of, count in zip(lengths, trained, strict=True))
        figures = {
            "name": name,
            "precision": self.precision,
            "steps": self.timed,
            "tokens": tokens,
            "trained_tokens": sum(trained),
            "seconds": round(self.seconds, 3),
            "processor_seconds": round(self.used, 3),  # of all threads: less at the mercy of other programs
            "tokens_per_second": round(tokens / self.seconds, 1),
            "peak_memory_mb": round(self.memory / 1e6, 1),
            "loss": None if self.loss is None else round(self.loss, 4),
            "mfu": round(spent / self.seconds / self.setting.peak[self.precision], 4),
        }
        print(json.dumps(figures | more), flush=True)

    def _begin(self) -> None:
        self.seen.clear()
        self.started, self.used = self._now(), time.process_time()
        self.paused = self.paused_used = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _list(lengths: Any) -> list[int]:
    return lengths.tolist() if isinstance(lengths, torch.Tensor) else list(lengths)


@torch.no_grad()
def validation_loss(model: Any, setting: Setting, precision: str) -> float:
    """Nats per trained token of the validation split, for a model as a peer trains it; the same for all of them."""
    rows, device = setting.rows("validation"), torch.device(setting.device)
    objective, training, total = Objective(model), model.training, 0.0
    model.eval()
    for blocks in group_by_length(rows.lengths, setting.batch_size):
        batch = collate(blocks, rows, rows.prompt_lengths, setting.loss_on, 0, "rows").to(device)
        with torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES):
            total += objective(batch, scored=True)[0].double().sum().item()
    model.train(training)
    return total / int(trained_tokens(rows.lengths, rows.prompt_lengths, setting.loss_on).sum())
