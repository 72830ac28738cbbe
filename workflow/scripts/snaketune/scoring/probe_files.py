"""The files of the probes: general text, and what is asked about groups of people. Read whole, and checked.

General text is JSONL (`text`, and if wanted `id` and `topic`) or plain text, whose paragraphs are the passages. The
other file is YAML:

    axes:
      gender:
        groups: {women: [woman], men: [man]}   # the terms of a group speak of the same people
        mask: [she, he]                        # words that follow from the term, and are no difference of outputs
      neutral words:
        control: true                          # a yardstick, which is left out of the means over axes
        groups: {readers: [newspaper reader], drinkers: [tea drinker]}
    templates:                                 # how likely is `rest` after the prefix with each term?
      - {id: doctor, topic: occupation, prefix: "The {term} works as", rest: " a doctor."}
    prompts:                                   # how does the model go on?
      - {id: works, topic: occupation, prefix: "The {term} works as"}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import orjson
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from snaketune.job import StageError

MOST_BYTES = 50_000_000  # a probe is held in memory; a sample says as much as a corpus
MOST_CHARS = 200  # of a term or a name
SLOT = "{term}"


def _short(text: str) -> str:
    if not 0 < len(text) <= MOST_CHARS or text != text.strip() or len(text.splitlines()) > 1:
        raise ValueError(f"give one line of at most {MOST_CHARS} characters, without white space at its ends")
    return text


Word = Annotated[str, AfterValidator(_short)]


@dataclass(frozen=True)
class Passage:
    """A piece of general text."""

    id: str
    topic: str | None
    text: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Axis(_Part):
    """Groups of people that are compared with each other, and the terms of each."""

    groups: dict[Word, Annotated[list[Word], Field(min_length=1)]] = Field(min_length=2)
    mask: list[Word] = []
    control: bool = Field(False, strict=False)  # its terms name no such group: their gap is that of wording

    @model_validator(mode="after")
    def distinct(self) -> Axis:
        """Two equal terms would be a pair without a difference."""
        terms = [term.casefold() for _, term in self.terms()]
        if twice := [term for number, term in enumerate(terms) if term in terms[:number]]:
            raise ValueError(f"the term `{twice[0]}` stands there twice; leave one out")
        return self

    def terms(self) -> Iterator[tuple[str, str]]:
        """(group, term) of every term."""
        return ((group, term) for group, terms in self.groups.items() for term in terms)


class Prompt(_Part):
    """The beginning of a sentence about somebody."""

    id: Word
    topic: Word | None = None
    prefix: Annotated[str, StringConstraints(max_length=2000)]

    @field_validator("prefix")
    @classmethod
    def slotted(cls, prefix: str) -> str:
        """One place for the term; the space after a prefix is the beginning of what follows."""
        if prefix.count(SLOT) != 1:
            raise ValueError(f"it must hold {SLOT} once, in the place of the term")
        if prefix != prefix.rstrip():
            raise ValueError("it must not end in white space; put that at the beginning of what follows")
        return prefix

    def told_of(self, term: str) -> str:
        """The prefix about one term."""
        return self.prefix.replace(SLOT, term)


class Template(Prompt):
    """A sentence about somebody: what is scored is `rest`, which is the same for all terms."""

    rest: Annotated[str, StringConstraints(max_length=2000)]

    @field_validator("rest")
    @classmethod
    def plain(cls, rest: str) -> str:
        """A term in it would be scored itself, and rare words would look like prejudice."""
        if not rest.strip() or SLOT in rest:
            raise ValueError(f"it must hold some text, and not {SLOT}, which belongs to `prefix`")
        return rest


class Bias(_Part):
    """What is asked about groups of people."""

    axes: dict[Word, Axis] = Field(min_length=1)
    templates: list[Template] = []
    prompts: list[Prompt] = []

    @model_validator(mode="after")
    def asking(self) -> Bias:
        """Something is asked, and every id stands for one thing."""
        if not self.templates and not self.prompts:
            raise ValueError("it has neither `templates` nor `prompts`; give some of either")
        if all(axis.control for axis in self.axes.values()):
            raise ValueError("all of `axes` are controls; give one that is none")
        for name, found in (("templates", self.templates), ("prompts", self.prompts)):
            ids = [part.id for part in found]
            if twice := [one for number, one in enumerate(ids) if one in ids[:number]]:
                raise ValueError(f"two of `{name}` have the id `{twice[0]}`; give each its own")
        return self


def read_bias(path: str) -> tuple[Bias, str]:
    """What a YAML file asks, and the hash of the file. Raises StageError for a file that cannot be used."""
    text, digest = _read(path)
    node, content = _parsed(path, text)
    try:
        return Bias.model_validate(content), digest
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        reason = {
            "value_error": str(fault.get("ctx", {}).get("error")),
            "model_type": "it must be a mapping of names to values",
        }.get(fault["type"], fault["msg"][0].lower() + fault["msg"][1:])
        line = _line(node, fault["loc"])
        raise StageError(
            f"{path}, line {line}: `{place:.200}`: {reason}. Mend it like resources/probes/bias.yaml"
        ) from error


def _parsed(path: str, text: str) -> tuple[yaml.Node | None, Any]:
    """A YAML text as nodes, which know their lines, and as values: every scalar is a string, `no` and 2020 too."""
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        _refuse_twins(path, node)
        return node, yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise StageError(
            f"{path}{line}: this is no YAML: {reason}. Mend the line; a text with {SLOT} or a colon stands in quotes"
        ) from error
    except RecursionError as error:
        raise StageError(f"{path}: lists or mappings are nested too deeply. See resources/probes/bias.yaml") from error


def _line(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """The line of the nearest thing to a place in the document that there is, counted from 1."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = [(value, value) for value in node.value[part : part + 1]]
        else:
            found = []
        if not found:
            break
        shown, node = found[0]
        line = shown.start_mark.line + 1
    return line


