"""The configuration's schema: one typed model per section, the only source of defaults, checks and documentation.

Everything that a user can set is declared once, here and in the schema_*.py beside it. `config/README.md` and the JSON
schema for editors are generated from these models (`make docs`), and a test fails when they drift. snaketune.config
holds a user's file against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from snaketune.schema_clean import Clean
from snaketune.schema_data import Annotate, Augmentation, Decontaminate, Dedup, Leaks, Split, Tokenize
from snaketune.schema_eval import Check, Compare, Errors, Generate, Judge, Likelihood, Probes, Publish, Report, Score
from snaketune.schema_source import Source
from snaketune.schema_train import Train
from snaketune.schema_tune import Tune
from snaketune.sections import Section

NAME = r"^[a-z0-9][a-z0-9._-]*$"


class FromScratch(Section):
    """A new model of the GPT-2 architecture with a new byte-level BPE, instead of a pretrained base."""

    vocab_size: int = Field(6144, ge=257, description="Tokens of the byte-level BPE, trained on the train split.")
    n_positions: int = Field(512, ge=8, description="Longest sequence (tokens).")
    n_layer: int = Field(4, ge=1, description="Transformer blocks.")
    n_head: int = Field(4, ge=1, description="Attention heads.")
    n_embd: int = Field(256, ge=4, description="Width of the hidden state.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embeddings and residuals.")
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout of attention weights; above 0 it doubles the time of a step on a CPU."
    )

    @model_validator(mode="after")
    def divisible(self) -> FromScratch:
        if self.n_embd % self.n_head:
            raise ValueError(f"`n_embd` ({self.n_embd}) must be a multiple of `n_head` ({self.n_head})")
        return self


class OfRun(Section):
    """The model that another run of this configuration makes: training in a chain."""

    run: str = Field(..., pattern=NAME, description="The run or variant.")


class Model(Section):
    """The model that is tuned."""

    base: str | OfRun | None = Field(
        None,
        description=(
            "A folder, a model of the Hugging Face Hub (`name@commit` has its revision too), or `{run: name}`: what "
            "another run here has made."
        ),
        examples=["openai-community/gpt2"],
    )
    revision: str | None = Field(None, description="The commit of the Hub model; required for a model of the Hub.")
    from_scratch: FromScratch | None = Field(None, description="Train a new small model instead of tuning a base.")
    trust_remote_code: bool = Field(False, description="Run Python code that the Hub model brings. Read it first.")
    save_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of the saved weights; the scores are those of the saved weights."
    )

    @model_validator(mode="before")
    @classmethod
    def pinned(cls, given: Any) -> Any:
        base = given.get("base") if isinstance(given, dict) else None
        if isinstance(base, str) and "@" in base and not Path(base).is_dir():
            name, _, revision = base.rpartition("@")
            return given | {"base": name, "revision": revision}
        return given

    @model_validator(mode="after")
    def one_base(self) -> Model:
        if self.base and self.from_scratch:
            raise ValueError("`base` and `from_scratch` exclude each other: remove one")
        if not self.base and not self.from_scratch:
            raise ValueError("name a `base` (a folder or a model of the Hub), or set `from_scratch`")
        return self


class Store(Section):
    """Finished trainings and checkpoints, in results/.store/: what was trained before is handed back in a second."""

    limit_gb: float = Field(20, gt=0, description="Beyond this, what was used longest ago is removed after a run.")


class Config(Section):
    """A run: from raw rows to a scored model."""

    run: str = Field(
        ..., pattern=NAME, description="Name of the run: its results stand in results/<run>/.", examples=["aclsum"]
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of the split, the training, the decoding, the bootstrap.")
    source: Source = Field(..., description=Source.__doc__)
    clean: Clean = Field(default_factory=Clean, description=Clean.__doc__)
    dedup: Dedup = Field(default_factory=Dedup, description=Dedup.__doc__)
    decontaminate: Decontaminate = Field(default_factory=Decontaminate, description=Decontaminate.__doc__)
    split: Split = Field(default_factory=Split, description=Split.__doc__)
    leaks: Leaks = Field(default_factory=Leaks, description=Leaks.__doc__)
    augment: list[Augmentation] = Field([], description="Further train rows made of the train rows; none by default.")
    annotate: Annotate = Field(default_factory=Annotate, description=Annotate.__doc__)
    tokenize: Tokenize = Field(default_factory=Tokenize, description=Tokenize.__doc__)
    model: Model = Field(..., description=Model.__doc__)
    train: Train = Field(default_factory=Train, description=Train.__doc__)
    likelihood: Likelihood = Field(default_factory=Likelihood, description=Likelihood.__doc__)
    generate: Generate = Field(default_factory=Generate, description=Generate.__doc__)
    score: Score = Field(default_factory=Score, description=Score.__doc__)
    probes: Probes = Field(default_factory=Probes, description=Probes.__doc__)
    compare: Compare = Field(default_factory=Compare, description=Compare.__doc__)
    checks: dict[str, Check] = Field(
        {},
        description="Bounds by metric (a name of metrics.json): a run that breaks one fails, after its report is made.",
        examples=[{"perplexity": {"max": 60}, "general_perplexity": {"max_delta": 5, "certain": True}}],
    )
    errors: Errors = Field(default_factory=Errors, description=Errors.__doc__)
    judge: Judge = Field(default_factory=Judge, description=Judge.__doc__)
    report: Report = Field(default_factory=Report, description=Report.__doc__)
    publish: Publish = Field(default_factory=Publish, description=Publish.__doc__)
    store: Store = Field(default_factory=Store, description=Store.__doc__)
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        [],
        description="Train once more with each of these seeds, as runs <run>-seed-<s>; the report has their spread.",
        examples=[[1, 2, 3]],
    )
    folds: int = Field(
        0,
        ge=0,
        le=100,
        description="Cross-validation: as many runs <run>-fold-<i>, each with another fold as its test split; 0: none.",
    )
    tune: Tune | None = Field(None, description=Tune.__doc__)
    variants: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(
        {},
        description="Named partial overrides of this configuration; each reuses what it does not change.",
        examples=[{"slow": {"train": {"learning_rate": 1e-5}}}],
    )

    @model_validator(mode="after")
    def one_name_each(self) -> Config:
        if self.run in self.variants:
            raise ValueError(f"the variant `{self.run}` has the name of the run: rename one")
        if self.folds in (1, 2):
            raise ValueError(f"`folds` is {self.folds}: 3 are needed, to train, to validate and to test; 0 is none")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` names one twice: {self.seeds}")
        for name, override in self.variants.items():
            if fixed := {"run", "variants"} & set(override):
                raise ValueError(f"the variant `{name}` cannot set `{min(fixed)}`")
        return self


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field's type holds, alone, optional or in a list; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := section_of(inner):
            return found
    return None
