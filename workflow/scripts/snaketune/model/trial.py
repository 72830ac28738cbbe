"""The heaviest step of a plan, tried on the device: does it fit, what does it need, how long does it take?

A first step of one pass measures what is held between forward and backward (and compiles), a second one is timed. A
step of many passes is tried with two of them, the heaviest among them, so that the trial takes seconds.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch._dynamo.exc import TorchDynamoException

from snaketune.job import StageError
from snaketune.launching import world_size
from snaketune.model import attention, memory
from snaketune.model.batches import Batch, Plan, Rows
from snaketune.model.engine import Engine
from snaketune.model.methods import Learner
from snaketune.model.parallel import World
from snaketune.model.passes import How, Passes
from snaketune.model.watch import peak_memory

LINES_SEEN = 10_000_000  # of a plan, among which the heaviest pass is looked for; the first epoch always
TIMED = 2  # passes
# What a step needs of the settings, and what it costs does not depend on.
TRIED = {"learning_rate": 1e-6, "max_grad_norm": 1.0, "label_smoothing": 0.0, "neftune_alpha": None}
TRIED |= {"scheduler": "constant"}
STATELESS = {"optimizer": "sgd", "optimizer_args": {}}  # under FSDP no device holds the whole state of the real one


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    how: how to compute; learner: what learns, for the file; step: the heaviest step, None where no device computes one
    by itself (FSDP); bytes: what each process needs, see `memory.estimate`, and the `peak` that was measured
    """

    how: How
    learner: dict[str, Any]
    step: dict[str, Any] | None
    bytes: dict[str, int | None]


class Heaviest:
    """Finds the heaviest pass of a plan, whatever the passes are; path: the plan's file; rows: the train split."""

    def __init__(self, path: str, rows: Rows) -> None:
        self.plan, self.rows = Plan(path), rows
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        lines = 0
        with pa.memory_map(path) as source, pa.ipc.open_file(source) as file:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                if lines > LINES_SEEN or batch["split"][0].as_py() != "train":
                    break
                step, block, row = (batch[name].to_numpy() for name in ("step", "block", "row"))
                first = np.flatnonzero(np.r_[True, (np.diff(step) != 0) | (np.diff(block) != 0)])
                parts.append((step[first], block[first], np.add.reduceat(rows.lengths[row], first)))
                lines += batch.num_rows
        # of each block: [n]
        self.step, self.block, self.tokens = (np.concatenate(column) for column in zip(*parts, strict=True))

    def passes(self, how: How, processes: int) -> tuple[list[list[list[int]]], int]:
        """The passes of the step and process that the heaviest one is of, and its place among them.

        A pass is as heavy as the tokens that it computes: of padded rows, those of the longest as often as there are
        rows.
        """
        process, number = self.block % processes, self.block // processes // how.pass_blocks
        order = np.lexsort((number, process, self.step))
        keys = np.stack([self.step, process, number])[:, order]
        first = np.flatnonzero(np.r_[True, (np.diff(keys) != 0).any(0)])
        tokens = self.tokens[order]
        if attention.layout(how.attention) == "flat":
            weight = np.add.reduceat(tokens, first)
        else:
            weight = np.maximum.reduceat(tokens, first) * np.diff(first, append=len(tokens))
        step, process, place = keys[:, first[weight.argmax()]].tolist()
        share = self.plan.blocks(step)[process::processes]
        return [share[at : at + how.pass_blocks] for at in range(0, len(share), how.pass_blocks)], place


