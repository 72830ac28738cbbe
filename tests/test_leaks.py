"""Whatever of validation or test stands in train is found, without the machinery that should have kept it out."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import read, row, settings, write
from leaks import leaks
from snaketune.job import StageError
from snaketune.leaks import near_rows, overlap
from snaketune.rows import SPLIT

SPLITS = ("train", "validation", "test")
Tables = dict[str, list[dict[str, Any]]]


def text(seed: str, words: int = 60) -> str:
    """A text of made-up words that shares none with the text of another seed."""
    draw = random.Random(seed)
    return " ".join(f"{seed}{draw.randrange(10**6)}" for _ in range(words))


def sound(count: int = 6) -> Tables:
    """Splits without a leak."""
    return {split: [dealt(text(f"{split[:2]}{n}"), f"ask {split} {n}", line=n) for n in range(count)]
            for split in SPLITS}  # fmt: skip


def dealt(completion: str, prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    made = row(completion, prompt, **fields)
    return {"cluster": made["row_id"], "family": made["row_id"]} | made


def run(folder: Path, tables: Tables, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """leaks.json and leaks.parquet of tables."""
    paths = {
        split: write(folder / f"{split}.parquet", sorted(rows, key=lambda one: one["row_id"]), SPLIT)
        for split, rows in tables.items()
    }
    outputs = {"checks": str(folder / "leaks.json"), "nearest": str(folder / "leaks.parquet")}
    (folder / "told").write_text(leaks(paths, outputs, {"shingle_words": 5} | settings("leaks", **changes)))
    return json.loads((folder / "leaks.json").read_text()), read(outputs["nearest"])


def test_splits_without_a_leak_pass_and_every_check_of_every_pair_is_written_down(tmp_path: Path) -> None:
    report, nearest = run(tmp_path, sound())
    names = ("row_id", "text", "cluster", "family", "group", "prompt")
    pairs = ("train-validation", "train-test", "validation-test")
    assert [(check["name"], check["pair"]) for check in report["checks"]] == [(n, p) for n in names for p in pairs]
    assert all(check["count"] == 0 and check["examples"] == [] for check in report["checks"])
    assert report["passed"] is True
    assert report["near"]["rows"] == {"validation": 6, "test": 6}
    assert [line["split"] for line in nearest] == ["test"] * 6 + ["validation"] * 6
    assert {(line["train_row_id"], line["similarity"]) for line in nearest} == {(None, 0.0)}


LEAK = {
    "row_id": ({"row_id": "a" * 32}, {"row_id": "a" * 32}),
    "text": ({"completion": "It's “big”, O\u0308sterreich!"}, {"completion": "IT s big\n\nösterreich"}),
    "cluster": ({"cluster": "b" * 32}, {"cluster": "b" * 32}),
    "family": ({"family": "c" * 32}, {"family": "c" * 32}),
    "group": ({"group": "Smith"}, {"group": "Smith"}),
    "prompt": ({"prompt": "Wie  heißt\tdu? "}, {"prompt": "wie heisst du?"}),
}


@pytest.mark.parametrize("pair", [("train", "validation"), ("train", "test"), ("validation", "test")])
@pytest.mark.parametrize("name", list(LEAK))
def test_a_planted_leak_fails_the_run_and_both_rows_are_named(tmp_path: Path, name: str, pair: tuple[str, str]) -> None:
    tables = sound()
    for split, fields, line in zip(pair, LEAK[name], (8, 9), strict=True):
        made = dealt(fields.get("completion", text(f"p{split}")), fields.get("prompt"), source="f.csv", line=line)
        tables[split].append(made | fields)
    rows = [tables[split][-1]["row_id"] for split in pair]
    place = re.escape(f"{rows[1]} (f.csv, line 9) and {rows[0]} (f.csv, line 8)")
    with pytest.raises(StageError, match=f"1 {pair[1]} rows share their {name} with {pair[0]} rows: {place}"):
        run(tmp_path, tables, near="report")
    assert not list(tmp_path.glob("leaks*"))
    assert not list(tmp_path.glob(".leaks*"))


def test_rows_that_differ_are_not_taken_for_equal(tmp_path: Path) -> None:
    tables = sound(3)
    unlike = [
        ("🙂", None),
        ("👍", None),
        ("minus one", "3 - 4"),
        ("seven", "3 + 4"),
        ("no prompt here", ""),
        ("nor here", " "),
    ]
    for number, (completion, prompt) in enumerate(unlike):
        tables[("train", "test")[number % 2]].append(dealt(completion, prompt))
    report, _ = run(tmp_path, tables, near="report")
    told = {check["pair"]: check["count"] for check in report["told"] if check["name"] == "prompt_words"}
    assert told == {"train-validation": 0, "train-test": 1, "validation-test": 0}  # 3 - 4 and 3 + 4


def test_equal_texts_without_a_word_are_a_leak(tmp_path: Path) -> None:
    tables = sound()
    tables["train"].append(dealt("🙂 !"))
    tables["test"].append(dealt("🙂\n!"))
    with pytest.raises(StageError, match="1 test rows share their text with train rows"):
        run(tmp_path, tables)


def test_as_many_rows_are_counted_as_leak_and_five_are_named(tmp_path: Path) -> None:
    tables = sound()
    tables["train"] += [dealt(text(f"g{n}"), group=f"{n % 7}") for n in range(20)]
    tables["test"] += [dealt(text(f"h{n}"), group=f"{n % 7}") for n in range(10)]
    with pytest.raises(StageError, match="10 test rows share their group"):
        run(tmp_path, tables)


def test_a_near_duplicate_fails_the_run_or_is_reported_as_the_settings_say(tmp_path: Path) -> None:
    tables = sound()
    words = text("n", 104).split()  # 100 shingles
    tables["train"].append(dealt(" ".join(words), source="t", line=1))
    tables["test"].append(dealt(" ".join([*words[:-2], "other"]), source="u", line=2))  # 98 of them, and 1 of its own
    similarity = 98 / 101
    with pytest.raises(StageError, match=r"1 pairs .* line 2\) and .* line 1\): 0\.970\. Raise `dedup\.bands`"):
        run(tmp_path, tables)
    report, nearest = run(tmp_path, tables, near="report")
    assert report["near"]["pairs"] == 1
    assert report["near"]["examples"][0]["similarity"] == pytest.approx(similarity)
    found = next(line for line in nearest if line["similarity"])
    assert found["row_id"] == tables["test"][-1]["row_id"]
    assert found["train_row_id"] == tables["train"][-1]["row_id"]
    assert found["head"] == ("\n" + tables["test"][-1]["completion"])[:160]
    assert found["train_head"] == ("\n" + tables["train"][-1]["completion"])[:160]
    assert run(tmp_path, tables, similarity=0.98)[0]["near"]["pairs"] == 0
    report, _ = run(tmp_path, tables | {"train": sound()["train"], "validation": tables["train"][-1:]})
    assert report["near"]["pairs"] == 0  # test against validation is told, and is no fault
    assert report["near"]["validation_test"]["pairs"] == 1
    assert report["near"]["validation_test"]["examples"][0]["other_line"] == 1


def brute(tables: Tables) -> dict[str, tuple[float, set[str]]]:
    """For each evaluation row its greatest Jaccard similarity with a train row, and the rows that have it."""

    def shingles(one: dict[str, Any]) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", f"{one['prompt'] or ''}\n{one['completion']}".lower())
        return {tuple(words[at : at + 5]) for at in range(max(len(words) - 4, 1))} if words else set()

    sets = [(one["row_id"], shingles(one)) for one in tables["train"]]
    found = {}
    for one in tables["validation"] + tables["test"]:
        mine = shingles(one)
        alike = {name: len(mine & other) / max(len(mine | other), 1) for name, other in sets}
        most = max(alike.values())
        found[one["row_id"]] = most, {name for name, value in alike.items() if value == most}
    return found


def varied(seed: int, count: int, lengths: tuple[int, int]) -> Tables:
    """Splits whose rows are variants of each other, some by few words and some by many."""
    draw = random.Random(seed)
    seen: set[str] = set()
    tables: Tables = {split: [] for split in SPLITS}
    for number in range(count):
        words = [f"w{draw.randrange(400)}" for _ in range(draw.randrange(*lengths))]
        for split in SPLITS:
            for _ in range(draw.randrange(3)):
                part = words[draw.randrange(len(words) // 3 + 1) :]
                changes = draw.randrange(len(part) // 8 + 2)
                for _ in range(changes):
                    part[draw.randrange(len(part))] = f"v{draw.randrange(99)}"
                made = dealt(" ".join(part), line=number)
                if made["completion"] not in seen:
                    seen.add(made["completion"])
                    tables[split].append(made)
    return tables


@pytest.mark.parametrize(("lengths", "indexed"), [((1, 40), 8_000_000), ((1, 300), 8_000_000), ((200, 600), 100)])
def test_the_nearest_row_is_that_of_brute_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int], indexed: int
) -> None:
    monkeypatch.setattr(near_rows, "INDEXED", indexed)  # 100: all long rows are sampled
    tables = varied(7, 80, lengths)
    report, nearest = run(tmp_path, tables, near="report")
    known = brute(tables)
    expected = {row_id: found if found[0] >= near_rows.FLOOR else (0.0, set()) for row_id, found in known.items()}
    assert len(nearest) == len(expected) > 80
    assert 0 < sum(not found[0] for found in expected.values()) < len(expected)
    alike = [line for line in nearest if expected[line["row_id"]][0] >= 0.5]
    assert len(alike) > 10
    for line in nearest if indexed > 100 else alike:
        similarity, rows = expected[line["row_id"]]
        assert line["similarity"] == pytest.approx(similarity)
        assert line["train_row_id"] in rows if similarity else line["train_row_id"] is None
    for split in ("validation", "test"):
        assert sum(report["near"]["histogram"][split]) == report["near"]["rows"][split] == len(tables[split])
    edges = [0, *np.arange(0.3 - 1e-9, 1.04, 0.05)]
    wanted = np.histogram([expected[one["row_id"]][0] for one in tables["test"]], edges)[0]
    if indexed > 100:
        assert report["near"]["histogram"]["test"] == wanted.tolist()


def test_a_long_row_keeps_a_sample_of_64_shingles_and_a_short_one_all() -> None:
    rate = near_rows.sampling(np.array([0, 3, 63, 64, 127, 128, 1_000, 40_000_000]))
    assert rate.tolist() == [1, 1, 1, 1, 1, 2, 8, 8]  # one in 8 leaves fewer than 8 million


def test_shingles_of_more_sets_than_allowed_are_common_property() -> None:
    index = overlap.build(np.array([5, 9, 5, 9, 5, 7], np.uint64), np.array([0, 0, 1, 1, 2, 2]), 3, most=2)
    assert index.keys.tolist() == [7, 9]
    assert index.common.tolist() == [1, 1, 1]


def test_common_shingles_count_when_the_rows_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_rows, "COMMON", 3)
    tables = sound()
    licence = text("licence", 54)  # 50 shingles in every row
    for split in SPLITS:
        for one in tables[split]:
            one["completion"] += " " + licence
    twin = tables["train"][0]["completion"].split()
    tables["test"].append(dealt(" ".join(["one", *twin]), "ask train 0 too"))
    _, nearest = run(tmp_path, tables, near="report")
    found = next(line for line in nearest if line["row_id"] == tables["test"][-1]["row_id"])
    assert found["similarity"] == pytest.approx(brute(tables)[found["row_id"]][0])
    assert found["train_row_id"] == tables["train"][0]["row_id"]


def test_a_row_that_is_nearest_through_common_shingles_is_found_after_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_rows, "COMMON", 3)
    licence, own = text("licence", 90), text("own", 60).split()
    tables = sound()
    tables["test"] += [dealt(f"{text(f'e{n}')} {licence}") for n in range(4)]
    asked = dealt(" ".join([*own, licence]))
    tables["test"].append(asked)
    tables["train"].append(dealt(" ".join(own), row_id="0" * 32))  # all of its own words
    tables["train"].append(dealt(" ".join([*own[20:], licence]), row_id="f" * 32))  # fewer, and the licence
    _, nearest = run(tmp_path, tables, near="report")
    found = next(line for line in nearest if line["row_id"] == asked["row_id"])
    assert (found["train_row_id"], found["similarity"]) == ("f" * 32, 126 / 146)


def test_empty_splits_and_texts_without_words_are_no_fault(tmp_path: Path) -> None:
    tables = {"train": [dealt("!!!")], "validation": [dealt("...")], "test": []}
    report, nearest = run(tmp_path, tables)
    assert report["near"]["histogram"]["validation"][0] == 1
    assert [line["similarity"] for line in nearest] == [0.0]


def test_the_batches_in_which_the_rows_come_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = varied(3, 40, (5, 80))
    found = []
    for rows in (8192, 7):
        monkeypatch.setattr("snaketune.rows.BATCH_ROWS", rows)
        found.append(run(tmp_path / f"{rows}", tables, near="report"))
    assert found[0] == found[1]
