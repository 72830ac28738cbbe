"""The configuration's section `train`: what learns, by which course, and on which hardware."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from snaketune.optimizer_names import OPTIMIZERS
from snaketune.sections import Section, Strings


class Freeze(Section):
    """Of `method: freeze`: what keeps the base's weights. What is not named here learns."""

    first: int = Field(0, ge=0, description="So many blocks, from the first on, are frozen.")
    last: int | None = Field(None, ge=1, description="Only so many blocks, the last ones, learn; excludes `first`.")
    embeddings: bool = Field(False, description="Token and position embeddings are frozen, and a head tied to them.")
    patterns: Strings = Field(
        [], description="Regular expressions on the names of weights.", examples=[[r"\.ln_\d\.", "wpe"]]
    )
    gradual: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Gradual unfreezing: the last block learns first, and after this share of the training all do.",
    )

    @field_validator("patterns")
    @classmethod
    def compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is no regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def one_side(self) -> Freeze:
        if self.first and self.last is not None:
            raise ValueError("`first` and `last` exclude each other: remove one")
        return self


class Lora(Section):
    """Of `method: lora` and `qlora`: small matrices beside the frozen weights. The published model has them merged."""

    variant: Literal["lora", "rslora", "dora", "pissa"] = Field("lora", description="Which kind of adapter.")
    rank: int = Field(8, ge=1, description="Rank of the matrices.")
    alpha: float = Field(16, gt=0, description="Scale: alpha / rank, or alpha / sqrt(rank) for `rslora`.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    targets: Literal["auto"] | Strings = Field(
        "auto", description="Names of the adapted layers; `auto`: all linear ones in the blocks."
    )
    save_adapter: bool = Field(False, description="Save the adapter by itself too, in model/adapter/.")


class Plateau(Section):
    """Of `scheduler: reduce_on_plateau`: the learning rate falls when the validation loss does not."""

    factor: float = Field(0.5, gt=0, lt=1, description="The learning rate is multiplied by this.")
    patience: int = Field(1, ge=0, description="Evaluations without a better loss that are let pass.")
    threshold: float = Field(1e-4, ge=0, description="Better means lower by this share.")


class Average(Section):
    """An average of the weights over the training is evaluated and kept instead of the last ones."""

    kind: Literal["none", "ema", "swa"] = Field("none", description="Exponential or plain (SWA) average; or none.")
    decay: float = Field(0.999, gt=0, lt=1, description="Of `ema`: weight of the past at each step.")
    start: float = Field(0.75, ge=0, lt=1, description="Of `swa`: the share of the training after which it begins.")


