"""However many parts a split is tokenized in, it is one data set, mapped into memory, with one hash of its content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_from_disk

from builders import read, row, settings, write
from encode import encode
from snaketune.job import StageError
from snaketune.model.batches import Rows
from snaketune.rows import SPLIT
from token_runs import tokenize

BASE = str(Path(__file__).parent.parent / "resources/tiny-gpt")
ROWS = [
    row(f"answer {number} " + "union " * (number % 30), f"question {number}" if number % 3 else None, line=number)
    for number in range(40)
]


def made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The manifest of the rows, tokenized in a folder of their own."""
    folder.mkdir(exist_ok=True)
    wanted = settings("tokenize", **{"backend": "huggingface", "max_length": 16} | changes)
    tokenize(write(folder / "in.parquet", rows, SPLIT), BASE, folder, "train", wanted | {"trust_remote_code": False})
    return json.loads((folder / "train.json").read_text())


@pytest.mark.parametrize("backend", ["huggingface", "gigatoken"])
def test_one_part_and_seven_make_the_same_data_set(tmp_path: Path, backend: str) -> None:
    one, seven = (tmp_path / str(parts) for parts in (1, 7))
    manifests = made(one, ROWS, backend=backend), made(seven, ROWS, shards=7, backend=backend)
    assert len(list((seven / "train").glob("*.arrow"))) == 7
    assert load_from_disk(one / "train").to_list() == load_from_disk(seven / "train").to_list()
    assert manifests[0]["truncated"] > 3
    for name in ("train.json", "train.notes.parquet", "train/dataset_info.json"):
        assert (one / name).read_bytes() == (seven / name).read_bytes()


@pytest.mark.parametrize("parts", [1, 3])
def test_the_folder_is_mapped_into_memory_and_read_as_the_training_reads_it(tmp_path: Path, parts: int) -> None:
    before = pa.total_allocated_bytes()
    made(tmp_path, ROWS * 200, shards=parts)
    loaded = load_from_disk(tmp_path / "train")
    assert len(loaded.cache_files) == parts
    assert pa.total_allocated_bytes() - before < 50_000 < loaded.data.nbytes
    rows = Rows(str(tmp_path / "train"))
    assert rows.lengths.tolist() == [len(line["input_ids"]) for line in loaded.to_list()]
    assert rows[len(rows) - 1].tolist() == loaded[len(rows) - 1]["input_ids"]


def test_the_hash_is_that_of_ids_lengths_borders_and_row_ids(tmp_path: Path) -> None:
    manifest = made(tmp_path, ROWS, shards=3)
    lines = load_from_disk(tmp_path / "train").to_list()
    streams = [
        b"".join(np.array(line["input_ids"], "<i4").tobytes() for line in lines),
        np.array([len(line["input_ids"]) for line in lines], "<i4").tobytes(),
        np.array([line["prompt_len"] for line in lines], "<i4").tobytes(),
        "".join(line["row_id"] + "\n" for line in lines).encode(),
    ]
    whole = hashlib.sha256(b"".join(hashlib.sha256(stream).digest() for stream in streams)).hexdigest()
    assert manifest["sha256"] == whole
    assert json.loads((tmp_path / "train/state.json").read_text())["_fingerprint"] == whole[:16]


def test_the_hash_changes_with_any_content_and_with_nothing_else(tmp_path: Path) -> None:
    first, other = row("b", "a"), row("c", "a")
    same = made(tmp_path / "same", [first, other])["sha256"]
    assert made(tmp_path / "again", [first, other], backend="gigatoken")["sha256"] == same
    different = {
        "order": [other, first],
        "content": [first, row("d", "a")],
        "fewer": [first],
        "border": [first | {"prompt": None, "completion": "a\nb"}, other],
        "name": [first | {"row_id": "another"}, other],
    }
    hashes = {made(tmp_path / name, rows)["sha256"] for name, rows in different.items()}
    assert len(hashes | {same}) == 6


def test_a_moved_border_alone_changes_the_hash(tmp_path: Path) -> None:
    hashes = []
    for name, line in {"pair": row("b", "a", row_id="x"), "text": row("a\nb", row_id="x")}.items():
        manifest = made(tmp_path / name, [line])
        hashes.append((load_from_disk(tmp_path / name / "train")[0]["input_ids"], manifest["sha256"]))
    assert hashes[0][0] == hashes[1][0]
    assert hashes[0][1] != hashes[1][1]


def test_counts_are_summed_and_notes_are_joined_in_order(tmp_path: Path) -> None:
    manifest = made(tmp_path, ROWS, shards=3, overlong_text="drop")
    parts = [json.loads(path.read_text()) for path in sorted((tmp_path / "parts").glob("*.json"))]
    for name in ("rows", "tokens", "trained_tokens", "truncated", "dropped"):
        assert manifest[name] == sum(part[name] for part in parts)
    assert manifest["texts"] == {"gigatoken": 0, "huggingface": 40 + sum(line["prompt"] is not None for line in ROWS)}
    notes = read(tmp_path / "train.notes.parquet")
    assert len(notes) == manifest["truncated"] + manifest["dropped"]
    assert [note["line"] for note in notes] == sorted(note["line"] for note in notes)
    loaded = load_from_disk(tmp_path / "train")
    assert manifest["rows"] == len(loaded) == 40 - manifest["dropped"]
    assert (manifest["max_length"], manifest["vocabulary"]) == (16, 6144)
    assert (manifest["backend"], manifest["why"]) == ("huggingface", "asked for")


def test_an_empty_part_is_well_among_others_and_an_empty_split_is_told(tmp_path: Path) -> None:
    made(tmp_path / "few", ROWS[:2], shards=5)
    assert [line["row_id"] for line in load_from_disk(tmp_path / "few/train").to_list()] == [
        line["row_id"] for line in ROWS[:2]
    ]
    assert Rows(str(tmp_path / "few/train")).lengths.size == 2
    for parts in (1, 3):
        with pytest.raises(StageError, match=r"no row of the train split is left; .* at 8 tokens"):
            made(tmp_path / "none", [row(" union" * 20)], shards=parts, max_length=8, overlong_text="drop")


def test_an_empty_table_is_no_failure_of_its_part(tmp_path: Path) -> None:
    table = write(tmp_path / "in.parquet", [], SPLIT)
    outputs = {name: str(tmp_path / name) for name in ("tokens", "about", "notes")}
    for backend in ("auto", "huggingface"):
        encode(table, BASE, outputs, settings("tokenize", backend=backend) | {"trust_remote_code": False})
        assert json.loads((tmp_path / "about").read_text())["rows"] == 0


def test_files_of_an_earlier_run_with_more_parts_are_removed(tmp_path: Path) -> None:
    made(tmp_path, ROWS, shards=3)
    made(tmp_path, ROWS)
    assert [path.name for path in (tmp_path / "train").glob("*.arrow")] == ["data-00000.arrow"]
