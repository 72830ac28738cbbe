"""The memory of a training: what it will need by count, what a device has, and what was held while something ran."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snaketune.launching import world_size
from snaketune.model.anatomy import blocks_of
from snaketune.model.methods import Learner
from snaketune.model.optimizers import make_optimizer

ROOM = 0.92  # of a GPU's memory: the allocator needs some for itself, and later steps may fragment it
CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container or a job of a scheduler may use


def estimate(
    learner: Learner, settings: dict[str, Any], optimizer: int, activations: int | None
) -> dict[str, int | None]:
    """The bytes that each process of a training needs at its heaviest, by what needs them, and their sum `estimate`.

    optimizer: bytes of its whole state; activations: what one pass holds between forward and backward, None where that
    is not known (it is then not in the sum). Under FSDP weights, gradients and state are spread over the processes, and
    each puts what stands outside the blocks together with two blocks (`gathered`: weights and gradients, in fp32).
    """
    parts: dict[str, int | None] = {
        "weights": size_of([*learner.model.parameters(), *learner.model.buffers()]),
        "gradients": size_of(learner.parameters.values()),
        "optimizer": optimizer,
        "average": size_of(learner.parameters.values()) if settings["average"]["kind"] != "none" else 0,
    }
    if is_sharded(settings):
        parts = {name: -(-size // world_size(settings)) for name, size in parts.items()}
        parts["gathered"] = _gathered(learner.model)
    parts["activations"] = activations
    return parts | {"estimate": sum(size or 0 for size in parts.values())}


def is_sharded(settings: dict[str, Any]) -> bool:
    """Whether several processes hold a part of the model each."""
    return world_size(settings) > 1 and settings["parallel"] == "fsdp"


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes; a tensor that is given twice counts once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def state_size(optimizer: torch.optim.Optimizer) -> int:
    """The bytes of an optimiser's state, as it is."""
    return size_of(value for state in optimizer.state.values() for value in tree_leaves(state) if _is_tensor(value))


def future_state_size(learner: Learner, settings: dict[str, Any], device: torch.device) -> int:
    """The bytes that an optimiser's state will have: tried on one tensor of each shape that learns, on its device."""
    shapes: dict[tuple[Any, ...], list[str]] = {}
    for name, parameter in learner.parameters.items():
        shapes.setdefault((tuple(parameter.shape), parameter.dtype), []).append(name)
    total = 0
    for (shape, dtype), names in shapes.items():
        tried = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        optimizer = make_optimizer([(names[0], tried)], settings, device)
        tried.grad = torch.zeros_like(tried)
        optimizer.step()
        total += state_size(optimizer) * len(names)
    return total


def _gathered(model: Any) -> int:
    blocks = [size_of(block.parameters()) for block in blocks_of(model)]
    outside = size_of(model.parameters()) - sum(blocks)
    return 2 * (outside + sum(sorted(blocks)[-2:]))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def memory_of(device: torch.device) -> int:
    """The bytes that there are: of a GPU, or of main memory that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    if CGROUP.exists() and (limit := CGROUP.read_text(encoding="ascii").strip()) != "max":
        limits.append(int(limit))
    return min(limit for limit in limits if limit > 0)  # RLIM_INFINITY is -1


@contextlib.contextmanager
def room(device: torch.device) -> Iterator[None]:
    """Leave some of a GPU's memory alone: more than ROOM of it is refused inside, as if it were full."""
    if device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device()  # a device without an index is refused
    torch.cuda.set_per_process_memory_fraction(ROOM, index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory was full. torch has a class for a GPU's, and for main memory only words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


def clear(device: torch.device) -> None:
    """Give back what nothing refers to any more, compiled code included."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it and still live: `now`, and the most so far, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each operation."""
        made = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        for leaf in filter(_is_tensor, tree_leaves(made)):
            storage = leaf.untyped_storage()
            which, size = storage._cdata, storage.nbytes()
            if which in given or which in self._known or not size:
                continue  # a view, or written in place
            self._known.add(which)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, which, size)
        return made

    def _gone(self, which: int, size: int) -> None:
        self._known.discard(which)
        self.now -= size
