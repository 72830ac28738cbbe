"""Some seconds on the device before hours are spent on it: faults are found, and the way to compute is chosen.

In:  tokens/{train,validation}/, train/plan.{arrow,json}, the folder of the base model
Out: train/preflight.json

Refused in a sentence: a tokenizer that is not the model's; rows longer than its positions; weights that are no numbers;
completions that do not end with a trained end-of-text token; a loss that depends on the size of a batch or the side of
its padding; packed rows that do not leave each other alone; a heaviest step that does not fit into memory, or has no
finite loss and gradient. Chosen: number format, attention, torch.compile, sequences in a pass (a step stays what the
plan says: fewer in a pass are more passes).

The keys of the file:

    rows          rows, pairs (rows with a prompt), tokens, trained_tokens; end_trained: the share of pairs (of rows,
                  where there are none) that end with a trained end-of-text token
    examples      the first rows that are trained: row_id, tokens (texts), trained (of each), before and after (how many
                  tokens are not shown)
    padding       the largest difference of a token's loss (nats) between rows alone and in a `batch` padded on the
                  right, and in one padded on the `left`
    attention     the same by path of attention, between rows alone and laid out as they are trained
    how           how the training computes the plan: the fields of snaketune.model.passes.How
    learns        what learns, in words; parameters, trainable_parameters: how many there are and learn
    device        its name; peak_flops: the FLOPs per second that it can do; peak_from: where that number is from
    step          the heaviest step: tokens, sequences, passes (of one process); seconds and tokens_per_second, measured
                  on two of its passes at most; loss: of the base model on the heaviest pass, nats per trained token,
                  with its dropout. null under FSDP, where no device computes a step by itself
    run_seconds   what all steps will take at that speed, without evaluations; null where `step` is
    memory_mb     of each process, in 10^6 bytes: weights, gradients, optimizer (its state), average (a copy of what
                  learns, if `train.average` is on), gathered (FSDP), activations (the most that a pass holds beyond all
                  those; null where not known) and their sum, `estimate`; peak: measured, on a CPU with all libraries,
                  null where `step` is; device: what there is

Memory, seconds, losses and peak_flops are measurements. All else is a function of settings, data and device; on a GPU
that others use, sequences in a pass depend on the memory that they leave.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snaketune.job import StageError, interactive, run, say
from snaketune.launching import refuse_without_nodes, world_size
from snaketune.model import attention, memory
from snaketune.model.batches import Plan, Rows
from snaketune.model.checks import ends, examples, marked, not_finite_weight, padding_difference, sample
from snaketune.model.flops import peak_flops
from snaketune.model.lm import device_of, load_tokenizer, positions_of, precision_of
from snaketune.model.loading import load_for, set_up
from snaketune.model.methods import Learner, prepare
from snaketune.model.passes import How
from snaketune.model.trial import Heaviest, Trial, not_finite, tried

COMPILED_FROM = 200  # steps: below, compiling takes longer than it saves
CPU_TOKENS = 8192  # of a pass on a CPU: larger ones are no faster
ENDED = 0.5  # of the pairs, at least, must end with a trained end of text
EXACT = 1e-3  # nats: the largest difference of a token's loss that the order of additions explains in fp32
ROUGH = 0.05  # in half precision, at least; three times what rounding does to the plain model, where that is more
# The same for padding: models that do not look at it are off by whole nats. ROUGH: half precision, as 4 bits have it.
PADDED_EXACT, PADDED_ROUGH = 1e-2, 0.5
SHOWN = 2  # rows whose trained tokens are marked


def preflight(
    tokens: str, plan: str, about: str, base: str, out: str, settings: dict[str, Any], *, gpus: int, threads: int
) -> str:
    """Check a training and choose how to compute it; tokens: the folder of the train split."""
    device = device_of(gpus)
    refuse_without_nodes(settings["nodes"], os.environ)
    _refuse_too_few(settings["devices"], torch.cuda.device_count() if device.type == "cuda" else None)
    precision = precision_of(settings["precision"], device)
    set_up(settings, precision, threads)
    facts = json.loads(Path(about).read_text(encoding="utf-8"))
    rows, tokenizer = Rows(tokens), load_tokenizer(base, settings["trust_remote_code"])
    found: dict[str, Any] = {"rows": ends(rows, tokenizer, settings["loss_on"])}
    found["examples"] = examples(rows, Plan(plan), tokenizer, settings["loss_on"], SHOWN)
    for example in found["examples"]:
        say(marked(example, colour=interactive()))
    _refuse_endless(found["rows"])
    waiting = [_loaded(base, settings, device, precision)]
    _refuse_unfitting(waiting[0], tokenizer, facts, base)
    documents = sample(rows)
    with _exact_products():
        found["padding"] = _padding(waiting[0], documents, tokenizer.eos_token_id, settings["method"])
        path, found["attention"] = _attention(waiting[0], documents, settings, device, precision)

    def learner() -> Learner:
        """Of the model that was checked, the first time, and later of another."""
        return prepare(waiting.pop() if waiting else _loaded(base, settings, device, precision), settings)

    how = How(
        precision=precision,
        attention=path,
        compile=_compiles(settings, device, facts),
        pass_blocks=_most(settings, device, facts),
        width=facts["width"],
        longest=facts["longest"],
        most_rows=facts["most_rows_in_a_step"],
        packed=settings["batching"] == "packed",
        loss_on=settings["loss_on"],
        pad=tokenizer.eos_token_id,
    )
    trial = tried(learner, Heaviest(plan, rows), settings, how, device)
    peak, where = peak_flops(device, precision)
    found |= {"how": asdict(trial.how), "device": _name(device), "peak_flops": peak, "peak_from": where}
    found |= trial.learner | {"step": trial.step, "run_seconds": _run_seconds(trial, settings, facts)}
    found["memory_mb"] = {name: size and round(size / 1e6, 3) for name, size in trial.bytes.items()}
    Path(out).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return _sentence(trial, found, settings, device)


def _refuse_too_few(devices: int, gpus: int | None) -> None:
    if gpus is not None and devices > gpus:
        raise StageError(
            f"`train.devices` is {devices}, and this machine has {gpus} GPUs, where each process needs one of its "
            f"own; set {gpus} or less"
        )


def _refuse_endless(rows: dict[str, Any]) -> None:
    if rows["pairs"] and rows["end_trained"] < ENDED:
        share = (
            f"only {rows['end_trained']:.0%} of the completions end" if rows["end_trained"] else "no completion ends"
        )
        raise StageError(
            f"{share} with the end-of-text token of the tokenizer, so the model would not learn to stop. Set "
            "`tokenize.append_eos: true`, or make `eos_token` in the tokenizer_config.json of the base the token that "
            "its chat template ends an answer with"
        )


def _loaded(base: str, settings: dict[str, Any], device: torch.device, precision: str) -> Any:
    """The base model on the device."""
    model = load_for(base, settings, device, precision)
    size = memory.size_of(model.parameters())
    try:
        return model.to(device)
    except RuntimeError as error:
        if not memory.is_full(error):
            raise
        there = memory.memory_of(device)
        raise StageError(
            f"the weights of {base} take {size / 1e6:,.0f} MB, more than is free of the {there / 1e6:,.0f} MB of the "
            "device; set `train.method: qlora`, or take a smaller model"
        ) from error


def _refuse_unfitting(model: Any, tokenizer: Any, facts: dict[str, Any], base: str) -> None:
    if len(tokenizer) > (embedded := model.get_input_embeddings().num_embeddings):
        raise StageError(
            f"{base}: the tokenizer has {len(tokenizer)} tokens, and the model knows {embedded}. Put the tokenizer "
            "there that the model was trained with, or save the model with resized embeddings "
            "(`resize_token_embeddings`)"
        )
    if facts["longest"] > (positions := positions_of(model.config) or facts["longest"]):
        raise StageError(
            f"{base}: the longest row has {facts['longest']} tokens, and the model {positions} positions; set "
            f"`tokenize.max_length` to {positions} or less"
        )
    if name := not_finite_weight(model):
        raise StageError(f"{base}: the weight {name} holds values that are no finite numbers: {not_finite('')}")


@contextmanager
def _exact_products() -> Iterator[None]:
    """IEEE's fp32 inside, also where a training in TF32 is to come."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _padding(model: Any, documents: list[np.ndarray], pad: int, method: str) -> dict[str, float]:
    """The loss must depend neither on the batch nor on the side of its padding; in fp32, with its own attention."""
    model.eval()
    with attention.plain(model):
        found = padding_difference(model, documents, pad)
    kind = model.config.model_type
    for side, difference in found.items():
        if math.isnan(difference):
            raise StageError(f"the model has losses that are no finite numbers: {not_finite('')}")
        if difference > (PADDED_ROUGH if method == "qlora" else PADDED_EXACT):
            raise StageError(
                f"the model's loss depends on padding ({side}): that of a token differs by {difference:.2g} nats from "
                f"that of its row alone. The code of this {kind} does not use the attention mask and the positions "
                "that it is given, so no score would be right; take another `model.base`"
            )
    return {side: round(difference, 7) for side, difference in found.items()}