def _refuse_twins(path: str, root: yaml.Node | None) -> None:
    """Raise StageError where a mapping has a key twice: YAML would keep the last, and say nothing."""
    left, seen = [root], set()
    while left:
        node = left.pop()
        if id(node) in seen:  # an alias may lead back to what holds it
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise StageError(
                        f"{path}, line {key.start_mark.line + 1}: the key `{key.value:.100}` stands there twice; "
                        "make one of both"
                    )
                keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
                left.append(value)


def read_general(path: str) -> tuple[list[Passage], str]:
    """The passages of a JSONL or plain text file, and its hash. Raises StageError for a file that cannot be used."""
    text, digest = _read(path)
    passages = list(_json_lines(path, text) if path.endswith((".jsonl", ".json")) else _paragraphs(text))
    if not passages:
        raise StageError(f"{path} holds no passage: give texts, or set `probes.general: off`")
    first: dict[str, int] = {}
    for number, passage in enumerate(passages, 1):
        if first.setdefault(passage.id, number) != number:
            raise StageError(f"{path}: the passages {first[passage.id]} and {number} have one id, `{passage.id:.100}`")
    return passages, digest


def _json_lines(path: str, text: str) -> Iterator[Passage]:
    hint = 'write one object a line, like {"text": "..."}'
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise StageError(f"{path}, line {number}: this is no JSON ({error.msg}); {hint}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise StageError(f"{path}, line {number}: there is no `text`, or an empty one; {hint}")
        others = {name: _label(path, number, row, name) for name in ("id", "topic")}
        yield Passage(others["id"] or f"line {number}", others["topic"], row["text"])


def _label(path: str, number: int, row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, (str, int)):
        raise StageError(f"{path}, line {number}: `{name}` is {value!r:.100}; give a string, or leave it out")
    return None if value is None else str(value)


def _paragraphs(text: str) -> Iterator[Passage]:
    """What blank lines separate; a passage is named by the line that it begins in."""
    begin, held = 0, []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            begin = begin or number
            held.append(line)
        elif held:
            yield Passage(f"line {begin}", None, "\n".join(held))
            begin, held = 0, []


def _read(path: str) -> tuple[str, str]:
    """The text of a file, and the SHA-256 of its bytes."""
    try:
        size = Path(path).stat().st_size
        data = Path(path).read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise StageError(f"{path} cannot be read ({error.strerror}); see `probes`") from error
    if size > MOST_BYTES:
        raise StageError(f"{path} has {size / 1e6:,.0f} MB; a probe has at most {MOST_BYTES / 1e6:.0f}: give a sample")
    try:
        return data.decode("utf-8-sig"), sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StageError(f"{path}, line {line}: this is no UTF-8; save the file as UTF-8") from error
