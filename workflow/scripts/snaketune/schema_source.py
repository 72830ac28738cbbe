"""The configuration's sections about raw data: where it is, and which fields of it make a row."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from snaketune.sections import Section, Strings


class Columns(Section):
    """Which columns of the raw data hold what; a column that is left out is looked for under its own name."""

    text: str = Field("text", description="Plain text to continue; used when there is no `completion`.")
    prompt: str = Field("prompt", description="What the model is given.")
    completion: str = Field("completion", description="What the model must answer.")
    messages: str = Field(
        "messages", description="A chat: a list of `{role, content}`, used when there is no `completion` and no `text`."
    )
    group: str | None = Field(
        None, description="Rows of one group never straddle two splits (author, document, customer)."
    )
    label: str | None = Field(
        None, description="A class or kind of the row, used to stratify and to slice the results."
    )
    split: str | None = Field(
        None, description="The split that the data itself names for the row; read by `split.method: column`."
    )


class Template(Section):
    """Jinja templates (sandboxed) over a raw row; each template makes one row of it. A field that is missing or null
    puts the row aside, unless the template has a default for it: `{{ field | default('none', true) }}`."""

    completion: str = Field(..., description="The text to be learnt.")
    prompt: str | None = Field(None, description="What comes before it; leave out for plain text.")
    group: str | None = Field(None, description="Rows of one group never straddle two splits.")
    label: str | None = Field(None, description="A class or kind of the row.")
    split: str | None = Field(None, description="The split that the data itself names for the row.")


class Source(Section):
    """Where the raw rows come from: files, the files of an installed package, or a data set of the Hub."""

    files: Strings = Field(
        [],
        description=(
            "Globs of raw files, or folders: .csv .tsv .json .jsonl .parquet .arrow .txt .md .html, each also as .gz, "
            ".zst or .bz2, and .zip archives of these."
        ),
        examples=[["data/*.csv"]],
    )
    package: str | None = Field(
        None, description="An installed Python package; `files` are then relative to it.", examples=["aclsum"]
    )
    hub: str | None = Field(
        None, description="A data set of the Hugging Face Hub, read once.", examples=["Salesforce/wikitext"]
    )
    hub_config: str | None = Field(None, description="The name of the Hub data set's configuration.")
    hub_split: str = Field("train", description="The split of the Hub data set to read; our own split follows later.")
    revision: str | None = Field(
        None, description="The commit of the Hub data set; required with `hub`, so that a rerun reads the same rows."
    )
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "text", "markdown", "html"] = Field(
        "auto", description="The format of the files; `auto` goes by the file's name."
    )
    text_unit: Literal["file", "paragraph", "line"] = Field(
        "file", description="What one row of a text or Markdown file is. An HTML file is always one row."
    )
    columns: Columns = Field(default_factory=Columns, description="Which columns hold what.")
    templates: list[Template] = Field([], description="Templates that make rows of a raw row, instead of `columns`.")
    chat_turns: Literal["last", "each"] = Field(
        "last", description="Of a chat, learn the last answer of the assistant, or make one row of each answer."
    )
    keep: Strings = Field([], description="Further columns to carry along with each row, as JSON in `meta`.")
    on_bad_row: Literal["quarantine", "fail"] = Field(
        "quarantine", description="Set a bad row aside with file, line and reason, or stop at the first."
    )
    max_line_mb: int = Field(
        64, ge=1, le=1024, description="A longer line (MB) of a file is set aside, without ever being held in memory."
    )
    shard_mb: int = Field(
        256,
        ge=1,
        description=(
            "Raw megabytes (MB) that one job of ingest, clean and sign takes. JSONL, Parquet and text by the line are "
            "cut inside a file; any other file stays whole."
        ),
    )

    @model_validator(mode="after")
    def one_origin(self) -> Source:
        if self.hub and (self.files or self.package):
            raise ValueError("`hub` stands alone: remove `files` and `package`, or remove `hub`")
        if not self.hub and not self.files:
            raise ValueError("name the raw data: `files`, `package` with `files`, or `hub` with `revision`")
        if self.hub and not self.revision:
            raise ValueError("`hub` needs `revision`, a commit hash, so that a rerun reads the same rows")
        if self.revision and not self.hub:
            raise ValueError("`revision` belongs to `hub`, which is not set")
        if self.templates and self.columns != Columns():
            raise ValueError("`templates` and `columns` are two ways to say the same: keep one")
        return self
