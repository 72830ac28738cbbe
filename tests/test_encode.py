"""Ids are those of the model's own tokenizer, no token is lost, and what was cut or dropped is noted."""

import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from encode import part_of
from snaketune.job import StageError
from snaketune.rows import SPLIT
from snaketune.tokens.ragged import Ragged
from snaketune.tokens.token_rows import RULES, fit, fitted_batch
from snaketune.tokens.tokenizer import longest
from token_runs import tokenize

ROOT = Path(__file__).parent.parent
BASE = ROOT / "resources/tiny-gpt"
TEXTS = ["The state of the Union is strong.", "Ünïcödé 日本語 👍🏽", " leading and trailing ", "a\n\nb\tc", "x"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def wanted(**changes: Any) -> dict[str, Any]:
    return settings("tokenize", **{"backend": "huggingface"} | changes) | {"trust_remote_code": False}


def run(
    folder: Path, rows: list[dict[str, Any]], **changes: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], list[Any]]:
    """The rows as `datasets` loads them, the manifest, and the notes."""
    from datasets import load_from_disk

    made = tokenize(write(folder / "in.parquet", rows, SPLIT), str(BASE), folder, "train", wanted(**changes))
    manifest = json.loads((folder / "train.json").read_text())
    return load_from_disk(made).to_list(), manifest, read(folder / "train.notes.parquet")


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
@pytest.mark.parametrize("separator", ["\n", " -> ", ""])
def test_ids_are_prompt_and_separator_then_completion_then_the_end(
    tmp_path: Path, tokenizer: Any, separator: str, backend: str
) -> None:
    rows = [row(text, prompt) for text in TEXTS for prompt in (None, *TEXTS)]
    loaded, manifest, notes = run(tmp_path, rows, separator=separator, backend=backend)
    assert [line["row_id"] for line in loaded] == [line["row_id"] for line in rows]
    for line, encoded in zip(rows, loaded, strict=True):
        head = [] if line["prompt"] is None else ids(tokenizer, line["prompt"] + separator)
        tail = [*ids(tokenizer, line["completion"]), tokenizer.eos_token_id]
        assert encoded["input_ids"] == head + tail
        assert encoded["prompt_len"] == len(head)
    assert not notes
    assert manifest["rows"] == len(rows)
    assert manifest["tokens"] == sum(len(line["input_ids"]) for line in loaded)
    # The first token of a plain text has nothing before it to be foretold from.
    assert manifest["trained_tokens"] == sum(len(line["input_ids"]) - max(1, line["prompt_len"]) for line in loaded)


def test_the_features_are_those_that_the_training_reads(tmp_path: Path) -> None:
    from datasets import List, Value, load_from_disk

    run(tmp_path, [row("a", "b")])
    features = load_from_disk(tmp_path / "train").features
    assert features["input_ids"] == List(Value("int32"))
    assert (features["prompt_len"], features["row_id"]) == (Value("int32"), Value("string"))


def test_the_end_can_be_left_out(tmp_path: Path, tokenizer: Any) -> None:
    loaded, _, _ = run(tmp_path, [row("strong words")], append_eos=False)
    assert loaded[0]["input_ids"] == ids(tokenizer, "strong words")


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
@pytest.mark.parametrize("text", ["a<|endoftext|>b", "<|endoftext|>", "<|<|endoftext|>|>", "<|endof\n<|endoftext|> x"])
def test_a_special_token_written_in_a_text_is_text_unless_it_is_to_be_parsed(
    tmp_path: Path, tokenizer: Any, text: str, backend: str
) -> None:
    (tmp_path / "parse").mkdir()
    rows = [row(text, text), row("plain", "x")]
    kept, _, _ = run(tmp_path, rows, append_eos=False, separator="", backend=backend)
    parsed, _, _ = run(
        tmp_path / "parse", rows, append_eos=False, separator="", special_tokens="parse", backend=backend
    )
    border = kept[0]["prompt_len"]
    for side in (kept[0]["input_ids"][:border], kept[0]["input_ids"][border:]):
        assert tokenizer.eos_token_id not in side
        assert tokenizer.decode(side) == text
    assert parsed[0]["input_ids"] == ids(tokenizer, text) * 2
    assert parsed[0]["input_ids"].count(tokenizer.eos_token_id) == 2
    assert parsed[1] == kept[1]


