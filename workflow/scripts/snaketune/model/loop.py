"""The training loop: a plan of steps, an engine that computes them, and what is kept of the course.

One optimiser step sees the blocks that the plan names, in one or several passes and processes; its loss is the mean
over all their trained tokens. Nothing in it depends on what came before a restart: the order is in the plan, the
learning rate is a function of the step, and the random numbers of a pass are seeded by its step and number. What does
depend on the past (optimiser, plateau, averages, patience) is in the checkpoint. So a training that was killed ends
with the weights of one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from snaketune.job import say
from snaketune.model import checkpoints
from snaketune.model.averaging import Average
from snaketune.model.batches import Batch, Plan, Rows
from snaketune.model.company import Company
from snaketune.model.engine import Engine
from snaketune.model.flops import Flops
from snaketune.model.optimizers import evaluating
from snaketune.model.passes import Passes
from snaketune.model.schedules import Schedule
from snaketune.model.stopping import Bounds, EarlyStopping, Guard
from snaketune.packing import trained_tokens
from snaketune.work import STOPPED, StoppedError

LEARNT = "learnt.safetensors"  # in the folder of the best model
KEPT = ("schedule", "average", "stopping", "bounds", "guard")  # what a loop has that remembers
GO_ON, KEEP, STOP = range(3)  # what a process asks of all at the end of a step
NOTED = 10  # steps on a GPU whose losses are fetched at once, so that it need not wait


@dataclass(frozen=True)
class Course:
    """What a training follows, beside its engine."""

    plan: Plan
    rows: dict[str, Rows]  # "train" and "validation"
    folder: Path  # the store of this training
    flops: Flops
    company: Callable[[int, float, dict[str, int]], Company | None]  # the first process's, once it knows where it is
    asked: Callable[[], int]  # what a signal has asked for


class Loop:
    """A training from its first step, or from its last checkpoint, to its end."""

    def __init__(self, engine: Engine, course: Course) -> None:
        self.engine, self.course, self.world = engine, course, engine.world
        self.settings, self.plan = engine.settings, course.plan
        self.steps, self.step = self.plan.steps, 0
        self.evaluations = evaluation_steps(self.steps, self.settings["evaluations"])
        self.passes = {name: Passes(rows, engine.how, self.world) for name, rows in course.rows.items()}
        self.passes["validation"].most_rows = max(map(len, self.plan.validation)) * engine.how.pass_blocks
        self.trained = {
            name: trained_tokens(rows.lengths, rows.prompt_lengths, self.settings["loss_on"])
            for name, rows in course.rows.items()
        }
        self.checkpoints = course.folder / "checkpoints"
        self.schedule = Schedule(engine.optimizer, self.settings, self.steps)
        self.average = Average(engine.parameters, self.settings["average"], self.steps)
        self.stopping = EarlyStopping(self.settings["early_stopping"], self.settings["early_stopping_delta"])
        self.bounds = Bounds(self.settings.get("bounds", []))  # of a search alone
        self.guard = Guard(self.steps, str(self.checkpoints))
        self.company: Company | None = None
        self._pending: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor, int]] = []
        self._next: tuple[int, Future[list[Batch]]] | None = None
        self._pool = ThreadPoolExecutor(1) if self.world.device.type == "cuda" else None
        self.started = self.kept_at = time.monotonic()
        self.seconds = 0.0  # of earlier sessions of this training

    def run(self) -> None:
        """Train to the last step, or until the validation loss no longer falls or has exceeded its bound."""
        found = checkpoints.last(self.checkpoints) if self.world.first else None  # the first one clears up
        self.world.wait()
        found = found or checkpoints.last(self.checkpoints)
        if found:
            self._resume(found)
        self.company = self.course.company(self.step, self.seconds, found.facts["files"] if found else {})
        if not found:
            self._evaluate()
        while self.step < self.steps and not self.stopping.stop and not self.bounds.exceeded:
            self._take_step()
            if self.step in self.evaluations:
                self._evaluate()
                self._keep()
            elif asked := self.world.highest(self._asks()):
                self._keep()
                if asked == STOP:
                    raise StoppedError(
                        f"{STOPPED} after step {self.step:,} of {self.steps:,}. The checkpoint is kept: the "
                        "same command goes on from it"
                    )
        if self._pool:
            self._pool.shutdown()

    def _take_step(self) -> None:
        step = self.step + 1
        self.schedule.before_step(step)
        rows = [row for block in self.plan.blocks(step) for row in block]
        trained = int(self.trained["train"][rows].sum())
        loss, norm = self.engine.step(step, self._batches(step), trained)
        self.average.update(step)
        self.step = step
        lengths = self.course.rows["train"].lengths[rows].tolist()
        line = {"step": step, "epoch": self._epoch(), "learning_rate": self.schedule.rate}
        line |= {"tokens": sum(lengths), "trained_tokens": trained}
        self._pending.append((line, loss, norm, self.course.flops.of(lengths, trained)))
        if self._pool is None or len(self._pending) == NOTED:
            self._note()

    def _batches(self, step: int) -> list[Batch]:
        """The passes of a step for this process. On a GPU, those of the next step are made meanwhile."""
        if self._pool is None:
            return self._make(step)
        made = self._next[1].result() if self._next and self._next[0] == step else self._make(step)
        if step < self.steps:
            self._next = (step + 1, self._pool.submit(self._make, step + 1))
        return made

    def _make(self, step: int) -> list[Batch]:
        return list(self.passes["train"].of(self.plan.blocks(step)))

    def _note(self) -> None:
        """Write down the steps since the last time: one exchange between processes and with the GPU for all of them."""
        if not self._pending:
            return
        lines, losses, norms, flops = zip(*self._pending, strict=True)
        self._pending = []
        sums = self.world.total(torch.stack(losses))
        for line, total, norm in zip(lines, sums, torch.stack(norms).tolist(), strict=True):
            line["loss"] = total / line["trained_tokens"]
            skipped = self.engine.scaler.is_enabled() and not math.isfinite(norm)  # fp16 overflowed; its scaler adapts
            line["grad_norm"] = None if skipped else norm
            self.guard.step(line["step"], line["loss"], line["grad_norm"], line["learning_rate"])
        if self.company:
            self.company.steps_done(list(lines), sum(flops))

    def _evaluate(self) -> None:
        """Score the whole validation split; keep the weights if they are the best so far."""
        self._note()
        company = self.company
        with company.aside() if company else contextlib.nullcontext(), self._published():
            total, hits = self.engine.score(self.passes["validation"].of(self.plan.validation))
            tokens = int(self.trained["validation"].sum())
            line = {"step": self.step, "epoch": self._epoch(), "eval_tokens": tokens}
            line |= {"eval_loss": total / tokens, "eval_accuracy": hits / tokens}
            self.guard.evaluated(self.step, line["eval_loss"])
            if company and self.world.kind != "fsdp":  # there, no process has the whole model to generate with
                with self.engine.autocast():
                    company.ask(self.engine.learner.model, self.step)
            if self.step:  # the base itself is measured, but it is no candidate
                self.schedule.evaluated(line["eval_loss"])
                self.bounds.evaluated(line["eval_loss"])
                if self.stopping.evaluated(self.step, line["eval_loss"]):
                    self._keep_best(line)
        if company:
            company.evaluated(line)

    @contextlib.contextmanager
    def _published(self) -> Iterator[None]:
        """The weights that would be published: those of the average, or of a schedule-free optimiser."""
        averaged = self.average.swapped() if self.average.active(self.step) else contextlib.nullcontext()
        with evaluating(self.engine.optimizer), averaged:
            yield

    def _keep_best(self, line: dict[str, Any]) -> None:
        tensors = self.engine.learnt()
        facts = {name: line[name] for name in ("step", "epoch", "eval_loss", "eval_accuracy")}
        if self.world.first:
            checkpoints.keep_best(self.checkpoints, lambda place: save_file(tensors, place / LEARNT), facts)

    def _keep(self) -> None:
        """Write a checkpoint: all that the rest of the training depends on."""
        self._note()
        self.kept_at = time.monotonic()
        tensors, state = self.engine.learnt(), self.engine.state()
        state |= {name: getattr(self, name).state_dict() for name in KEPT}
        state |= {"step": self.step, "planned_steps": self.steps, "best_step": self.stopping.best_step}
        if self.company:
            state |= {"files": self.company.sizes(), "seconds": self.seconds + time.monotonic() - self.started}
            checkpoints.save(self.checkpoints, self.step, state, tensors)
        self.world.wait()

    def _resume(self, found: checkpoints.Checkpoint) -> None:
        state = found.state(self.world.device)
        self.engine.load(found.tensors(), state)
        for name in KEPT:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
        if self.world.first:
            say(f"  goes on from step {self.step:,} of {self.steps:,}")

    def _asks(self) -> int:
        late = time.monotonic() - self.kept_at > 60 * self.settings["checkpoint_minutes"]
        return max(self.course.asked(), KEEP if late else GO_ON)

    def _epoch(self) -> float:
        return round(self.plan.epoch(self.step), 6)


def evaluation_steps(steps: int, evaluations: int) -> set[int]:
    """The steps after which the validation split is scored: evenly spread, the last step always among them."""
    return {max(1, round(steps * number / evaluations)) for number in range(1, evaluations + 1)}
