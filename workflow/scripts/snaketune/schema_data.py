"""The configuration's sections from duplicates to tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from snaketune.sections import Section, Strings


class Dedup(Section):
    """Which rows count as the same. Both the prompt and the completion must be alike for a row to be removed."""

    exact: bool = Field(True, description="Remove rows equal after case folding and white space.")
    near: bool = Field(True, description="Remove near-duplicates (MinHash LSH, verified by exact Jaccard).")
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word shingles from which rows match.")
    shingle_words: int = Field(5, ge=1, le=20, description="Words in a shingle; a shorter text is one shingle.")
    bands: int = Field(14, ge=1, le=256, description="LSH bands.")
    rows_per_band: int = Field(8, ge=1, le=64, description="MinHash values in a band.")
    max_cluster_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description=(
            "Stop where one cluster of near-duplicates holds more than this share of the different rows (and more than "
            "100 of them): it is mostly a shared template, not a duplicate."
        ),
    )


class Decontaminate(Section):
    """Rows that hold text of a test set given here: an evaluation on that set would measure memory."""

    files: Strings = Field(
        [], description="Files of the test sets, in any format that `source` reads.", examples=[["benchmarks/*.jsonl"]]
    )
    fields: Strings = Field(
        [],
        description=(
            "Fields of these files that hold the text; empty: every text field at least half as long as the longest of "
            "its row, which leaves out ids and categories."
        ),
    )
    ngram: int = Field(
        13, ge=3, le=50, description="Words in a run that counts as a match; a shorter item must match whole."
    )
    min_overlap: float = Field(
        0.5, gt=0, le=1, description="Share of an item's runs that a row must hold to be contaminated by it."
    )
    max_rows: int = Field(
        100, ge=1, description="A run of words in more items of the test sets than this (a licence) is left out."
    )
    action: Literal["report", "drop"] = Field("report", description="Report contaminated rows, or drop them.")


class Split(Section):
    """How rows are dealt. Whole families (cluster, group, prompt) are dealt; never single rows."""

    method: Literal["quota", "hash", "stratified", "k-fold", "column"] = Field(
        "quota",
        description=(
            "`quota` meets the shares to within half a family; `hash` deals each family by itself, so that new rows "
            "leave old ones where they were; `stratified` meets the shares within each label; `k-fold` makes `fold` "
            "the test split and the next one the validation split; `column` takes the split that the data names."
        ),
    )
    train: float = Field(0.8, gt=0, lt=1, description="Share to learn from.")
    validation: float = Field(0.1, gt=0, lt=1, description="Share that chooses the checkpoint.")
    test: float = Field(0.1, gt=0, lt=1, description="Share that is scored, once.")
    folds: int = Field(5, ge=3, le=100, description="Of `k-fold`: the number of folds.")
    fold: int = Field(0, ge=0, description="Of `k-fold`: which fold is the test split, from 0.")

    @model_validator(mode="after")
    def whole(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"`train` + `validation` + `test` is {total:g}, and must be 1")
        if self.fold >= self.folds:
            raise ValueError(f"`fold` is {self.fold}, and of {self.folds} folds the last is {self.folds - 1}")
        return self


class Leaks(Section):
    """The leak check: nothing of the validation or test split may stand in the train split. Equal texts, clusters,
    groups and prompts always fail the run."""

    near: Literal["fail", "report"] = Field("fail", description="What a near-duplicate across splits does.")
    similarity: float = Field(
        0.9,
        gt=0,
        le=1,
        description=(
            "Jaccard similarity from which a row of train is a near-duplicate of a test row. The default bands of "
            "`dedup` find 99.96 % of the pairs at 0.9, and 92 % at 0.8."
        ),
    )


class Augmentation(Section):
    """One way to make further train rows."""

    method: Literal["swap", "delete", "insert", "synonyms", "paraphrase", "back_translation"] = Field(
        ...,
        description=(
            "Swap neighbouring words, delete words, insert words of the same text (Wei and Zou 2019), put in "
            "synonyms of a local WordNet, or let local sequence-to-sequence models rewrite the text."
        ),
    )
    copies: int = Field(1, ge=1, le=20, description="New rows of each train row.")
    share: float = Field(0.1, gt=0, le=1, description="Share of the words that are changed; not of the two rewriters.")
    field: Literal["auto", "prompt", "completion"] = Field(
        "auto", description="Which text is changed; `auto`: the prompt where there is one, else the text."
    )
    lexicon: str | None = Field(None, description="Of `synonyms`: a WordNet file in the WN-LMF format.")
    model: str | None = Field(None, description="Of the rewriters: the folder of a sequence-to-sequence model.")
    back_model: str | None = Field(None, description="Of `back_translation`: the folder of the model for the way back.")
    prefix: str = Field("", description="Of the rewriters: put before each text, such as `paraphrase: `.")

    @model_validator(mode="after")
    def complete(self) -> Augmentation:
        needs = {"synonyms": ["lexicon"], "paraphrase": ["model"], "back_translation": ["model", "back_model"]}
        for key in ("lexicon", "model", "back_model"):
            wanted = key in needs.get(self.method, [])
            if wanted and not getattr(self, key):
                raise ValueError(f"`method: {self.method}` needs `{key}`")
            if not wanted and getattr(self, key):
                raise ValueError(f"`{key}` does not belong to `method: {self.method}`")
        return self


class Annotate(Section):
    """Rows for people to annotate in Label Studio, and what they decided."""

    split: Literal["train", "validation", "test"] = Field("train", description="The split whose rows are exported.")
    rows: int = Field(200, ge=1, description="Most rows that are exported, drawn by the seed.")
    files: Strings = Field(
        [], description="JSON exports of Label Studio; their decisions are applied to the rows after cleaning."
    )


class Tokenize(Section):
    """How rows become token ids, with the base model's own tokenizer."""

    backend: Literal["auto", "huggingface", "gigatoken"] = Field(
        "auto",
        description=(
            "`auto` takes gigatoken, which is many times faster, where it gives the very ids of the Hugging Face "
            "tokenizer on a sample of the rows and on hostile strings."
        ),
    )
    max_length: int | None = Field(
        None, ge=8, description="Longest row in tokens; empty: the positions of the model, at most 1024."
    )
    separator: str = Field("\n", description="Put between prompt and completion; belongs to the prompt.")
    append_eos: bool = Field(True, description="End each row with the end-of-text token, so that the model stops.")
    special_tokens: Literal["text", "parse"] = Field(
        "text",
        description=(
            "A special token written in the data, such as `<|endoftext|>`: as the characters that it is written with, "
            "or as the token itself."
        ),
    )
    chat_template: Literal["auto", "none"] = Field(
        "auto", description="Chats by the tokenizer's own template where it has one; else as plain text with roles."
    )
    overlong_text: Literal["chunk", "truncate", "drop"] = Field(
        "chunk", description="Plain text longer than `max_length`: cut into rows, keep the head, or drop."
    )
    overlong_pairs: Literal["truncate", "drop"] = Field(
        "truncate", description="A longer prompt/completion pair: cut the prompt's head, or drop the row."
    )
    shards: int = Field(1, ge=1, le=999, description="Jobs, and Arrow files, for each split.")