def test_a_long_text_is_cut_into_chunks_that_lose_nothing(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(" union" * count) for count in range(12, 22)]
    loaded, _, notes = run(tmp_path, rows, max_length=8)
    for line in rows:
        chunks = [encoded["input_ids"] for encoded in loaded if encoded["row_id"] == line["row_id"]]
        assert list(chain(*chunks)) == [*ids(tokenizer, line["completion"]), tokenizer.eos_token_id]
        assert all(2 <= len(chunk) <= 8 for chunk in chunks)
    assert not notes
    assert all(line["prompt_len"] == 0 for line in loaded)


def fit_one(head: list[int], tail: list[int], length: int, choice: dict[str, Any]) -> tuple[list[Any], str]:
    """The rule for one row, in plain Python: its parts as (ids, length of the prompt), and what was done to it."""
    if not tail or len(head) + len(tail) < 2:
        return [], "no_trainable_token"
    if len(head) + len(tail) <= length:
        return [(head + tail, len(head))], ""
    room = length - len(tail)
    if choice["overlong_pairs" if head else "overlong_text"] == "drop" or (head and room < 1):
        return [], "overlong"
    if head:
        return [(head[-room:] + tail, room)], "truncated"
    if choice["overlong_text"] == "truncate":
        return [(tail[:length], 0)], "truncated"
    chunks = [tail[start : start + length] for start in range(0, len(tail), length)]
    if len(chunks[-1]) == 1:
        chunks[-1].insert(0, chunks[-2].pop())
    return [(chunk, 0) for chunk in chunks], ""


sizes = st.tuples(st.just(0) | st.integers(0, 30), st.integers(0, 60))
choices = st.tuples(st.sampled_from(["chunk", "truncate", "drop"]), st.sampled_from(["truncate", "drop"]))


@bounds(max_examples=300, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=12), st.integers(8, 20), choices)
def test_many_rows_are_made_to_fit_as_each_would_be_alone(
    rows: list[tuple[int, int]], length: int, choice: tuple[str, str]
) -> None:
    numbers = iter(range(10_000))
    heads = [[next(numbers) for _ in range(head)] for head, _ in rows]
    tails = [[next(numbers) for _ in range(tail)] for _, tail in rows]
    how = {"overlong_text": choice[0], "overlong_pairs": choice[1]}
    alone = [fit_one(head, tail, length, how) for head, tail in zip(heads, tails, strict=True)]
    ragged = Ragged.of(heads), Ragged.of(tails)
    fitted = fit(ragged[0].lengths, ragged[1].lengths, length, how)
    batch = fitted_batch(*ragged, fitted, pa.array([str(number) for number in range(len(rows))]))
    assert [RULES[code] for code in fitted.rule] == [rule for _, rule in alone]
    assert [(line["input_ids"], line["prompt_len"], line["row_id"]) for line in batch.to_pylist()] == [
        (*part, str(number)) for number, (parts, _) in enumerate(alone) for part in parts
    ]


@pytest.mark.parametrize(("choice", "rules"), [("truncate", ["truncated", "overlong"]), ("drop", ["overlong"] * 2)])
def test_what_is_cut_or_dropped_is_noted_with_its_length(
    tmp_path: Path, tokenizer: Any, choice: str, rules: list[str]
) -> None:
    long, longer = row("short", "union " * 20, line=2), row(" union" * 20, "p", line=3, source="b")
    loaded, manifest, notes = run(tmp_path, [row("short", "p"), long, longer], max_length=8, overlong_pairs=choice)
    for note, line, rule in zip(notes, (long, longer), rules, strict=True):
        assert {name: note[name] for name in ("row_id", "source", "line")} == {
            name: line[name] for name in ("row_id", "source", "line")
        }
        had = len(ids(tokenizer, line["prompt"] + "\n")) + len(ids(tokenizer, line["completion"])) + 1
        assert (note["stage"], note["rule"], note["value"], note["threshold"]) == ("tokenize", rule, had, 8)
    assert (manifest["truncated"], manifest["dropped"]) == (rules.count("truncated"), rules.count("overlong"))
    assert len(loaded) == manifest["rows"] == 3 - manifest["dropped"]


