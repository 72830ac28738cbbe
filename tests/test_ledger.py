"""The books balance: every raw row is on one line, kept in one split or dropped by one rule."""

from pathlib import Path
from typing import Any

import pytest

from builders import read, row, write
from ledger import ledger
from snaketune.job import StageError
from snaketune.rows import CLUSTERS, DROPPED, QUARANTINE, ROW, SPLIT


def drop(line: dict[str, Any], stage: str, rule: str, value: float = 1.0) -> dict[str, Any]:
    where = {name: line[name] for name in ("row_id", "source", "line")}
    return where | {"stage": stage, "rule": rule, "value": value, "threshold": 2.0}


def counted(line: dict[str, Any]) -> int:
    return len(line["prompt"] or "") + len(line["completion"])


def clean_of(raw: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The raw rows that cleaning did not drop."""
    gone = [(line["row_id"], line["source"], line["line"]) for line in dropped]
    return [line for line in raw if (line["row_id"], line["source"], line["line"]) not in gone]


def run(folder: Path, shards: list[dict[str, Any]] | None = None, **books: Any) -> list[dict[str, Any]]:
    """The ledger of raw, quarantined, clean and dropped rows (in one shard or several), and of what the later stages
    say of them; each a list of rows. What cleaning leaves, and the clusters, follow unless they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"raw": ROW, "quarantine": QUARANTINE, "clean": ROW, "dropped": DROPPED}
    shards = shards or [{name: books[name] for name in kinds if name in books}]
    paths: dict[str, list[str]] = {name: [] for name in kinds}
    clean = []
    for number, shard in enumerate(shards):
        shard.setdefault("clean", clean_of(shard.get("raw", []), shard.get("dropped", [])))
        clean += shard["clean"]
        for name, schema in kinds.items():
            paths[name].append(write(folder / f"{name}{number}.in", shard.get(name, []), schema))
    gone = books.get("duplicates", [])
    clusters = books.get("clusters", [line | {"chars": counted(line), "kept": True} for line in clean])
    for line, _ in zip(reversed(clusters), gone, strict=False):
        line["kept"] = False
    paths["clusters"] = [write(folder / "clusters.in", clusters, CLUSTERS)]
    for name in ("duplicates", "undealt", "notes"):
        paths[name] = [write(folder / f"{name}.in", books.get(name, []), DROPPED)]
    splits = [*books.get("splits", []), [], [], []][:3]
    paths["splits"] = [write(folder / f"split{number}.in", part, SPLIT) for number, part in enumerate(splits)]
    outputs = {name: str(folder / f"{name}.parquet") for name in ("ledger", "quarantine")}
    run.summary = ledger(paths, outputs)
    return read(outputs["ledger"])


A, B, C, D, E = (row(f"text {number}", line=number) for number in range(1, 6))


def test_every_raw_row_has_one_line_with_its_stage_and_rule(tmp_path: Path) -> None:
    aside = {"row_id": "f" * 32, "source": "raw", "line": 6, "reason": "broken", "head": "{"}
    lines = run(
        tmp_path,
        raw=[E, D, C, B, A],
        quarantine=[aside],
        dropped=[drop(A, "clean", "too_short")],
        duplicates=[drop(B, "dedup", "near_duplicate", 0.9)],
        notes=[drop(C, "tokenize", "overlong", 99), drop(D, "tokenize", "truncated", 77)],
        splits=[[C], [D], [E]],
    )
    told = [(line["line"], line["stage"], line["rule"], line["kept"], line["split"]) for line in lines]
    assert told == [
        (1, "clean", "too_short", False, None),
        (2, "dedup", "near_duplicate", False, None),
        (3, "tokenize", "overlong", False, "train"),
        (4, "tokenize", "truncated", True, "validation"),
        (5, "tokenize", "", True, "test"),
        (6, "ingest", "quarantine", False, None),
    ]
    assert [line["value"] for line in lines] == [1.0, 0.9, 99.0, 77.0, None, None]
    assert run.summary == (
        "6 raw rows = 2 kept + 4 dropped; 30 characters = 12 kept + 18 dropped + 0 taken out by cleaning"
    )
    assert read(tmp_path / "quarantine.parquet") == [aside]


def test_a_run_that_drops_nothing_balances(tmp_path: Path) -> None:
    lines = run(tmp_path, raw=[A, B, C], splits=[[A], [B], [C]])
    assert [(line["kept"], line["rule"], line["split"]) for line in lines] == [
        (True, "", "train"), (True, "", "validation"), (True, "", "test")
    ]  # fmt: skip


def test_equal_rows_of_several_lines_and_files_are_told_apart(tmp_path: Path) -> None:
    others = [A | {"line": 7}, A | {"source": "b"}]
    lines = run(
        tmp_path,
        raw=[A, *others],
        duplicates=[drop(other, "dedup", "exact_duplicate") for other in others],
        splits=[[A]],
    )
    assert [(line["source"], line["line"], line["kept"], line["split"]) for line in lines] == [
        ("b", 1, False, None),
        ("raw", 1, True, "train"),
        ("raw", 7, False, None),
    ]


def test_equal_rows_that_two_templates_make_of_one_line_are_told_apart(tmp_path: Path) -> None:
    lines = run(tmp_path, raw=[A, A], duplicates=[drop(A, "dedup", "exact_duplicate")], splits=[[A]])
    assert sorted(line["kept"] for line in lines) == [False, True]


def test_the_rows_of_one_line_stand_in_the_order_of_their_ids_then_of_their_rules(tmp_path: Path) -> None:
    made = [row(f"template {number}") for number in range(6)]
    first = min(made, key=lambda line: line["row_id"])
    gone = [drop(first, "dedup", rule) for rule in ("near_duplicate", "exact_duplicate")]
    lines = run(tmp_path, raw=[*made, first, first], duplicates=gone, splits=[made])
    told = [(line["row_id"], line["rule"]) for line in lines]
    assert told == sorted(told)
    assert [rule for _, rule in told[:3]] == ["", "exact_duplicate", "near_duplicate"]


@pytest.mark.parametrize(
    ("books", "words"),
    [
        ({"raw": [A, B], "splits": [[A]]}, "was dropped by no stage and stands in no split"),
        ({"raw": [A], "splits": [[A, B]]}, "stands in the train split, but was never read"),
        ({"raw": [A], "dropped": [drop(A, "clean", "empty")], "splits": [[A]]}, "never read, or was dropped"),
        ({"raw": [A], "dropped": [drop(B, "clean", "empty")], "splits": [[A]]}, "clean dropped the row"),
        ({"raw": [A, A | {"line": 9}], "splits": [[A]]}, "was read twice"),
        ({"raw": [A, A | {"line": 9}], "splits": [[A], [A]]}, "is kept twice; set `dedup.exact: true`"),
        ({"raw": [A], "splits": [[A], [A]]}, "is kept twice"),
        (
            {"raw": [A], "dropped": [drop(A, "clean", "empty")], "duplicates": [drop(A, "dedup", "exact_duplicate")]},
            "dropped the row",
        ),
    ],
)
def test_an_invented_lost_or_doubled_row_is_refused(tmp_path: Path, books: dict[str, Any], words: str) -> None:
    with pytest.raises(StageError) as caught:
        run(tmp_path, **books)
    assert words in str(caught.value)
    assert not (tmp_path / "ledger.parquet").exists()
