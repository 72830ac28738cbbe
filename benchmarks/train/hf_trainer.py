"""transformers' Trainer on the same rows, padded to the longest of a batch, as run_clm and most scripts have it.

At its best: the fused AdamW that is its default, no log, no checkpoint, no evaluation on the clock; on a GPU lengths in
multiples of 8. `--grouped`: with its own sampler of rows of like length; `--compile`: with torch.compile.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from setting import Meter, Setting, options, validation_loss
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback
from transformers import TrainingArguments as Arguments
from transformers.utils import is_flash_attn_2_available

from snaketune.model.flops import training_flops


def lengths_of(inputs: dict[str, Any]) -> torch.Tensor:
    """The lengths of the documents of a batch, [d], without waiting for a GPU if there is a mask."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].sum(1)
    return inputs["cu_seq_lens_q"].diff()


def counting(kind: type[Trainer], meter: Meter) -> type[Trainer]:
    """A Trainer that tells the meter of each pass, before it computes it."""

    class Counting(kind):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> torch.Tensor:
            meter.saw(lengths_of(inputs), (inputs["labels"][:, 1:] != -100).sum())
            return super().training_step(model, inputs, *arguments, **named)

    return Counting


class Timing(TrainerCallback):
    """The meter's clock, and where a validation loss ends the training, that too."""

    def __init__(self, meter: Meter, model: Any) -> None:
        self.meter, self.model = meter, model

    def on_train_begin(self, arguments: Any, state: Any, control: Any, **more: Any) -> None:
        """Before the first step."""
        self.meter.start()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **more: Any) -> None:
        """After each step."""
        meter = self.meter
        meter.step_done()
        if meter.due():
            with meter.aside():
                loss = validation_loss(self.model, meter.setting, meter.precision)
            control.should_training_stop = meter.reached(loss)


def loaded(setting: Setting) -> tuple[Any, Any]:
    """The model in fp32 with the fastest attention that it offers here, and the tokenizer."""
    torch.set_num_threads(setting.threads)
    flash = setting.device == "cuda" and is_flash_attn_2_available()
    model = AutoModelForCausalLM.from_pretrained(
        setting.model, dtype=torch.float32, attn_implementation="flash_attention_2" if flash else "sdpa"
    )
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def arguments_of(setting: Setting, meter: Meter, place: str) -> dict[str, Any]:
    """The arguments that both trainers share."""
    return {
        "output_dir": place,
        "max_steps": meter.last,
        "per_device_train_batch_size": setting.batch_size,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": setting.weight_decay,
        "max_grad_norm": setting.max_grad_norm,
        "seed": setting.seed,
        "use_cpu": setting.device == "cpu",
        "bf16": meter.precision == "bf16",
        "activation_checkpointing": False,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,  # it would wait for the GPU at each step
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_num_workers": 0 if setting.device == "cpu" else 2,  # two threads compute; a third would take turns
    }


def finish(trainer: Trainer, meter: Meter, name: str, model: Any) -> None:
    """Train, and print what was measured."""
    trainer.add_callback(Timing(meter, model))
    flops = training_flops(model)
    trainer.train()
    meter.stop()
    meter.reached(validation_loss(model, meter.setting, meter.precision))
    meter.report(name, flops, attention=model.config._attn_implementation)


def main() -> None:
    """Train, and print what was measured."""
    parser = options(__doc__ or "")
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    setting = Setting.of(given.folder)
    meter = Meter(setting, given.precision)
    model, tokenizer = loaded(setting)
    with tempfile.TemporaryDirectory() as place:
        arguments = Arguments(
            **arguments_of(setting, meter, place),
            train_sampling_strategy="group_by_length" if given.grouped else "random",
            torch_compile=given.compile,
        )
        trainer = counting(Trainer, meter)(
            model=model,
            args=arguments,
            train_dataset=setting.examples("train"),
            data_collator=DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8 if setting.device == "cuda" else None),
        )
        name = "Trainer" + ", grouped by length" * given.grouped + ", compiled" * given.compile
        finish(trainer, meter, name, model)


if __name__ == "__main__":
    main()
