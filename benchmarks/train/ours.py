"""The workflow's own training: `train_process` as train.py calls it, with a meter in its loop.

Everything that the loop does at each step is on the clock: the learning rate, the batches, the history, the live line,
the guard. Evaluations, samples and checkpoints are not; the seconds of the last ones are given beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prepare import SPLITS, settings_of, steps_of
from setting import Meter, Setting, options

from snaketune.job import speak_through
from snaketune.model import process
from snaketune.model.engine import Engine
from snaketune.model.loop import Course, Loop
from snaketune.work import Work


def metered(meter: Meter, name: str) -> type[Loop]:
    """The training loop, with a meter that reports when it is over."""
    aside: dict[str, float] = {}
    inside = [0.0]  # seconds on the clock that the engine had, not the loop around it

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        aside[what] = round(time.perf_counter() - began, 2)

    class Metered(Loop):
        def __init__(self, engine: Engine, course: Course) -> None:
            super().__init__(engine, course)
            step = engine.step

            def watched(*arguments: Any) -> Any:
                began = time.perf_counter()
                found = step(*arguments)
                if meter.warm_up <= meter.step < meter.last:
                    inside[0] += time.perf_counter() - began
                return found

            engine.step = watched  # type: ignore[method-assign]

        def run(self) -> None:
            super().run()
            meter.stop()
            share = round(1 - inside[0] / meter.seconds, 4) if self.world.device.type == "cpu" else None
            how = self.engine.how
            more = {"attention": how.attention, "compiled": how.compile, "pass_blocks": how.pass_blocks}
            more |= {f"{what}_seconds": seconds for what, seconds in aside.items()}
            meter.report(name, self.course.flops, **more, outside_engine=share)

        def _take_step(self) -> None:
            if not meter.step:
                meter.start()
            rows = [row for block in self.plan.blocks(self.step + 1) for row in block]
            super()._take_step()
            meter.saw(self.course.rows["train"].lengths[rows].tolist(), self.trained["train"][rows].sum())
            meter.step_done()

        def _evaluate(self) -> None:
            with meter.aside(), timed("evaluation"):
                super()._evaluate()
            assert self.company is not None
            if self.step and meter.reached(self.company.watch.validation):
                self.steps = self.step

        def _keep(self) -> None:
            with meter.aside(), timed("checkpoint"):
                super()._keep()

    return Metered


def train(folder: Path, setting: Setting, batching: str, precision: str) -> None:
    """Train by a plan of `folder`, and print what was measured."""
    about, found = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (f"plan-{batching}.json", f"preflight-{batching}-{precision}.json")
    )
    with tempfile.TemporaryDirectory() as place:
        work = Work(
            run="bench",
            tokens={split: f"{setting.tokens}/{split}" for split in SPLITS},
            plan=str(folder / f"plan-{batching}.arrow"),
            base=setting.model,
            folder=f"{place}/store",
            events=f"{place}/logs",
            settings=settings_of(setting, batching, precision, steps_of(setting)),
            how=found["how"],
            facts={"plan": about, "preflight": found},
            gpus=int(setting.device == "cuda"),
            threads=setting.threads,
        )
        Path(work.folder).mkdir(parents=True)
        process.Loop = metered(Meter(setting, precision), f"ours, {batching}")  # type: ignore[misc]
        try:
            process.train_process(work)
        finally:
            process.Loop = Loop  # type: ignore[misc]


def main() -> None:
    """Train, and print what was measured."""
    parser = options(__doc__ or "")
    parser.add_argument("--batching", choices=("packed", "length_grouped"), default="packed")
    given = parser.parse_args()
    speak_through(sys.stderr)
    train(given.folder, Setting.of(given.folder), given.batching, given.precision)


if __name__ == "__main__":
    main()
