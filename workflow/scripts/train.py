"""Token ids and a base model in, a tuned model out: the best checkpoint by validation loss.

In:  tokens/{train,validation}/ and their manifests, the folder of the base model
Out: model/{config.json, model.safetensors, tokenizer files}, train/history.jsonl, train/summary.json

Transformers' Trainer runs the loop; snaketune.model.trainer replaces what it gets wrong: the loss, its average and the
evaluation.

Work in progress stands in results/.store/<fingerprint>/, outside every declared output, because Snakemake deletes
those when a job starts or fails. The fingerprint covers data, base, settings, code and the libraries that compute:
an interrupted training goes on from its last checkpoint, a finished one is handed back at once, and anything else
starts afresh.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments, set_seed

from snaketune.job import StageError, run, say
from snaketune.model.batches import Rows, collate, group_by_length, pack
from snaketune.model.lm import device_of, isolates, load_model, load_tokenizer, precision_of
from snaketune.model.trainer import Block, CausalTrainer, Finite, Items, Live

KEPT_MODELS = 5


def train(
    tokens: dict[str, str],
    base: str,
    outputs: dict[str, str],
    store: Path,
    settings: dict[str, Any],
    *,
    gpus: int,
    threads: int,
) -> str:
    """Train, or hand back what the same fingerprint gave before.

    tokens: the folders `train` and `validation`; outputs: the files `config` (in the model's folder), `history` and
    `summary`; store: a folder named by the fingerprint.
    """
    torch.set_num_threads(threads)
    done = store / "done"
    again = done.exists()
    if not again:
        _train(tokens, base, store, settings, device_of(gpus))
    shutil.rmtree(store / "checkpoints", ignore_errors=True)
    os.utime(store)
    model = Path(outputs["config"]).parent
    model.mkdir(parents=True, exist_ok=True)
    for file in (done / "model").iterdir():
        shutil.copyfile(file, model / file.name)
    shutil.copyfile(done / "history.jsonl", outputs["history"])
    shutil.copyfile(done / "summary.json", outputs["summary"])
    _prune(store.parent)
    facts = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    perplexity = math.exp(min(facts["best_eval_loss"], 700))
    sentence = f"validation perplexity {perplexity:,.2f} at step {facts['best_step']:,} of {facts['steps']:,}"
    return f"{sentence} (from the store: trained before)" if again else sentence


def fingerprint(parts: dict[str, Any], files: Iterable[str]) -> str:
    """32 hex digits for everything that decides the result: settings and counts, contents of files, libraries."""
    digest = sha256(json.dumps(parts, sort_keys=True).encode())
    for name in ("torch", "transformers", "accelerate"):
        digest.update(f"{name}={version(name)}\n".encode())
    for path in sorted(files, key=lambda path: Path(path).name):
        with open(path, "rb") as file:
            digest.update(Path(path).name.encode() + file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _train(tokens: dict[str, str], base: str, store: Path, settings: dict[str, Any], device: torch.device) -> None:
    set_seed(settings["seed"])
    model = load_model(base, settings["trust_remote_code"])
    tokenizer = load_tokenizer(base, settings["trust_remote_code"])
    if len(tokenizer) > (embedded := model.get_input_embeddings().num_embeddings):
        raise StageError(f"{base}: the tokenizer has {len(tokenizer)} tokens, and the model knows {embedded}")
    apart = isolates(model)
    if settings["batching"] == "packed" and not apart:
        kind = model.config.model_type
        raise StageError(f"a {kind} model does not keep packed rows apart; set `train.batching: length_grouped`")
    rows = {name: Rows(folder) for name, folder in tokens.items()}
    plan = _plan(rows["train"].lengths, settings)
    held = _plan(rows["validation"].lengths, settings | {"batching": "packed" if apart else "length_grouped"})
    pad = tokenizer.eos_token_id

    def batch(name: str, items: list[list[Block]]) -> dict[str, torch.Tensor]:
        blocks = [block for item in items for block in item]
        return collate(blocks, rows[name], rows[name].prompt_lengths, settings["loss_on"], pad)

    size = settings["batch_size"]
    size = size if apart else 1  # an item is a whole batch then
    validation = [batch("validation", held[start : start + size]) for start in range(0, len(held), size)]
    if not any((part["labels"] >= 0).any() for part in validation):
        raise StageError("the validation split has no token to learn; see tokens/validation.json")
    precision = precision_of(settings["precision"], device)
    arguments, steps = _arguments(settings, len(plan), precision, device, store / "checkpoints")
    callbacks: list[TrainerCallback] = [Finite(), Live(int(rows["train"].lengths.sum()))]
    if settings["early_stopping"]:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings["early_stopping"]))
    trainer = CausalTrainer(
        model=model,
        args=arguments,
        train_dataset=Items(plan),
        eval_dataset=Items(held),
        data_collator=lambda items: batch("train", items),
        callbacks=callbacks,
        precision=precision,
        validation=validation,
        processing_class=tokenizer,
    )
    parameters = sum(p.numel() for p in model.parameters())
    say(f"  {parameters / 1e6:,.1f} M parameters, {steps:,} steps, {precision} on {device.type}")
    checkpoint = _last_checkpoint(store / "checkpoints")
    if checkpoint and _ended(checkpoint):  # what the Trainer would not notice: it would take another step
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        trainer._load_best_model()
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _finish(trainer, tokenizer, store, settings, plan=plan, rows=rows["train"])


def _plan(lengths: Any, settings: dict[str, Any]) -> list[list[Block]]:
    """The items of an epoch: a packed block each, or a whole batch of rows of like length each."""
    if settings["batching"] == "length_grouped":
        return group_by_length(lengths, settings["batch_size"])
    return [[block] for block in pack(lengths, settings["max_length"])]


def _arguments(
    settings: dict[str, Any], items: int, precision: str, device: torch.device, folder: Path
) -> tuple[TrainingArguments, int]:
    per_pass = settings["batch_size"] if settings["batching"] == "packed" else 1
    per_epoch = math.ceil(math.ceil(items / per_pass) / settings["gradient_accumulation"])
    steps = settings["max_steps"] or math.ceil(per_epoch * settings["epochs"])
    interval = max(1, steps // settings["evaluations"])
    logging = max(1, interval // max(1, 100 // settings["evaluations"]))
    interval -= interval % logging  # so that no logged mean reaches over a checkpoint: a resumed one would differ
    scheduler = {"constant": "constant_with_warmup"}.get(settings["scheduler"], settings["scheduler"])
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=settings["gradient_accumulation"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=scheduler,
        warmup_steps=settings["warmup"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        seed=settings["seed"],
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_steps=logging,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    if device.type == "cuda":
        arguments._n_gpu = 1  # several visible GPUs would otherwise be used through DataParallel
    return arguments, steps


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: one that was cut off lacks trainer_state.json, which is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            whole = Path(state["best_model_checkpoint"]).is_dir()  # without it, the last model would pass for the best
        except (OSError, ValueError, TypeError, KeyError):
            whole = False
        if whole:
            say(f"  goes on from step {checkpoint.name.rpartition('-')[2]}")
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _ended(checkpoint: Path) -> bool:
    """Whether the training had come to its end, last step or early stopping, when this checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]


