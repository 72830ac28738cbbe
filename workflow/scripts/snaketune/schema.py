"""The configuration's schema: one typed model per section, the only source of defaults, checks and documentation.

Everything that a user can set is declared once, here and in the schema_*.py beside it. `config/README.md` and the JSON
schema for editors are generated from these models (`make docs`), and a test fails when they drift. snaketune.config
holds a user's file against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from snaketune.schema_clean import Clean
from snaketune.schema_data import Annotate, Augmentation, Decontaminate, Dedup, Leaks, Split, Tokenize
from snaketune.schema_source import Source
from snaketune.schema_train import Train
from snaketune.sections import Section

NAME = r"^[a-z0-9][a-z0-9._-]*$"
Metric = Literal["bleu", "chrf", "rouge", "exact_match"]  # the folders of workflow/metrics/


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


class Model(Section):
    """The model that is tuned."""

    base: str | None = Field(
        None, description="A folder, or a model of the Hugging Face Hub.", examples=["openai-community/gpt2"]
    )
    revision: str | None = Field(None, description="The commit of the Hub model; required for a model of the Hub.")
    from_scratch: FromScratch | None = Field(None, description="Train a new small model instead of tuning a base.")
    trust_remote_code: bool = Field(False, description="Run Python code that the Hub model brings. Read it first.")
    save_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of the saved weights; the scores are those of the saved weights."
    )

    @model_validator(mode="after")
    def one_base(self) -> Model:
        if self.base and self.from_scratch:
            raise ValueError("`base` and `from_scratch` exclude each other: remove one")
        if not self.base and not self.from_scratch:
            raise ValueError("name a `base` (a folder or a model of the Hub), or set `from_scratch`")
        return self


class Generate(Section):
    """How base and tuned model answer the prompts of the test split; the same for both."""

    max_new_tokens: int = Field(64, ge=1, description="Longest answer in tokens.")
    strategy: Literal["greedy", "sample", "beam"] = Field("greedy", description="Decoding.")
    temperature: float = Field(1.0, gt=0, description="Of `sample`.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of `sample`: nucleus.")
    top_k: int = Field(0, ge=0, description="Of `sample`: only the k likeliest tokens; 0: all.")
    num_beams: int = Field(1, ge=1, description="Of `beam`.")
    batch_size: int = Field(32, ge=1, description="Prompts answered at once.")
    text_prompt_tokens: int = Field(32, ge=1, description="For plain text: tokens of the row given as the prompt.")
    limit: int | None = Field(None, ge=1, description="Answer only so many test rows (the first by row_id).")

    @model_validator(mode="after")
    def fitting(self) -> Generate:
        if self.strategy == "beam" and self.num_beams < 2:
            raise ValueError("`strategy: beam` needs `num_beams` of 2 or more")
        if self.strategy != "beam" and self.num_beams != 1:
            raise ValueError("`num_beams` belongs to `strategy: beam`")
        sampling = (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0)
        if sampling and self.strategy != "sample":
            raise ValueError("`temperature`, `top_p` and `top_k` belong to `strategy: sample`")
        return self


class Score(Section):
    """How an answer is measured against its reference."""

    metrics: list[Metric] = Field(
        list(get_args(Metric)),
        min_length=1,
        description="Text metrics; perplexity and token accuracy are always there.",
    )
    bleu_tokenizer: Literal["13a", "intl", "char", "zh", "none"] = Field("13a", description="sacrebleu's tokenizer.")
    rouge_stemmer: bool = Field(False, description="Porter stemmer in ROUGE (English).")


class Compare(Section):
    """Base against tuned."""

    resamples: int = Field(1000, ge=100, description="Paired bootstrap resamples, by cluster of rows.")


class Report(Section):
    """What report.html shows."""

    title: str | None = Field(None, description="Heading; empty: the name of the run.")
    samples: int = Field(8, ge=0, description="Test rows shown with the answers of base and tuned.")


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
    generate: Generate = Field(default_factory=Generate, description=Generate.__doc__)
    score: Score = Field(default_factory=Score, description=Score.__doc__)
    compare: Compare = Field(default_factory=Compare, description=Compare.__doc__)
    report: Report = Field(default_factory=Report, description=Report.__doc__)
    store: Store = Field(default_factory=Store, description=Store.__doc__)
    variants: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(
        {},
        description="Named partial overrides of this configuration; each reuses what it does not change.",
        examples=[{"slow": {"train": {"learning_rate": 1e-5}}}],
    )

    @model_validator(mode="after")
    def one_name_each(self) -> Config:
        if self.run in self.variants:
            raise ValueError(f"the variant `{self.run}` has the name of the run: rename one")
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
