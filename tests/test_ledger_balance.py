"""The books balance in characters too, and the ledger is the same however the rows were dealt to shards."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row
from snaketune.books import in_order, pair
from snaketune.job import StageError
from test_ledger import drop, run

A, B, C, D = (row(f"text {number}", "what?", line=number) for number in range(1, 5))


def shorter(line: dict[str, Any], chars: int) -> dict[str, Any]:
    """The row after cleaning has left so many characters of its completion; it keeps its id."""
    return line | {"completion": line["completion"][:chars]}


def test_a_line_has_the_characters_before_cleaning_and_those_that_are_kept(tmp_path: Path) -> None:
    plain = row("äöü€🙂", line=9)  # five code points, fifteen bytes
    lines = run(
        tmp_path,
        raw=[A, B, C, plain],
        clean=[shorter(A, 4), shorter(B, 2), C, plain],
        duplicates=[drop(C, "dedup", "exact_duplicate")],
        notes=[drop(B, "tokenize", "overlong")],
        splits=[[shorter(A, 4), shorter(B, 2)], [plain]],
        quarantine=[{"row_id": "0" * 32, "source": "raw", "line": 10, "reason": "r", "head": ""}],
    )
    told = [(line["line"], line["kept"], line["chars"], line["chars_kept"]) for line in lines]
    assert told == [
        (1, True, 11, 9), (2, False, 11, 0), (3, False, 11, 0), (9, True, 5, 5), (10, False, None, 0)
    ]  # fmt: skip
    assert run.summary == (
        "5 raw rows = 2 kept + 3 dropped; 38 characters = 14 kept + 22 dropped + 2 taken out by cleaning"
    )


def test_cleaning_may_also_put_characters_in(tmp_path: Path) -> None:
    longer = A | {"completion": "filled in"}
    run(tmp_path, raw=[A], clean=[longer], splits=[[longer]])
    assert run.summary.endswith("11 characters = 14 kept + 0 dropped - 3 that cleaning put in")


def test_rows_that_the_split_drops_are_told_as_such(tmp_path: Path) -> None:
    undealt = [drop(B, "split", "contaminated", 0.9), drop(C, "split", "straddles_splits", float("nan"))]
    lines = run(tmp_path, raw=[A, B, C], undealt=undealt, splits=[[A]])
    told = [(line["stage"], line["rule"], line["kept"], line["split"]) for line in lines]
    assert told == [
        ("tokenize", "", True, "train"),
        ("split", "contaminated", False, None),
        ("split", "straddles_splits", False, None),
    ]
    assert [line["value"] for line in lines] == [None, 0.9, None]


def test_notes_on_rows_that_augmentation_made_are_no_business_of_the_ledger(tmp_path: Path) -> None:
    child = row("a child", source="augment:swap", line=1)
    lines = run(tmp_path, raw=[A], splits=[[A]], notes=[drop(child, "tokenize", "overlong")])
    assert [line["row_id"] for line in lines] == [A["row_id"]]


@pytest.mark.parametrize(
    ("books", "words"),
    [
        ({"clean": [A], "splits": [[shorter(A, 3)]]}, "had 11 characters after cleaning, and has 8 in the train split"),
        ({"clean": [A, B], "splits": [[A]]}, "stands in clean/, but was never read"),
        (
            {"dropped": [drop(A, "clean", "empty")], "clean": [A]},
            "stands in clean/, but was never read, or was dropped",
        ),
        ({"splits": [[A]], "notes": [drop(B, "tokenize", "overlong")]}, "which was never read, or stands in no split"),
        ({"undealt": [drop(A, "split", "contaminated")], "splits": [[A]]}, "stands in the train split, but was never"),
        ({"undealt": [drop(B, "split", "contaminated")], "splits": [[A]]}, "split dropped the row"),
        ({"duplicates": [drop(A | {"source": "zz"}, "dedup", "x")], "splits": [[A]]}, "dedup dropped the row"),
        ({"splits": [[A]], "clusters": []}, "1 rows that cleaning kept, but 0 rows of the clusters"),
        ({"splits": [[A]], "clusters": [A | {"chars": 7, "kept": True}]}, "11 characters that cleaning kept, but 7"),
        (
            {"splits": [[A]], "clusters": [A | {"chars": 11, "kept": False}]},
            "0 rows that deduplication dropped, but 1 rows that the clusters do not keep",
        ),
        ({"clean": [], "clusters": [], "splits": [[A]]}, "was neither kept nor dropped by cleaning"),
    ],
)
def test_books_that_do_not_balance_are_refused(tmp_path: Path, books: dict[str, Any], words: str) -> None:
    with pytest.raises(StageError) as caught:
        run(tmp_path, raw=[A], **books)
    assert words in str(caught.value)
    assert not (tmp_path / "ledger.parquet").exists()


def a_run(seed: int) -> dict[str, Any]:
    """A run with rows of every fate, in the order in which ingest reads them: names as paths are sorted, then lines."""
    draw = random.Random(seed)
    fates = ["clean", "duplicates", "undealt", "overlong", "truncated", *["kept"] * 5]
    books: dict[str, Any] = {"raw": [], "dropped": [], "duplicates": [], "undealt": [], "notes": [], "quarantine": []}
    splits: list[list[dict[str, Any]]] = [[], [], []]
    # As paths, a/x stands before a-b; as text, after it.
    for source in ("a/x.jsonl", "a/y.jsonl", "a-b/z.jsonl", "b.jsonl", "c.jsonl"):
        for line in range(1, 30):
            if draw.random() < 0.1:
                name = f"{draw.getrandbits(128):032x}"
                books["quarantine"].append({"row_id": name, "source": source, "line": line, "reason": "r", "head": "h"})
                continue
            made = row(f"{source} {line} " + "x" * draw.randrange(40), line=line, source=source)
            books["raw"].append(made)
            fate = draw.choice(fates)
            if fate in ("clean", "duplicates", "undealt"):
                stage = {"clean": "clean", "duplicates": "dedup", "undealt": "split"}[fate]
                books["dropped" if fate == "clean" else fate].append(
                    drop(made, stage, draw.choice("xyz"), draw.random())
                )
                continue
            splits[draw.randrange(3)].append(made)
            if fate != "kept":
                books["notes"].append(drop(made, "tokenize", fate, draw.random()))
    return books | {"splits": [sorted(split, key=lambda line: line["row_id"]) for split in splits]}


def dealt(books: dict[str, Any], place: Any) -> list[dict[str, Any]]:
    """The parts of a run that stand in shards, dealt by a function from (source, line) to the number of the shard."""
    shards: dict[int, dict[str, Any]] = {}
    for name in ("raw", "quarantine", "dropped"):
        for line in books[name]:
            shard = shards.setdefault(place(line["source"], line["line"]), {"raw": [], "quarantine": [], "dropped": []})
            shard[name].append(line)
    return [shards[number] for number in sorted(shards)]


NAMES = ["a/x.jsonl", "a/y.jsonl", "a-b/z.jsonl", "b.jsonl", "c.jsonl"]
DEALS = {
    "a file a shard": lambda source, line: NAMES.index(source),
    "files cut": lambda source, line: NAMES.index(source) * 3 + (line - 1) // 10,
    "names out of order across shards": lambda source, line: NAMES.index(source) // 2,
    "shards out of order": lambda source, line: -NAMES.index(source),
    "lines dealt like cards": lambda source, line: line % 7,
}


@pytest.mark.parametrize("deal", DEALS)
def test_the_ledger_is_the_same_bytes_however_the_rows_are_dealt_to_shards(tmp_path: Path, deal: str) -> None:
    books = a_run(1)
    expected = run(tmp_path / "one", dealt(books, lambda source, line: 0), **books)
    keys = [(line["source"], line["line"], line["row_id"], line["rule"]) for line in expected]
    assert keys == sorted(keys)
    assert len(keys) == len(books["raw"]) + len(books["quarantine"])
    run(tmp_path / "many", dealt(books, DEALS[deal]), **books)
    for name in ("ledger", "quarantine"):
        assert (tmp_path / "many" / f"{name}.parquet").read_bytes() == (
            tmp_path / "one" / f"{name}.parquet"
        ).read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_each_row_has_the_fate_that_a_look_through_all_files_finds(tmp_path: Path, seed: int) -> None:
    books = a_run(seed)
    fates = {}
    for split, lines in zip(("train", "validation", "test"), books["splits"], strict=True):
        fates |= {line["row_id"]: ("tokenize", "", True, split, None, len(line["completion"])) for line in lines}
    for name in ("dropped", "duplicates", "undealt", "notes"):
        for line in books[name]:
            before = fates.get(line["row_id"], (None,) * 6)
            kept = line["rule"] == "truncated"
            fates[line["row_id"]] = (
                line["stage"], line["rule"], kept, before[3], line["value"], before[5] if kept else 0
            )  # fmt: skip
    fates |= {line["row_id"]: ("ingest", "quarantine", False, None, None, 0) for line in books["quarantine"]}
    lines = run(tmp_path, dealt(books, DEALS["files cut"]), **books)
    columns = ("stage", "rule", "kept", "split", "value", "chars_kept")
    assert {line["row_id"]: tuple(line[name] for name in columns) for line in lines} == fates


def test_a_quarantine_out_of_order_is_sorted(tmp_path: Path) -> None:
    bad = [{"row_id": f"{9 - n:032x}", "source": "raw", "line": n // 2, "reason": "r", "head": "h"} for n in range(9)]
    run(tmp_path, raw=[A], splits=[[A]], quarantine=bad[::-1])
    found = read(tmp_path / "quarantine.parquet")
    assert found == sorted(bad, key=lambda line: (line["source"], line["line"], line["row_id"]))


@bounds(max_examples=80)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12),
    others=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12),
)
def test_the_nth_of_equal_keys_is_the_nth_of_the_other_table(rows: list[Any], others: list[Any]) -> None:
    expected, taken = [], set()
    for other in others:
        found = next((n for n, row in enumerate(rows) if row == other and n not in taken), -1)
        expected.append(found)
        taken.add(found)
    keys = [np.array([(*key, 0, 0) for key in part], dtype=np.uint64).reshape(-1, 4) for part in (rows, others)]
    assert pair(*keys).tolist() == expected
    assert [rows[n] for n in in_order(keys[0])] == sorted(rows)
