"""One process of a training: it loads, trains or goes on, and the first one writes what is published.

`train.py` calls `train_process` itself, or starts several by torchrun, which run this file as a program:

    python -m torch.distributed.run --nproc-per-node 2 --module snaketune.model.process work.json
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file

from snaketune.durable import publish
from snaketune.job import StageError, say, speak_through
from snaketune.model import adapters, checkpoints
from snaketune.model.batches import Plan, Rows
from snaketune.model.company import Company
from snaketune.model.energy import counters_of
from snaketune.model.engine import Engine
from snaketune.model.flops import training_flops
from snaketune.model.lm import device_of, load_model, load_tokenizer
from snaketune.model.loading import load_for, set_up
from snaketune.model.loop import GO_ON, LEARNT, STOP, Course, Loop, evaluation_steps
from snaketune.model.methods import Learner, load_learnt, prepare
from snaketune.model.parallel import World, world_of
from snaketune.model.passes import How
from snaketune.store import claim
from snaketune.work import FAILURE, KINDS, Work

TOGETHER = 1.0  # seconds


def train_process(work: Work) -> None:
    """Train in this process. Raises StageError with the sentence for the user."""
    settings, how = work.settings, How(**work.how)
    set_up(settings, how.precision, max(1, work.threads // settings["devices"]))
    tokenizer = load_tokenizer(work.base, settings["trust_remote_code"])
    with world_of(device_of(work.gpus), settings["parallel"]) as world, asked_to_stop() as asked, _alone(work, world):
        learner = prepare(load_for(work.base, settings, world.device, how.precision), settings)
        course = _course(work, learner, tokenizer, world, asked)
        loop = Loop(Engine(learner, settings, how, world, course.plan.steps), course)
        if world.first:
            say(f"  {learner.words}; {how.precision}, {how.attention} attention on {world.device.type}")
        try:
            loop.run()
        except torch.OutOfMemoryError as error:
            raise StageError(_full(loop, how)) from error
        finally:
            if loop.company:
                loop.company.close()
        world.wait()
        if world.first:
            _finish(work, loop, learner, tokenizer)


def _alone(work: Work, world: World) -> contextlib.AbstractContextManager[None]:
    """Of several processes, the one that writes waits for any that outlived the job that had started it."""
    several = world.size > 1 and world.first
    return claim(Path(work.folder) / "writer", work.run) if several else contextlib.nullcontext()


def _course(work: Work, learner: Learner, tokenizer: Any, world: World, asked: Callable[[], int]) -> Course:
    plan, rows = Plan(work.plan), {name: Rows(folder) for name, folder in work.tokens.items()}

    def company(step: int, seconds: float, sizes: dict[str, int]) -> Company | None:
        if not world.first:
            return None
        return Company(
            work,
            rows["validation"],
            tokenizer,
            world.device,
            step=step,
            seconds=seconds,
            sizes=sizes,
            steps=plan.steps,
            evaluations=sorted({0} | evaluation_steps(plan.steps, work.settings["evaluations"])),
            peak=work.facts["preflight"]["peak_flops"] * world.size,
            counters=counters_of(_devices(work, world)),
        )

    return Course(plan, rows, Path(work.folder), training_flops(learner.model), company, asked)


def _devices(work: Work, world: World) -> list[torch.device]:
    """The devices of all processes, where all stand in this machine; else none."""
    if world.size == 1:
        return [world.device]
    here = world.size if work.settings["nodes"] == 1 else 0
    return [torch.device(world.device.type, number) for number in range(here)]


def _full(loop: Loop, how: How) -> str:
    if how.pass_blocks > 1:
        mend = "Set `train.gradient_accumulation` higher: the step stays the same, in more passes"
    else:
        mend = "Set `train.gradient_checkpointing: true`, `train.method: lora`, or a lower `tokenize.max_length`"
    return (
        f"the memory of the device was full at step {loop.step + 1:,}, with {how.pass_blocks} sequences in a pass. "
        f"{mend}. If other programs had the memory, the same command goes on from the last checkpoint"
    )


@contextmanager
def asked_to_stop() -> Iterator[Any]:
    """SIGTERM (a scheduler's warning), Ctrl-C and a closed terminal let the step end and a checkpoint be written.

    The second time, the process ends at once. What comes together counts once: a scheduler tells every process of a
    job, and the one that started this one passes it on.
    """
    asked = [GO_ON]
    first = -math.inf

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if asked[0] == GO_ON:
            first = time.monotonic()
        elif time.monotonic() - first > TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked[0] = STOP

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield lambda: asked[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(work: Work, loop: Loop, learner: Learner, tokenizer: Any) -> None:
    """Write the best model, the files of the course and the summary; they become visible in one rename.

    The model is made anew from the base on the CPU: nothing that served speed or several processes is left in it.
    """
    folder, settings = Path(work.folder), work.settings
    best = checkpoints.best(loop.checkpoints)
    if best is None:
        raise RuntimeError(f"no best model stands in {loop.checkpoints}, although {loop.step} steps were trained")
    base = load_model(work.base, settings["trust_remote_code"])
    if settings["method"] == "qlora":  # the base that was trained over is what its 4-bit weights stand for
        adapters.take_over(learner.model, base)
    plain = prepare(base, settings | {"method": "lora" if settings["method"] == "qlora" else settings["method"]})
    load_learnt(plain, load_file(best.folder / LEARNT))
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "model").mkdir(parents=True)
    if plain.peft and settings["lora"]["save_adapter"]:
        adapters.save_adapter(plain, part / "model" / "adapter", settings["base_name"])
    model = adapters.merge(plain).to(getattr(torch, settings["save_dtype"]))
    model.config.use_cache = True
    model.save_pretrained(part / "model", max_shard_size="1TB")
    tokenizer.save_pretrained(part / "model")
    for kind in KINDS:
        shutil.copyfile(folder / f"{kind}.jsonl", part / f"{kind}.jsonl")
    summary = json.dumps(_summary(work, loop, learner, best.facts), indent=2, sort_keys=True)
    (part / "summary.json").write_text(summary + "\n", encoding="utf-8")
    publish(part, folder / "done")
    for kind in KINDS:
        (folder / f"{kind}.jsonl").unlink()
    shutil.rmtree(loop.checkpoints)


def _summary(work: Work, loop: Loop, learner: Learner, best: dict[str, Any]) -> dict[str, Any]:
    """What the pages say of the training. Nothing that was measured by a clock."""
    plan, preflight = work.facts["plan"], work.facts["preflight"]
    return {
        "method": work.settings["method"],
        "learns": learner.words,
        "parameters": learner.total,
        "trainable_parameters": learner.trainable,
        "steps": loop.step,
        "planned_steps": loop.steps,
        "epochs": round(loop.plan.epoch(loop.step), 4),
        "best_step": best["step"],
        "best_eval_loss": best["eval_loss"],
        "best_eval_accuracy": best["eval_accuracy"],
        "stopped": _ended(loop),
        "precision": loop.engine.how.precision,
        "attention": loop.engine.how.attention,
        "compiled": loop.engine.how.compile,
        "device": preflight["device"],
        "processes": loop.world.size,
        "parallel": loop.world.kind,
        "pass_sequences": loop.engine.how.pass_blocks,
        "tokens_per_step": plan["tokens_per_step"],
        "batching": plan["batching"],
        "blocks": plan["blocks"],
        "packing_efficiency": plan["packing_efficiency"],
        "fingerprint": Path(work.folder).name,
    }


def _ended(loop: Loop) -> str:
    """Why there are no more steps. What has stopped getting better by itself was not given up."""
    if loop.step >= loop.steps:
        return "finished"
    return "early" if loop.stopping.stop else "pruned"


def main(order: str) -> None:
    """Run as one of several processes; a failure is written down for the job that waits.

    The process ends at once, without taking anything down: all is written by then, and taking down a group of gloo can
    wait without end.
    """
    work = Work(**json.loads(Path(order).read_text(encoding="utf-8")))
    speak_through(sys.stdout if os.environ["RANK"] == "0" else io.StringIO())  # one of them speaks
    code = 1
    try:
        train_process(work)
        code = 0
    except StageError as error:
        (Path(work.folder) / FAILURE).write_text(str(error), encoding="utf-8")
        print(error, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