def _attention(
    model: Any, documents: list[np.ndarray], settings: dict[str, Any], device: torch.device, precision: str
) -> tuple[str, dict[str, float]]:
    """The first path that gives the losses of each document alone in the plain model; the differences of all tried."""
    wanted, packed = settings["attention"], settings["batching"] == "packed"
    kind = model.config.model_type
    offered = attention.candidates(model, device, precision)
    if wanted != "auto" and wanted not in offered:
        raise StageError(
            f"`train.attention: {wanted}` is not there for a {kind} model in {precision} on {device.type}, with "
            f"attention dropout {attention.dropout(model):g}; there is {', '.join(offered)}. Set `auto`"
        )
    in_fp32 = attention.candidates(model, device, "fp32")
    found: dict[str, float] = {}
    for path in offered if wanted == "auto" else [wanted]:
        tried_in = "fp32" if path in in_fp32 else precision  # a kernel of half precision
        difference = attention.agrees(model, path, documents, device, tried_in, packed)
        allowed = EXACT
        if settings["method"] == "qlora" or tried_in != "fp32":
            plainly = next(path for path in in_fp32 if attention.layout(path) == "rows")
            allowed = max(ROUGH, 3 * attention.agrees(model, plainly, documents, device, tried_in, False))
        found[path] = round(difference, 7)
        if difference <= allowed:
            return path, found
    differences = ", ".join(f"{path} {difference:.2g}" for path, difference in found.items())
    mend = ["set `train.attention: auto`"] if len(offered) > len(found) else []
    if packed:
        raise StageError(
            f"the model ({kind}) does not keep packed rows apart: the loss of a token differs from that of its row "
            f"alone by up to (nats) {differences}; {' or '.join(['set `train.batching: length_grouped`', *mend])}"
        )
    raise StageError(
        f"the model ({kind}) computes another loss in a batch than alone, by up to (nats) {differences}; "
        f"{' or '.join([*mend, 'take another `model.base`'])}"
    )