def tried(
    make: Callable[[], Learner], heaviest: Heaviest, settings: dict[str, Any], how: How, device: torch.device
) -> Trial:
    """Try a step; where memory is full and `gradient_accumulation` is `auto`, with half as many sequences in a pass.

    make: gives the learner of each try, which is spent afterwards: nothing of a failed one (gradients, hooks, compiled
    code) is in the next. `compile: auto` is given up likewise where it does not work. Under FSDP the step is tried for
    its activations alone.

    Raises StageError where not even one sequence fits, or the step has no finite loss.
    """
    while True:
        learner = make()
        try:
            return _trial(learner, heaviest, settings | TRIED, how, device)
        except (RuntimeError, MemoryError) as error:
            if memory.is_full(error):
                if settings["gradient_accumulation"] != "auto" or how.pass_blocks == 1:
                    raise StageError(_too_large(learner, settings, how, device)) from error
                how = replace(how, pass_blocks=-(-how.pass_blocks // 2))
            elif how.compile and isinstance(error, TorchDynamoException):
                if settings["compile"] != "auto":
                    reason = str(error).strip().partition("\n")[0]
                    raise StageError(f"`train.compile: true` does not work here: {reason} Set `false`") from error
                how = replace(how, compile=False)
            else:
                raise
        del learner  # and only now: the frames of the exception held the failed try too
        memory.clear(device)


def _trial(learner: Learner, heaviest: Heaviest, settings: dict[str, Any], how: How, device: torch.device) -> Trial:
    sharded = memory.is_sharded(settings)
    world = World(0, 1, device, "single")
    engine = Engine(learner, settings | STATELESS if sharded else settings, how, world, steps=2)
    # Without the factor that the training finds in its first steps: none of these may be skipped.
    engine.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=how.precision == "fp16")
    passes, place = heaviest.passes(how, world_size(settings))
    others = [part for at, part in enumerate(passes) if at != place]
    timed = [*others[: TIMED - 1], passes[place]]
    batches = [batch for part in timed for batch in Passes(heaviest.rows, how, world).of(part)]
    with memory.room(device):
        loss, activations = _first(engine, batches[-1])
        started = time.perf_counter()
        after, norm = (float(value) for value in engine.step(2, batches, _trained(batches)))  # waits for the GPU
        seconds = time.perf_counter() - started
    if not math.isfinite(loss + after) or (how.precision != "fp16" and not math.isfinite(norm)):
        raise StageError(
            f"the heaviest step has a loss of {loss:.4g} a token and a gradient of the norm {norm:.4g}: "
            f"{not_finite(how.precision)}"
        )
    peak: int | None = peak_memory(device)
    tokens, part = (_tokens(heaviest.rows, some) for some in (passes, timed))
    step: dict[str, Any] | None = {
        "loss": round(loss, 4),
        "tokens": tokens,
        "sequences": sum(map(len, passes)),
        "passes": len(passes),
        "seconds": round(seconds * tokens / part, 4),
        "tokens_per_second": round(part / seconds, 1),
    }
    state = memory.state_size(engine.optimizer)
    if sharded:
        state, step, peak = memory.future_state_size(learner, settings, device), None, None
    about = {"learns": learner.words, "parameters": learner.total, "trainable_parameters": learner.trainable}
    needed = memory.estimate(learner, settings, state, activations)
    return Trial(how, about, step, needed | {"peak": peak, "device": memory.memory_of(device)})


def _first(engine: Engine, batch: Batch) -> tuple[float, int | None]:
    """A step of one pass: its loss (nats a trained token), and the most bytes that it held beyond the gradients.

    Gradients are there from the start, as in the second of several passes, and everything learns, as at the end of a
    gradual training. Of a compiled model on a CPU the bytes are not known.
    """
    for parameter in engine.parameters:
        parameter.grad = torch.zeros_like(parameter)
    device = engine.world.device
    cuda = device.type == "cuda"
    counter = None if cuda or engine.how.compile else memory.Held()
    before, found = 0, []
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)

    def computed(*_: Any) -> None:
        if counter or cuda:
            found.append(counter.peak if counter else torch.cuda.max_memory_allocated(device) - before)

    hook = engine.optimizer.register_step_pre_hook(computed)
    with counter or contextlib.nullcontext():
        loss, _ = engine.step(2, [batch], _trained([batch]))
    hook.remove()
    return float(loss) / _trained([batch]), found[0] if found else None


def _trained(batches: list[Batch]) -> int:
    return sum(len(batch.places) for batch in batches)


def _tokens(rows: Rows, passes: list[list[list[int]]]) -> int:
    return int(rows.lengths[[row for blocks in passes for block in blocks for row in block]].sum())


def not_finite(precision: str) -> str:
    """What to do about a loss that is no finite number."""
    if precision == "fp16":
        return "numbers of this size do not fit into fp16; set `train.precision: bf16` or `fp32`"
    return "the base model is broken; take it from where it was published again, or set another `model.base`"


def _too_large(learner: Learner, settings: dict[str, Any], how: How, device: torch.device) -> str:
    """Why a step does not fit, and what there is to do that is not done yet."""
    there = memory.memory_of(device)
    if how.pass_blocks > 1:
        return (
            f"the heaviest step does not fit into memory ({there / 1e9:.1f} GB) with {how.pass_blocks} sequences in a "
            f"pass: set `train.gradient_accumulation: auto`, or more than {settings['gradient_accumulation']}"
        )
    held = memory.size_of(learner.model.parameters()) + memory.size_of(learner.parameters.values())
    mend = ["`train.gradient_checkpointing: true`"] * (not settings["gradient_checkpointing"])
    mend += ["`train.method: lora`"] * (settings["method"] not in ("lora", "qlora"))
    mend += ["a lower `tokenize.max_length`"]
    return (
        "not even one sequence of the heaviest step fits into memory: weights and gradients take "
        f"{held / 1e6:,.0f} MB of {there / 1e6:,.0f} MB, and the optimizer's state and the activations the rest. Set "
        f"{' or '.join(mend)}, or take a smaller model"
    )
