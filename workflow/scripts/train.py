"""Token ids and a base model in, a tuned model out: the best checkpoint by validation loss.

In:  tokens/{train,validation}/ and their manifests, the folder of the base model
Out: model/{config.json, model.safetensors, tokenizer files}, train/history.jsonl, train/summary.json

Transformers' Trainer runs the loop; what it gets wrong is replaced: the loss (snaketune.lm), its average (over the
trained tokens of the whole step) and the evaluation (over all tokens of the validation split).

Work in progress stands in results/.store/<fingerprint>/, outside every declared output, because Snakemake deletes
those when a job starts or fails. The fingerprint covers data, base, settings, code and the libraries that compute:
an interrupted training goes on from its last checkpoint, a finished one is handed back at once, and anything else
starts afresh.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterable
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from snaketune.batches import Rows, collate, group_by_length, pack
from snaketune.job import StageError, interactive, run, say
from snaketune.lm import device_of, load_model, load_tokenizer, precision_of, token_losses
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

KEPT_MODELS = 5
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Block = list[int]


def train(
    tokens: dict[str, str],
    base: str,
    outputs: dict[str, str],
    store: Path,
    settings: dict[str, Any],
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


class Items(torch.utils.data.Dataset):
    """What the Trainer shuffles: each item is one or several blocks of row numbers."""

    def __init__(self, items: list[list[Block]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> list[Block]:
        return self.items[number]


class CausalTrainer(Trainer):
    """The Trainer with a loss over the trained tokens of the whole step, and an exact evaluation."""

    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, precision: str, validation: list[dict[str, torch.Tensor]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that num_items_in_batch counts the trained tokens of the step
        self.precision = precision
        self.validation = validation

    def _losses(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.args.device
        on = self.precision != "fp32"
        with torch.autocast(device.type, DTYPES[self.precision] if on else None, enabled=on):
            nll, hit, _ = token_losses(model, **{name: tensor.to(device) for name, tensor in inputs.items()})
        return nll, hit

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The mean loss (nats) of a trained token, over all forward passes of the step."""
        nll, _ = self._losses(model, inputs)
        return nll.sum() / (num_items_in_batch if num_items_in_batch is not None else len(nll))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and accuracy over every trained token of the validation split."""
        self.model.eval()
        total, hits, tokens = 0.0, 0, 0
        with torch.no_grad():
            for batch in self.validation:
                nll, hit = self._losses(self.model, batch)
                total += nll.double().sum().item()
                hits += int(hit.sum())
                tokens += len(nll)
        self.model.train()
        metrics = {"eval_loss": total / tokens, "eval_accuracy": hits / tokens, "eval_tokens": tokens}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Live(TrainerCallback):
    """The line that a person watches, and an evaluation at the very last step."""

    def __init__(self, tokens_per_epoch: int) -> None:
        self.tokens_per_epoch = tokens_per_epoch
        self.validation = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first_step, self.first_epoch = time.perf_counter(), state.global_step, state.epoch or 0.0
        self.shown = self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "eval_loss" in (logs := logs or {}):
            self.validation = f"  validation {logs['eval_loss']:.3f}"
        now = time.perf_counter()
        pause = 1 if interactive() else 15
        if "loss" not in logs or now - self.shown < pause:
            return
        self.shown = now
        seconds = now - self.started
        speed = (state.epoch - self.first_epoch) * self.tokens_per_epoch / seconds
        left = seconds / max(1, state.global_step - self.first_step) * (state.max_steps - state.global_step)
        line = (
            f"  step {state.global_step:,}/{state.max_steps:,}  loss {logs['loss']:.3f}{self.validation}"
            f"  {speed:,.0f} tokens/s  {int(left // 60)}:{int(left % 60):02d} left"
        )
        say(f"\r\033[K{line}" if interactive() else line, end="" if interactive() else "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if interactive():
            say("\r\033[K", end="")


def _train(tokens: dict[str, str], base: str, store: Path, settings: dict[str, Any], device: torch.device) -> None:
    set_seed(settings["seed"])
    model = load_model(base, settings["trust_remote_code"])
    tokenizer = load_tokenizer(base, settings["trust_remote_code"])
    rows = {name: Rows(folder) for name, folder in tokens.items()}
    plan = _plan(rows["train"].lengths, settings)
    held = _plan(rows["validation"].lengths, settings | {"batching": "packed"})
    pad = tokenizer.eos_token_id

    def batch(name: str, items: list[list[Block]]) -> dict[str, torch.Tensor]:
        blocks = [block for item in items for block in item]
        return collate(blocks, rows[name], rows[name].prompt_lengths, settings["loss_on"], pad)

    size = settings["batch_size"]
    validation = [batch("validation", held[start : start + size]) for start in range(0, len(held), size)]
    if not any((part["labels"] >= 0).any() for part in validation):
        raise StageError("the validation split has no token to learn; see tokens/validation.json")
    precision = precision_of(settings["precision"], device)
    arguments, steps = _arguments(settings, len(plan), precision, device, store / "checkpoints")
    live = Live(int(rows["train"].lengths.sum()))
    callbacks: list[TrainerCallback] = [live]
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
    trainer.train(resume_from_checkpoint=_last_checkpoint(store / "checkpoints"))
    _finish(trainer, tokenizer, store, settings, plan, rows["train"])


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
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    if device.type == "cuda":
        arguments._n_gpu = 1  # several visible GPUs would otherwise be used through DataParallel
    return arguments, steps


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; one that was cut off while being written has no readable trainer_state.json."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(checkpoint)
            continue
        say(f"  goes on from step {checkpoint.name.rpartition('-')[2]}")
        return str(checkpoint)
    return None


def _finish(
    trainer: CausalTrainer, tokenizer: Any, store: Path, settings: dict[str, Any], plan: list[list[Block]], rows: Rows
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
    name = fingerprint({"settings": settings, "tokens": hashes}, [*job.input.base, *job.input.code])
    folders = {name: str(Path(job.input[name]).with_suffix("")) for name in counts}
    store = Path(job.params.store) / name
    store.mkdir(parents=True, exist_ok=True)
    outputs = {name: job.output[name] for name in ("config", "history", "summary")}
    return train(folders, job.params.base, outputs, store, settings, job.resources.get("gpu", 0), job.threads)


if __name__ == "__main__":
    run(_from_job, snakemake)
