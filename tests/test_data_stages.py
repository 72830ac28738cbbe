"""The data stages as a whole: the same bytes whatever the shards, the order and the cores; the optional stages."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import micro

DATA = ("results/micro/ledger.parquet", "results/micro/data.html")
CONTENT = ("tokens/train/", "tokens/validation/", "tokens/test/")
BOOKS = ("split/", "dedup/clusters", "dedup/evidence", "dedup/dropped", "ledger", "data.html")


def hashes(folder: Path, *beginnings: str) -> dict[str, str]:
    """A hash of every file of the results whose name begins so."""
    results = folder / "results/micro"
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in results.rglob("*")
        if path.is_file() and (name := path.relative_to(results).as_posix()).startswith(beginnings)
    }


def configure(folder: Path, **sections: Any) -> None:
    """Lay sections over the configuration of the workspace."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
    for name, values in sections.items():
        config[name] = config.get(name, {}) | values if isinstance(values, dict) else values
    micro.write_config(folder, config)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table of the results."""
    return pq.read_table(folder / "results/micro" / name).to_pylist()


def test_data_files_are_byte_identical_in_another_place_with_one_core(built: Path, tmp_path: Path) -> None:
    again = micro.make(tmp_path / "again")
    micro.snakemake(again, "--cores", "1", *DATA)
    everything = ("ingest/", "clean/", "dedup/", "split/", "tokens/", "ledger", "data.html")
    assert hashes(again, *everything) == hashes(built, *everything)


@pytest.mark.slow
def test_results_do_not_depend_on_shards_or_on_the_order_of_rows(workspace: Callable[[], Path]) -> None:
    rows = [row | {"extra": "x" * 40_000} for seed in range(1, 5) for row in micro.rows(48, seed=seed)]
    one, seven, shuffled = workspace(), workspace(), workspace()
    for folder in (one, seven):
        micro.write_rows(folder / "data/large.jsonl", rows)
    configure(seven, source={"shard_mb": 1}, tokenize={"shards": 3})
    random.Random(1).shuffle(rows)
    for number in range(3):
        micro.write_rows(shuffled / f"data/part{number}.jsonl", rows[number::3])
    for folder, cores in ((one, "2"), (seven, "2"), (shuffled, "1")):
        micro.snakemake(folder, "--cores", cores, *DATA)
    assert len(list((one / "results/micro/ingest").glob("rows-*"))) == 1
    assert len(list((seven / "results/micro/ingest").glob("rows-*"))) >= 7
    assert hashes(seven, *BOOKS) == hashes(one, *BOOKS)
    for split in ("train", "validation", "test"):
        contents = {manifest(folder, split)["sha256"] for folder in (one, seven, shuffled)}
        assert len(contents) == 1
    assert hashes(shuffled, *CONTENT) == hashes(one, *CONTENT)
    assert hashes(shuffled, "dedup/evidence") == hashes(one, "dedup/evidence")


def manifest(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"results/micro/tokens/{split}.json").read_text(encoding="utf-8"))


def test_the_optional_stages_do_their_work_and_the_books_still_balance(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    made = micro.rows(48)
    made[3]["answer"] += " write to jane.doe@example.org"
    made[5]["answer"] += " gadzooks and more of it"
    micro.write_rows(folder / "data/rows.jsonl", made)
    (folder / "words.txt").write_text("# a list\nGadzooks\n", encoding="utf-8")
    tests = [{"question": made[7]["question"], "answer": made[7]["answer"]}]
    micro.write_rows(folder / "held/tests.jsonl", tests)
    configure(
        folder,
        clean={"pii": {"action": "mask"}, "toxicity": {"action": "drop", "words": "words.txt"}},
        decontaminate={"files": "held/*.jsonl", "action": "drop", "ngram": 8},
        augment=[{"method": "swap", "copies": 2}],
    )
    micro.snakemake(folder, *DATA, "results/micro/annotate/tasks.json")
    ledger = {(line["stage"], line["rule"]): line for line in read(folder, "ledger.parquet") if not line["kept"]}
    assert {("clean", "toxicity"), ("split", "contaminated")} <= set(ledger)
    kept = [row for split in ("train", "validation", "test") for row in read(folder, f"split/{split}.parquet")]
    assert "[EMAIL]" in " ".join(row["completion"] for row in kept)
    assert not {made[5]["answer"], made[7]["answer"]} & {row["completion"] for row in kept}
    learnt = read(folder, "augment/train.parquet")
    parents = {row["row_id"]: row for row in read(folder, "split/train.parquet")}
    children = [row for row in learnt if row["source"] == "augment:swap"]
    assert children
    assert all(parents[json.loads(row["meta"])["parent"]]["family"] == row["family"] for row in children)
    assert manifest(folder, "train")["rows"] == len(learnt)
    tasks = json.loads((folder / "results/micro/annotate/tasks.json").read_text(encoding="utf-8"))
    assert {task["data"]["row_id"] for task in tasks} <= set(parents)


def test_what_annotators_decide_reaches_the_rows(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.snakemake(folder, "results/micro/annotate/tasks.json")
    tasks = json.loads((folder / "results/micro/annotate/tasks.json").read_text(encoding="utf-8"))
    rejected, mended = tasks[0]["data"]["row_id"], tasks[1]["data"]["row_id"]
    verdict = {"from_name": "verdict", "to_name": "prompt", "type": "choices", "value": {"choices": ["reject"]}}
    text = {"from_name": "completion", "to_name": "prompt", "type": "textarea", "value": {"text": ["a better answer"]}}
    export = [
        task | {"annotations": [{"id": 1, "was_cancelled": False, "result": [result]}]}
        for task, result in zip(tasks, (verdict, text), strict=False)
    ]
    (folder / "decided.json").write_text(json.dumps(export), encoding="utf-8")
    configure(folder, annotate={"files": "decided.json"})
    micro.snakemake(folder, *DATA)
    kept = {
        row["row_id"]: row for name in ("train", "validation", "test") for row in read(folder, f"split/{name}.parquet")
    }
    assert rejected not in kept
    assert kept[mended]["completion"] == "a better answer"
    (line,) = [line for line in read(folder, "ledger.parquet") if line["row_id"] == rejected]
    assert (line["stage"], line["rule"]) == ("clean", "annotated_reject")