def _finish(
    trainer: CausalTrainer,
    tokenizer: Any,
    store: Path,
    settings: dict[str, Any],
    *,
    plan: list[list[Block]],
    rows: Rows,
) -> None:
    """Write the best model, the history and the summary; they become visible in one rename."""
    part = store / "part"
    shutil.rmtree(part, ignore_errors=True)
    model, state = trainer.model, trainer.state
    model.to(getattr(torch, settings["save_dtype"]))
    model.config.use_cache = True
    model.save_pretrained(part / "model", max_shard_size="1TB")
    tokenizer.save_pretrained(part / "model")
    history = [line for line in state.log_history if "loss" in line or "eval_loss" in line]
    lines = [json.dumps(line, sort_keys=True) for line in history]
    (part / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    blocks = [block for item in plan for block in item]
    width = settings["max_length"] if settings["batching"] == "packed" else None
    room = sum(width or max(rows.lengths[row] for item_row in item for row in item_row) * len(item) for item in plan)
    summary = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": round(state.epoch, 4),
        "best_step": state.best_global_step,
        "best_eval_loss": state.best_metric,
        "stopped": "finished" if state.global_step >= state.max_steps else "early",
        "precision": trainer.precision,
        "tokens_per_step": round(float(rows.lengths.sum()) * state.epoch / state.global_step, 1),
        "blocks": len(blocks),
        "packing_efficiency": round(float(rows.lengths.sum()) / float(room), 4),
        "fingerprint": store.name,
    }
    (part / "summary.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.rename(store / "done")
    shutil.rmtree(store / "checkpoints", ignore_errors=True)


def _prune(stores: Path) -> None:
    """Keep the models that were used last; a training that is still under way is not touched."""
    finished = [path for path in stores.iterdir() if (path / "done").exists()]
    for old in sorted(finished, key=lambda path: path.stat().st_mtime)[:-KEPT_MODELS]:
        shutil.rmtree(old)


def _from_job(job: Any) -> str:
    settings = job.params.settings
    counts = {name: json.loads(Path(job.input[name]).read_text(encoding="utf-8")) for name in ("train", "validation")}
    settings = settings | {"max_length": max(count["max_length"] for count in counts.values())}
    hashes = {name: count["sha256"] for name, count in counts.items()}
    gpus = job.resources.get("gpu", 0)
    computed = precision_of(settings["precision"], device_of(gpus))
    scripts = [path for path in job.input.code if path.endswith(".py")]
    parts = {"settings": settings, "tokens": hashes, "precision": computed}
    name = fingerprint(parts, [*job.input.base, *scripts])
    folders = {name: str(Path(state).parent) for name, state in zip(counts, job.input.states, strict=True)}
    store = Path(job.params.store) / name
    store.mkdir(parents=True, exist_ok=True)
    outputs = {name: job.output[name] for name in ("config", "history", "summary")}
    return train(folders, job.params.base, outputs, store, settings, gpus=gpus, threads=job.threads)


if __name__ == "__main__":
    run(_from_job, snakemake)
