"""The sections of the evaluation: likelihood, answers, scores, probes, comparison, errors, judges, publishing."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from snaketune.sections import Section, Strings

# The folders of workflow/metrics/.
Metric = Literal[
    "bleu",
    "chrf",
    "ter",
    "rouge",
    "exact_match",
    "token_f1",
    "diversity",
    "length_ratio",
    "overlap",
    "classification",
]
Slice = Literal["length", "prompt length", "source", "label", "kind"]


class Likelihood(Section):
    """How the loss of plain text is summed up. A completion is conditioned on its prompt and needs no window."""

    window: int | None = Field(
        None, ge=2, description="Tokens of a plain text that are predicted in one pass; null: the model's positions."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens by which the window moves; each token is scored once, and below `window` the rest is its "
        "context. null: `window`.",
    )
    shards: int = Field(
        1, ge=1, le=999, description="Jobs for each side, each over a part of the test rows; the scores are the same."
    )

    @model_validator(mode="after")
    def within(self) -> Likelihood:
        if self.stride and not self.window:
            raise ValueError("`stride` needs a `window`")
        if self.stride and self.window and self.stride > self.window:
            raise ValueError(f"`stride` {self.stride} is larger than `window` {self.window}: tokens would be skipped")
        return self


class Generate(Section):
    """How base and tuned model answer the prompts of the test split; the same for both."""

    max_new_tokens: int = Field(64, ge=1, description="Longest answer in tokens.")
    strategy: Literal["greedy", "sample", "beam"] = Field("greedy", description="Decoding.")
    temperature: float = Field(1.0, gt=0, description="Of `sample`.")
    top_p: float = Field(1.0, gt=0, le=1, description="Of `sample`: nucleus.")
    top_k: int = Field(0, ge=0, description="Of `sample`: only the k likeliest tokens; 0: all.")
    num_beams: int = Field(1, ge=1, description="Of `beam`.")
    batch_tokens: int = Field(
        8192,
        ge=1,
        description="Positions computed at once: prompts with their padding and room for the answers, times the beams. "
        "Where a GPU's memory runs out, batches are halved.",
    )
    few_shot: int = Field(
        0,
        ge=0,
        description="Pairs of the train split shown to the base model before each prompt, as many as fit; its answer "
        "then also ends with its first blank line.",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32", description="Number format; only in fp32 is an answer surely the same whatever the batch."
    )
    cache: Literal["dynamic", "static"] = Field(
        "dynamic",
        description="How keys and values of past tokens are kept. `static`: in one piece from the start, which helps "
        "where answers are long; on a GPU transformers also compiles the model for it. Not for GPT-Neo.",
    )
    text_prompt_tokens: int = Field(32, ge=1, description="For plain text: tokens of the row given as the prompt.")
    limit: int | None = Field(None, ge=1, description="Answer only so many test rows (the first by row_id).")
    shards: int = Field(
        1,
        ge=1,
        le=999,
        description="Jobs for each side, each over a part of the test rows; in fp32 the answers are the same.",
    )

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
        [name for name in get_args(Metric) if name not in ("classification", "ter")],
        min_length=1,
        description="Text metrics; perplexity and its kin are always there. `classification`: the answer names a "
        "class, the row's `label`, or its reference where no row has a label.",
    )
    own: Strings = Field(
        [],
        description="Metrics of yours, through `evaluate.load`: the path of a file or folder, or a name of the Hub. "
        "One that has no statistics by row is computed 21 times, for its interval.",
        examples=[["metrics/politeness.py"]],
    )
    bleu_tokenizer: Literal["13a", "intl", "char", "zh", "none"] = Field("13a", description="sacrebleu's tokenizer.")
    rouge_stemmer: bool = Field(False, description="Porter stemmer in ROUGE (English).")
    classes: list[str] | None = Field(
        None, min_length=2, description="Of `classification`: the classes; null: those of the test split."
    )
    overlap_ngram: int = Field(
        8, ge=3, description="Of `overlap`: words in a row that count as taken from a row of the train split."
    )


class Compare(Section):
    """Base against tuned."""

    resamples: int = Field(1000, ge=100, description="Paired bootstrap resamples, by cluster of rows.")


class Errors(Section):
    """What is looked at row by row: where tuning won and lost, in which parts of the data, and how answers fail."""

    rows: int = Field(8, ge=0, description="Test rows shown: a third each won most, lost most, drawn at random.")
    format: str | None = Field(
        None,
        description="A regular expression that a well-formed answer matches from end to end; others are off-format.",
        examples=[r"(positive|negative)\.?"],
    )

    @field_validator("format")
    @classmethod
    def compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"`{value}` is no regular expression: {error}") from None
        return value


class Probes(Section):
    """Texts beside the test split that base and tuned read: what tuning did to prejudice, and to general language."""

    bias: str = Field(
        "shipped", description="Counterfactual templates and identity terms: `shipped`, a YAML file of yours, or `off`."
    )
    general: str = Field(
        "shipped", description="General text, to see what was forgotten: `shipped`, a .jsonl or .txt file, or `off`."
    )


class Judge(Section):
    """A page on which people compare the answers of base and tuned, without knowing which is which."""

    rows: int = Field(50, ge=1, description="Test rows on the page, drawn by seed; fewer where there are fewer.")
    folder: str = Field(
        "judgements", description="What the judges exported, .json or .csv, is read from <folder>/<run>/."
    )


class Check(Section):
    """Bounds of one metric; one that does not hold fails the run, after its report is written."""

    min: float | None = Field(None, description="Least value of the tuned model.")
    max: float | None = Field(None, description="Largest value of the tuned model.")
    min_delta: float | None = Field(None, description="Least difference, tuned - base.")
    max_delta: float | None = Field(None, description="Largest difference, tuned - base.")
    certain: bool = Field(
        False, description="Hold the bound against the unfavourable end of the 95 % interval, not against the value."
    )

    @model_validator(mode="after")
    def bounded(self) -> Check:
        if all(bound is None for bound in (self.min, self.max, self.min_delta, self.max_delta)):
            raise ValueError("set `min`, `max`, `min_delta` or `max_delta`")
        return self


class Report(Section):
    """What report.html says of itself."""

    title: str | None = Field(None, description="Heading; empty: the name of the run.")


class Publish(Section):
    """Where `snakemake results/<run>/published.json` puts the model; nothing is published unless asked for."""

    repo: str | None = Field(None, description="Repository of the Hugging Face Hub.", examples=["me/my-model"])
    private: bool = Field(True, description="Whether the repository is private; one that is public is refused.")
    license: str | None = Field(None, description="For the model card.", examples=["mit"])
    language: Strings = Field([], description="For the model card: ISO 639-1 codes.", examples=[["en"]])
    tags: Strings = Field([], description="For the model card, beside its own.")
