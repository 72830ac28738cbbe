"""What computes a step: the objective on its device, the optimiser, and the passes between them.

The training loop says which rows and which learning rate; the preflight tries the heaviest step with the same engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from snaketune.model import attention
from snaketune.model.anatomy import embeddings_of
from snaketune.model.batches import Batch
from snaketune.model.faster import quicken
from snaketune.model.keeping import load_state, state_of
from snaketune.model.lm import HALVES
from snaketune.model.methods import Learner, unfreeze
from snaketune.model.noise import Neftune
from snaketune.model.objective import Objective
from snaketune.model.optimizers import make_optimizer
from snaketune.model.parallel import World, bare, spread, synchronised, whole
from snaketune.model.passes import How


class Engine:
    """A learner on its device, or on several."""

    def __init__(self, learner: Learner, settings: dict[str, Any], how: How, world: World, steps: int) -> None:
        self.learner, self.settings, self.how, self.world, self.steps = learner, settings, how, world, steps
        # FSDP brings one block after the other to the device: no device has to hold the whole model, not even at first
        model = learner.model if world.kind == "fsdp" else learner.model.to(world.device)
        attention.use(model, how.attention)
        quicken(model, world.device)
        if settings["gradient_checkpointing"]:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.noise = Neftune(settings["neftune_alpha"]) if settings["neftune_alpha"] else None
        if self.noise:
            self.noise.attach(model)
        objective = Objective(model, settings["label_smoothing"])
        if how.compile:
            objective.compile_body()
        unfreeze(learner, 1, steps)
        self.module = spread(objective, world, how.precision).train()
        # by name, and only now: FSDP has put parameters of its own in their place
        named = [(name, p) for name, p in model.named_parameters() if name in learner.parameters]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = make_optimizer(named, settings, world.device, embeddings_of(model))
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=how.precision == "fp16")

    def step(self, number: int, batches: list[Batch], trained: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute optimiser step `number`, the first of which is 1.

        batches: the passes of this process; trained: the trained tokens of all passes of all processes. The random
        numbers of a pass are a function of the seed, the step, the pass and the process, and of nothing before.
        Returns (the summed loss of this process's passes in nats, the norm of the whole gradient before clipping).
        """
        if unfreeze(self.learner, number, self.steps):
            self.module = spread(bare(self.module), self.world, self.how.precision)
        loss = torch.zeros((), device=self.world.device)
        for place, batch in enumerate(batches):
            torch.manual_seed(seed_of(self.settings["seed"], number, place, self.world.rank))
            here = batch.to(self.world.device, non_blocking=True)
            if self.noise:
                self.noise.documents = here.documents
            with synchronised(self.module, self.world, now=place == len(batches) - 1):
                with self.autocast():
                    summed = self.module(here)
                # DDP and FSDP take the mean over the processes, where the sum is wanted
                self.scaler.scale(summed * (self.world.size / trained)).backward()
            loss += summed.detach()
        return loss, self._update()

    def _update(self) -> torch.Tensor:
        """Clip the gradient and take the step."""
        parameters = [parameter for parameter in self.parameters if parameter.grad is not None]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings["max_grad_norm"], foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return whole(norm).detach()

    def score(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """(summed loss in nats, how many of the likeliest tokens are right) over some passes of every process."""
        nll = torch.zeros((), dtype=torch.float64, device=self.world.device)
        hits = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.module.eval()
        with torch.no_grad():
            for batch in batches:
                with self.autocast():
                    losses, hit = bare(self.module)(batch.to(self.world.device), scored=True)
                nll += losses.double().sum()
                hits += hit.sum()
        self.module.train()
        total, right = self.world.total(torch.stack([nll, hits]))
        return total, int(right)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The number format of a forward pass."""
        dtype = HALVES.get(self.how.precision)
        return torch.autocast(self.world.device.type, dtype, enabled=dtype is not None)

    def learnt(self) -> dict[str, torch.Tensor]:
        """The learnt weights as they are now, whole; every process must call it."""
        return state_of(self.module, self.learner, self.world)

    def state(self) -> dict[str, Any]:
        """What the next step depends on beside the weights; every process must call it."""
        return {"optimizer": state_of(self.module, self.optimizer, self.world), "scaler": self.scaler.state_dict()}

    def load(self, learnt: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go on from weights and state."""
        load_state(self.module, self.learner, self.world, learnt)
        load_state(self.module, self.optimizer, self.world, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def seed_of(*parts: int) -> int:
    """A seed of 63 bits for each combination of numbers."""
    high, low = np.random.SeedSequence(parts).generate_state(2, np.uint32).tolist()
    return (high << 31) ^ low