def _compiles(settings: dict[str, Any], device: torch.device, facts: dict[str, Any]) -> bool:
    if settings["compile"] == "auto":
        return device.type == "cuda" and facts["steps"] >= COMPILED_FROM and settings["batching"] == "packed"
    return settings["compile"]


def _most(settings: dict[str, Any], device: torch.device, facts: dict[str, Any]) -> int:
    """Sequences in a pass of a process, before memory is tried."""
    share = -(-settings["batch_size"] // world_size(settings))
    if settings["gradient_accumulation"] != "auto":
        return -(-share // settings["gradient_accumulation"])
    if memory.is_sharded(settings):
        return 1
    if device.type == "cpu":
        tokens = facts["width"] if settings["batching"] == "packed" else facts["longest"]
        return min(share, max(1, CPU_TOKENS // tokens))
    return share


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _run_seconds(trial: Trial, settings: dict[str, Any], facts: dict[str, Any]) -> float | None:
    """What the plan's steps will take, in as many processes as there are."""
    if trial.step is None:
        return None
    return round(facts["tokens"] / trial.step["tokens_per_second"] / world_size(settings), 3)


def _sentence(trial: Trial, found: dict[str, Any], settings: dict[str, Any], device: torch.device) -> str:
    """The numbers that a person wants to see before a training."""
    how, step, needed = trial.how, trial.step, found["memory_mb"]
    words = f"{how.precision} on {device.type}, {how.attention} attention" + ", compiled" * how.compile
    guess = f"about {needed['estimate']:,.0f} MB" + " and activations" * (needed["activations"] is None)
    if step is None:
        each = f"each of {world_size(settings)} processes will need {guess} of {needed['device']:,.0f}"
        return f"{words}, {how.pass_blocks} sequences in a pass; {each} (no step was tried: none holds the whole model)"
    passes = f" in {step['passes']} passes of at most {how.pass_blocks} sequences" if step["passes"] > 1 else ""
    return (
        f"{words}; the heaviest step, {step['tokens']:,} tokens{passes}, takes {step['seconds']:.2f} s and "
        f"{needed['peak']:,.0f} MB of {needed['device']:,.0f} ({guess} by count); all steps about "
        f"{_duration(found['run_seconds'])}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


if __name__ == "__main__":
    run(
        lambda job: preflight(
            str(Path(job.input.states[0]).parent),
            job.input.plan,
            job.input.about,
            job.params.base,
            job.output.preflight,
            job.params.settings,
            gpus=job.resources.get("gpu", 0),
            threads=job.threads,
        ),
        snakemake,
    )
