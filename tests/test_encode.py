"""Ids are those of the model's own tokenizer, no token is lost, and the manifest's hash is that of the content."""

import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from encode import encode, fit, longest
from snaketune.job import StageError
from snaketune.rows import SPLIT

ROOT = Path(__file__).parent.parent
BASE = ROOT / "resources/tiny-gpt"
TEXTS = ["The state of the Union is strong.", "Ünïcödé 日本語 👍🏽", " leading and trailing ", "a\n\nb\tc", "x"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE, local_files_only=True)


def run(
    folder: Path, rows: list[dict[str, Any]], **changes: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], list[Any]]:
    """The rows as `datasets` loads them, the manifest, and the notes."""
    from datasets import load_from_disk

    outputs = {"folder": str(folder / "train"), "manifest": str(folder / "train.json"), "notes": str(folder / "notes")}
    table = write(folder / "in.parquet", rows, SPLIT)
    encode(table, str(BASE), outputs, settings("tokenize", **changes) | {"trust_remote_code": False})
    loaded = load_from_disk(outputs["folder"])
    return loaded.to_list(), json.loads(Path(outputs["manifest"]).read_text()), read(outputs["notes"])


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("separator", ["\n", " -> ", ""])
def test_ids_are_prompt_and_separator_then_completion_then_the_end(
    tmp_path: Path, tokenizer: Any, separator: str
) -> None:
    rows = [row(text, prompt) for text in TEXTS for prompt in (None, *TEXTS)]
    loaded, manifest, notes = run(tmp_path, rows, separator=separator)
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


def test_a_long_text_is_cut_into_chunks_that_lose_nothing(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(" union" * count) for count in range(12, 22)]
    loaded, _, notes = run(tmp_path, rows, max_length=8)
    for line in rows:
        chunks = [encoded["input_ids"] for encoded in loaded if encoded["row_id"] == line["row_id"]]
        assert list(chain(*chunks)) == [*ids(tokenizer, line["completion"]), tokenizer.eos_token_id]
        assert all(2 <= len(chunk) <= 8 for chunk in chunks)
    assert not notes
    assert all(line["prompt_len"] == 0 for line in loaded)


@bounds(max_examples=100)
@given(st.integers(2, 60), st.integers(8, 20))
def test_chunks_are_whole_and_trainable_for_any_length(tokens: int, length: int) -> None:
    tail = list(range(tokens))
    kept, rule = fit([], tail, length, settings("tokenize"))
    assert rule is None
    assert list(chain(*(chunk for chunk, _ in kept))) == tail
    assert all(2 <= len(chunk) <= length for chunk, _ in kept)


@bounds(max_examples=100)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(8, 20))
def test_a_cut_pair_keeps_the_whole_completion_and_the_end_of_the_prompt(head: int, tail: int, length: int) -> None:
    prompt, completion = [*range(head)], [*range(100, 100 + tail)]
    kept, rule = fit(prompt, completion, length, settings("tokenize"))
    if tail >= length and head + tail > length:
        assert (kept, rule) == ([], "overlong")
        return
    ((encoded, border),) = kept
    assert encoded[border:] == completion
    assert encoded[:border] == prompt[-border:]
    assert len(encoded) == min(length, head + tail)
    assert rule == ("truncated" if head + tail > length else None)


@pytest.mark.parametrize(("choice", "rules"), [("truncate", ["truncated", "overlong"]), ("drop", ["overlong"] * 2)])
def test_what_is_cut_or_dropped_is_noted_with_its_length(tmp_path: Path, choice: str, rules: list[str]) -> None:
    rows = [row("short", "p"), row("short", "union " * 20, line=2), row(" union" * 20, "p", line=3)]
    loaded, manifest, notes = run(tmp_path, rows, max_length=8, overlong_pairs=choice)
    assert [note["line"] for note in notes] == [2, 3]
    assert [note["rule"] for note in notes] == rules
    assert all(note["threshold"] == 8 and note["value"] > 20 and note["stage"] == "tokenize" for note in notes)
    assert (manifest["truncated"], manifest["dropped"]) == (rules.count("truncated"), rules.count("overlong"))
    assert len(loaded) == manifest["rows"] == 3 - manifest["dropped"]


@pytest.mark.parametrize(("choice", "count", "rule"), [("truncate", 1, "truncated"), ("drop", 0, "overlong")])
def test_an_overlong_text_is_cut_or_dropped_as_set(tmp_path: Path, choice: str, count: int, rule: str) -> None:
    rows = [row("short"), row(" union" * 20, line=2)]
    loaded, _, notes = run(tmp_path, rows, max_length=8, overlong_text=choice)
    assert [len(line["input_ids"]) for line in loaded[1:]] == [8] * count
    assert [(note["line"], note["rule"]) for note in notes] == [(2, rule)]


def test_a_split_of_which_no_row_is_left_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no row of .* at 8 tokens"):
        run(tmp_path, [row(" union" * 20)], max_length=8, overlong_text="drop")


def test_the_length_is_bounded_by_the_positions_of_the_model() -> None:
    assert longest(None, {"n_positions": 512}) == 512
    assert longest(None, {"max_position_embeddings": 4096}) == 1024
    assert longest(None, {}) == 1024
    assert longest(2048, {"max_position_embeddings": 4096}) == 2048
    with pytest.raises(StageError, match="has 512 positions"):
        longest(513, {"n_positions": 512})


def test_the_hash_of_the_manifest_is_that_of_the_content_and_not_of_the_time(tmp_path: Path) -> None:
    def made(name: str, *rows: dict[str, Any], **changes: Any) -> tuple[str, list[bytes]]:
        (folder := tmp_path / name).mkdir()
        _, manifest, _ = run(folder, list(rows), **changes)
        return manifest["sha256"], [path.read_bytes() for path in sorted((folder / "train").iterdir())]

    first, other = row("b", "a"), row("c", "a")
    same = made("one", first, other)
    assert made("two", first, other) == same
    different = [
        made("order", other, first),
        made("content", first, row("d", "a")),
        made("fewer", first),
        made("border", row("a\nb"), other),
        made("name", first | {"row_id": "another"}, other),
    ]
    assert len({digest for digest, _ in [same, *different]}) == 6


def test_a_moved_border_alone_changes_the_hash(tmp_path: Path) -> None:
    hashes = []
    for name, line in {"pair": row("b", "a", row_id="x"), "text": row("a\nb", row_id="x")}.items():
        (folder := tmp_path / name).mkdir()
        loaded, manifest, _ = run(folder, [line])
        hashes.append((loaded[0]["input_ids"], manifest["sha256"]))
    assert hashes[0][0] == hashes[1][0]
    assert hashes[0][1] != hashes[1][1]


def test_a_tokenizer_that_its_json_describes_is_read_without_torch(tmp_path: Path) -> None:
    table = write(tmp_path / "in.parquet", [row("a", "b")], SPLIT)
    outputs = {"folder": str(tmp_path / "out"), "manifest": str(tmp_path / "m.json"), "notes": str(tmp_path / "n")}
    wanted = settings("tokenize") | {"trust_remote_code": False}
    code = (
        f"import sys; sys.path.insert(0, 'workflow/scripts'); from encode import encode\n"
        f"encode({table!r}, {str(BASE)!r}, {outputs!r}, {wanted!r})\n"
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
        encode(table, str(base), {"folder": str(tmp_path / "o")}, settings("tokenize") | {"trust_remote_code": False})
