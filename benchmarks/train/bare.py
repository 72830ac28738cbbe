"""A bare loop over the same objective, attention and batches: forward, backward, clip, step, and nothing else.

The batches are made before the clock starts. What the workflow's loop is slower by is what its loop costs.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from prepare import settings_of, steps_of
from setting import Meter, Setting, options

from snaketune.model import attention
from snaketune.model.batches import Batch, Plan
from snaketune.model.faster import quicken
from snaketune.model.flops import training_flops
from snaketune.model.lm import HALVES
from snaketune.model.loading import load_for, set_up
from snaketune.model.objective import Objective
from snaketune.model.parallel import World
from snaketune.model.passes import How, Passes
from snaketune.packing import trained_tokens


def train(folder: Path, setting: Setting, batching: str, precision: str) -> None:
    """Train by a plan of `folder`, and print what was measured."""
    settings = settings_of(setting, batching, precision, steps_of(setting))
    found = json.loads((folder / f"preflight-{batching}-{precision}.json").read_text(encoding="utf-8"))
    how, device = How(**found["how"]), torch.device(setting.device)
    set_up(settings, precision, setting.threads)
    torch.manual_seed(setting.seed)
    model = load_for(setting.model, settings, device, precision).to(device).train()
    attention.use(model, how.attention)
    quicken(model, device)
    objective = Objective(model)
    if how.compile:
        objective.compile_body()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay, fused=True
    )

    world = World(0, 1, device, "single")
    held, plan, rows = Plan(folder / f"plan-{batching}.arrow"), [], setting.rows("train")
    passes = Passes(rows, how, world)
    for step in range(1, held.steps + 1):
        numbers = [row for block in held.blocks(step) for row in block]
        lengths = rows.lengths[numbers]
        trained = int(trained_tokens(lengths, rows.prompt_lengths[numbers], setting.loss_on).sum())
        plan.append((list(passes.of(held.blocks(step))), lengths.tolist(), trained))

    scored, checked = setting.rows("validation"), Passes(setting.rows("validation"), how, world)
    checked.most_rows = max(map(len, held.validation)) * how.pass_blocks
    of_validation = int(trained_tokens(scored.lengths, scored.prompt_lengths, setting.loss_on).sum())

    def loss_of(batch: Batch, wanted: bool = False) -> torch.Tensor:
        with torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES):
            found = objective(batch.to(device, non_blocking=True), scored=wanted)
        return found[0].double().sum() if wanted else found

    def validation() -> float:
        model.eval()
        with torch.no_grad():
            total = sum(loss_of(batch, True).item() for batch in checked.of(held.validation))
        model.train()
        return total / of_validation

    meter = Meter(setting, precision)
    meter.start()
    for batches, lengths, trained in plan:
        for batch in batches:
            (loss_of(batch) / trained).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), setting.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        meter.saw(lengths, trained)
        meter.step_done()
        if meter.due():
            with meter.aside():
                loss = validation()
            if meter.reached(loss):
                break
    meter.stop()
    meter.reached(validation())
    meter.report(f"bare loop, {batching}", training_flops(model))


def main() -> None:
    """Train, and print what was measured."""
    parser = options(__doc__ or "")
    parser.add_argument("--batching", choices=("packed", "length_grouped"), default="packed")
    given = parser.parse_args()
    train(given.folder, Setting.of(given.folder), given.batching, given.precision)


if __name__ == "__main__":
    main()
