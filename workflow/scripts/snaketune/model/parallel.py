"""One process or several: who computes what, and how gradients and sums come together.

Every process runs the same loop over the same plan. Of a step's blocks, process r of W takes r, r + W, r + 2W, ...; the
loss is divided by the trained tokens of the whole step, so that the result is that of one process up to the order of
additions. DDP keeps the model whole in each process, FSDP2 a part of it (Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from snaketune.job import StageError
from snaketune.model.anatomy import blocks_of
from snaketune.model.lm import HALVES

PATIENCE = timedelta(minutes=30)  # the first process may write a large checkpoint while the others wait


@dataclass(frozen=True)
class World:
    """The processes of a training; `kind` is "single", "ddp" or "fsdp"."""

    rank: int
    size: int
    device: torch.device
    kind: str

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, blocks: list[Any]) -> list[Any]:
        """The blocks of this process."""
        return blocks[self.rank :: self.size]

    def total(self, values: list[float] | torch.Tensor) -> list[float]:
        """Sums over all processes, in float64; every process gets the same."""
        tensor = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor.tolist()

    def highest(self, value: int) -> int:
        """The highest value of any process: one process that must stop stops all, at the same step."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor.item())

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world_of(device: torch.device, kind: str) -> Iterator[World]:
    """The world of this process: alone, or as torchrun started it (its variables are in the environment)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device, "single")
        return
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise StageError(
                f"`train.devices` is more than the {torch.cuda.device_count()} GPUs that this job has here: each "
                "process needs one of its own"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size, device, kind)
    finally:
        # Gloo's group ends with the process (process.main): taken down here, it joins a thread of its own, which may be
        # waiting for the interpreter that the join holds.
        if device.type == "cuda":
            dist.destroy_process_group()


def spread(objective: nn.Module, world: World, precision: str) -> nn.Module:
    """The objective as this world computes it. Call again after the set of learning weights has changed (DDP)."""
    if world.kind == "ddp":
        return nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False, gradient_as_bucket_view=True)
    if world.kind == "fsdp":
        return _sharded(objective, world, precision)
    return objective


def _sharded(objective: nn.Module, world: World, precision: str) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=HALVES.get(precision), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks_of(objective.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy)
    return objective


@contextmanager
def synchronised(module: nn.Module, world: World, now: bool) -> Iterator[None]:
    """Whether the backward pass inside exchanges gradients: only that of the last pass of a step needs to."""
    if world.kind == "ddp" and not now:
        with module.no_sync():
            yield
        return
    if world.kind == "fsdp":
        module.set_requires_gradient_sync(now)
    yield


def bare(module: nn.Module) -> nn.Module:
    """The objective inside its DDP wrapper."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which FSDP holds a part here, put together; every process must call it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