@pytest.mark.parametrize(("choice", "count", "rule"), [("truncate", 1, "truncated"), ("drop", 0, "overlong")])
def test_an_overlong_text_is_cut_or_dropped_as_set(tmp_path: Path, choice: str, count: int, rule: str) -> None:
    rows = [row("short"), row(" union" * 20, line=2)]
    loaded, _, notes = run(tmp_path, rows, max_length=8, overlong_text=choice)
    assert [len(line["input_ids"]) for line in loaded[1:]] == [8] * count
    assert [(note["line"], note["rule"]) for note in notes] == [(2, rule)]


def test_a_row_with_nothing_to_learn_is_dropped(tmp_path: Path) -> None:
    rows = [row("two words"), row("x", line=2), row("", "a prompt", line=3)]
    loaded, manifest, notes = run(tmp_path, rows, append_eos=False)
    assert [(note["line"], note["rule"], note["value"]) for note in notes] == [
        (2, "no_trainable_token", 1.0),
        (3, "no_trainable_token", notes[1]["value"]),
    ]
    assert (len(loaded), manifest["dropped"]) == (1, 2)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 12])
def test_parts_take_every_row_once_and_in_order_wherever_the_row_groups_end(tmp_path: Path, parts: int) -> None:
    rows = pa.Table.from_pylist([row(str(number), line=number) for number in range(10)], schema=SPLIT)
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=4)
    taken = [
        [line for table in part_of(str(tmp_path / "in.parquet"), part, parts) for line in table["line"].to_pylist()]
        for part in range(parts)
    ]
    assert taken == [list(range(10 * part // parts, 10 * (part + 1) // parts)) for part in range(parts)]


def test_the_length_is_bounded_by_the_positions_of_the_model() -> None:
    assert longest(None, {"n_positions": 512}) == 512
    assert longest(None, {"max_position_embeddings": 4096}) == 1024
    assert longest(None, {}) == 1024
    assert longest(2048, {"max_position_embeddings": 4096}) == 2048
    with pytest.raises(StageError, match="has 512 positions"):
        longest(513, {"n_positions": 512})


def test_equal_rows_make_equal_bytes_and_the_rows_of_a_list_are_not_mixed_up(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, [row("b", "a"), row("c")], backend="auto")
        files.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()])
    assert files[0] == files[1]
    lists = [[1], [], [2, 3], [4, 5, 6]]
    assert [Ragged.of(lists).take(np.array([3, 1, 0, 3])).row(place) for place in range(4)] == [
        lists[number] for number in (3, 1, 0, 3)
    ]


def test_a_tokenizer_that_its_json_describes_is_read_without_torch(tmp_path: Path) -> None:
    table = write(tmp_path / "in.parquet", [row("a", "b")], SPLIT)
    outputs = {"tokens": str(tmp_path / "out"), "about": str(tmp_path / "m.json"), "notes": str(tmp_path / "n")}
    code = (
        f"import sys; sys.path.insert(0, 'workflow/scripts'); from encode import encode\n"
        f"encode({table!r}, {str(BASE)!r}, {outputs!r}, {wanted(backend='gigatoken')!r})\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_base_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    shutil.copy(BASE / "tokenizer.json", base)
    shutil.copy(BASE / "config.json", base)
    about = json.loads((BASE / "tokenizer_config.json").read_text())
    about = {key: value for key, value in about.items() if not key.startswith("eos_")}
    (base / "tokenizer_config.json").write_text(json.dumps(about))
    table = write(tmp_path / "in.parquet", [row("a")], SPLIT)
    with pytest.raises(StageError, match="no end-of-text token"):
        tokenize(table, str(base), tmp_path, "train", wanted())
