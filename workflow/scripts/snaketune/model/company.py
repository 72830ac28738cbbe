"""What goes with a training and changes nothing in it: the files of its course, the live line, trackers, samples.

The first process of a training has this company; the others have none.

    history.jsonl  a line for each step and each evaluation; equal after a resume, bit for bit on a CPU
    samples.jsonl  the answers to fixed prompts at each evaluation
    speed.jsonl    seconds, tokens per second, share of the device's peak, memory, energy where
                   devices tell it: measured, so never the same twice
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from snaketune.model import attention
from snaketune.model.batches import Rows
from snaketune.model.checkpoints import HistoryFile
from snaketune.model.energy import Counter, Meter
from snaketune.model.samples import Samples, shown
from snaketune.model.trackers import Trackers
from snaketune.model.watch import Watch
from snaketune.work import KINDS, Work


class Company:
    """The company of one training from the step on at which it begins or goes on.

    sizes: the bytes that the files had when the checkpoint was written that it goes on from; what was written after is
    written again. evaluations: the steps of those that are planned; peak: FLOPs per second of all devices together;
    counters: of the energy of all devices, where they tell it.
    """

    def __init__(
        self,
        work: Work,
        validation: Rows,
        tokenizer: Any,
        device: torch.device,
        *,
        step: int,
        seconds: float,
        sizes: dict[str, int],
        steps: int,
        evaluations: list[int],
        peak: float,
        counters: Sequence[Counter] = (),
    ) -> None:
        self.files = {kind: HistoryFile(Path(work.folder) / f"{kind}.jsonl") for kind in KINDS}
        for kind, file in self.files.items():
            file.cut(sizes.get(kind, 0))
            file.path.touch()
        self.samples = Samples(validation, tokenizer, work.settings["samples"], _lines(self.files["samples"]))
        self.meter = Meter(counters)
        self.joules_before = max((line.get("energy_j", 0.0) for line in _lines(self.files["speed"])), default=0.0)
        self.watch = Watch(steps, evaluations, peak, device, done=step, seconds=seconds)
        identity = work.folder.rpartition("/")[2]
        names, settings = work.settings["trackers"], work.settings
        self.trackers = Trackers(names, work.events, work.run, settings, identity, resumed_at=step)

    def steps_done(self, lines: list[dict[str, Any]], flops: float) -> None:
        """Take in the history lines of some steps and the useful FLOPs of all of them."""
        self.files["history"].append(lines)
        losses, tokens = [line["loss"] for line in lines], sum(line["tokens"] for line in lines)
        for line in lines:
            self.trackers.log("train", line["step"], _numbers(line, "loss", "learning_rate", "grad_norm", "epoch"))
        if measured := self.watch.steps_done(lines[-1]["step"], losses, tokens, flops):
            if (joules := self.meter.joules()) is not None:
                measured["energy_j"] = round(self.joules_before + joules, 1)
            self.files["speed"].append([measured])
            self.trackers.log("speed", measured["step"], _numbers(measured, "tokens_per_second", "mfu", "memory_mb"))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no training, an evaluation: its seconds are not those of the steps."""
        self.watch.pause("evaluates")
        yield
        self.watch.resume()

    def ask(self, model: Any, step: int) -> None:
        """Put the fixed prompts to the model as it is now."""
        lines = self.samples.answer(model, step, attention.plain)
        self.files["samples"].append(lines)
        for line in lines[:1] if step else []:
            said = {"prompt": line["prompt"][-60:], "base": line["base"] or "", "now": line["output"]}
            self.watch.tell("\n".join(f"    {who:<7}{shown(text)}" for who, text in said.items()))

    def evaluated(self, line: dict[str, Any]) -> None:
        """Take in the history line of an evaluation."""
        self.files["history"].append([line])
        self.watch.evaluated(line["step"], line["eval_loss"])
        self.trackers.log("validation", line["step"], {"loss": line["eval_loss"], "accuracy": line["eval_accuracy"]})

    def sizes(self) -> dict[str, int]:
        """The bytes of each file, for a checkpoint."""
        return {kind: file.bytes for kind, file in self.files.items()}

    def close(self) -> None:
        """Clear the line, and end the runs of the trackers."""
        self.watch.close()
        self.trackers.close()


def _lines(file: HistoryFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.path.read_text(encoding="utf-8").splitlines()]


def _numbers(line: dict[str, Any], *names: str) -> dict[str, float | None]:
    return {name: line[name] for name in names}