class Train(Section):
    """How the model learns."""

    method: Literal["full", "freeze", "features", "lora", "qlora"] = Field(
        "full", description="What learns: all weights; some of them; only the last part; adapters (on 4-bit weights)."
    )
    freeze: Freeze = Field(default_factory=Freeze, description=Freeze.__doc__)
    features: Literal["head", "last_block"] = Field(
        "head", description="Of `method: features`: what learns on top of the base as it is."
    )
    lora: Lora = Field(default_factory=Lora, description=Lora.__doc__)
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Of the order of rows, dropout and new weights; null: the run's `seed`."
    )
    epochs: float = Field(3, gt=0, description="Passes over the train split.")
    max_steps: int | None = Field(None, ge=1, description="So many steps, whatever `epochs` says.")
    optimizer: Literal[OPTIMIZERS] = Field(  # type: ignore[valid-type]
        "adamw_torch_fused", description="By the names of the Trainer of transformers."
    )
    optimizer_args: dict[str, float | bool | str] = Field(
        {}, description="What else the optimizer takes.", examples=[{"beta2": 0.95}]
    )
    learning_rate: float = Field(5e-5, gt=0, lt=1, description="Peak learning rate.")
    scheduler: Literal[
        "linear", "cosine", "constant", "polynomial", "inverse_sqrt", "warmup_stable_decay", "reduce_on_plateau"
    ] = Field("linear", description="Course of the learning rate after the warm-up.")
    warmup: float = Field(0.05, ge=0, description="Warm-up: a share of all steps if below 1, else steps.")
    min_learning_rate: float = Field(0.0, ge=0, lt=1, description="Where the course ends: a share of the peak.")
    decay: float = Field(0.2, gt=0, le=1, description="Of `warmup_stable_decay`: the share of the steps that decay.")
    power: float = Field(1.0, gt=0, description="Of `polynomial`.")
    plateau: Plateau = Field(default_factory=Plateau, description=Plateau.__doc__)
    weight_decay: float = Field(0.01, ge=0, description="Weight decay; never on biases and norms.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target that is spread over all tokens.")
    neftune_alpha: float | None = Field(None, gt=0, description="NEFTune: noise on the embeddings; 5 is usual.")
    average: Average = Field(default_factory=Average, description=Average.__doc__)
    batching: Literal["packed", "length_grouped", "padded"] = Field(
        "packed",
        description=(
            "What a sequence is: several rows in a block of `max_length`, isolated from each other; or one row, in "
            "steps of rows of like length, or of any length."
        ),
    )
    batch_size: int = Field(8, ge=1, description="Sequences in a step, over all passes and processes.")
    gradient_accumulation: Literal["auto"] | int = Field(
        "auto", description="Passes in which a step is computed; `auto`: as few as fit into memory."
    )
    loss_on: Literal["completion", "all"] = Field("completion", description="Which tokens the loss counts.")
    precision: Literal["auto", "bf16", "fp16", "tf32", "fp32"] = Field(
        "auto", description="`auto`: bf16 where the device computes it, else fp16 on a GPU and fp32 on a CPU."
    )
    attention: Literal["auto", "varlen", "sdpa", "eager"] = Field(
        "auto", description="How attention is computed; `auto`: the fastest way that gives what the plain one gives."
    )
    attention_dropout: float | None = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout of the attention weights; above 0 slow on a GPU. Empty: the base's own (GPT-2: 0.1).",
    )
    compile: Literal["auto"] | bool = Field("auto", description="torch.compile; `auto`: on a GPU, from 200 steps on.")
    gradient_checkpointing: bool = Field(False, description="Compute blocks twice to save memory.")
    deterministic: bool = Field(False, description="Deterministic kernels on a GPU, slower; a CPU's always are.")
    devices: int = Field(1, ge=1, description="Processes on each node; on GPUs, one GPU each.")
    nodes: int = Field(1, ge=1, description="Machines that train together; more than one under Slurm only.")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="Each process holds the whole model, or a part of it (FSDP2)."
    )
    evaluations: int = Field(6, ge=1, description="How often the validation split is scored and a checkpoint kept.")
    checkpoint_minutes: float = Field(15, gt=0, description="A checkpoint is also kept whenever so long went by.")
    early_stopping: int | None = Field(
        3, ge=1, description="Stop after so many evaluations without a better validation loss; empty: never."
    )
    early_stopping_delta: float = Field(0.0, ge=0, description="Better means lower by more than this (nats).")
    samples: int = Field(3, ge=0, description="Validation rows answered at each evaluation, beside the base's answer.")
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        ["tensorboard"], description="Who is told the course. TensorBoard reads logs/<run>/tensorboard/."
    )

    @model_validator(mode="before")
    @classmethod
    def passes(cls, given: Any) -> Any:
        passes = given.get("gradient_accumulation") if isinstance(given, dict) else None
        if isinstance(passes, int) and passes < 1:
            raise ValueError("`gradient_accumulation` must be `auto` or 1 and more")
        return given

    @model_validator(mode="after")
    def fitting(self) -> Train:
        if isinstance(self.gradient_accumulation, int) and self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"`batch_size` ({self.batch_size}) is what a step holds, over all passes: it must be a multiple of "
                f"`gradient_accumulation` ({self.gradient_accumulation})"
            )
        if self.freeze.gradual is not None and self.parallel == "fsdp" and self.devices * self.nodes > 1:
            raise ValueError("`freeze.gradual` does not go with `parallel: fsdp`; set `ddp`")
        if self.method == "qlora" and self.parallel == "fsdp" and self.devices * self.nodes > 1:
            raise ValueError("`method: qlora` does not go with `parallel: fsdp`; set `ddp`, or `method: lora`")
        return self
