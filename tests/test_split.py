"""A paper, a customer or a question never straddles two splits, and the deal depends on the seed and the rows alone."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from deduplicate import CLUSTERS, deduplicate
from snaketune.job import StageError
from snaketune.rows import CLUSTERED
from split import deal, split

SPLITS = ("train", "validation", "test")
LONG = [" ".join(f"w{text}n{number}" for number in range(60)) for text in range(9)]


def run(folder: Path, rows: list[dict[str, Any]], seed: int = 42, **shares: float) -> dict[str, list[dict[str, Any]]]:
    """The three splits of rows that were deduplicated."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("rows", "clusters", "evidence", "dropped", *SPLITS)
    outputs = {name: str(folder / f"{name}.parquet") for name in names}
    deduplicate([write(folder / "in.parquet", rows)], outputs, settings("dedup"))
    split(outputs["rows"], outputs["clusters"], outputs, settings("split", **shares) | {"seed": seed})
    return {name: read(outputs[name]) for name in SPLITS}


def placed(splits: dict[str, list[dict[str, Any]]], field: str = "completion") -> dict[Any, set[str]]:
    """In which splits each value of a field stands."""
    places = defaultdict(set)
    for name, rows in splits.items():
        for line in rows:
            places[line[field]].add(name)
    return places


def fillers(count: int = 40) -> list[dict[str, Any]]:
    return [row(f"filler {number} alone", f"question {number}", line=number) for number in range(count)]


def test_a_group_never_straddles_two_splits(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", f"question {number}", group=f"paper {number % 15}") for number in range(60)]
    places = placed(run(tmp_path, rows), "group")
    assert len(places) == 15
    assert all(len(splits) == 1 for splits in places.values())


def test_a_prompt_never_straddles_two_splits_whatever_its_case_and_white_space(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", f"Question {number % 15}") for number in range(30)]
    rows += [row(f"other answer {number}", f"question  {number % 15} ") for number in range(15)]
    places = defaultdict(set)
    for name, lines in run(tmp_path, rows).items():
        for line in lines:
            places[" ".join(line["prompt"].lower().split())].add(name)
    assert len(places) == 15
    assert all(len(splits) == 1 for splits in places.values())


def test_related_rows_never_straddle_two_splits(tmp_path: Path) -> None:
    rows = fillers() + [row(f"answer {n}", f"{LONG[n % 9]} question {n}") for n in range(36)]
    places = defaultdict(set)
    for name, lines in run(tmp_path, rows).items():
        for line in lines:
            if line["prompt"].startswith("w"):
                places[line["prompt"][:8]].add(name)
    assert len(places) == 9
    assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize("seed", range(8))
def test_the_group_of_a_removed_duplicate_ties_too(tmp_path: Path, seed: int) -> None:
    rows = fillers()
    for number, text in enumerate(LONG):
        rows += [
            row(text + " the longer one stays", group=f"kept {number}"),
            row(text, group=f"removed {number}"),
            row(f"another row {number} of the group of the removed", group=f"removed {number}"),
        ]
    groups = placed(run(tmp_path, rows, seed), "group")
    for number in range(9):
        assert len(groups[f"kept {number}"] | groups[f"removed {number}"]) == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_prompt_of_a_removed_duplicate_ties_too(tmp_path: Path, seed: int) -> None:
    rows = fillers()
    for number, text in enumerate(LONG):
        rows += [
            row(f"yes {number}", text + " longer"),
            row(f"yes {number}", text),
            row(f"a wholly other answer with many words of its own so that the two are not alike {number} "
                + " ".join(f"v{number}n{k}" for k in range(60)), text),
        ]  # fmt: skip
    splits = run(tmp_path, rows, seed)
    places = defaultdict(set)
    for name, lines in splits.items():
        for line in lines:
            if line["prompt"].startswith("w"):
                places[line["prompt"][:8]].add(name)
    assert sum(len(lines) for lines in splits.values()) == 40 + 18  # the shorter "yes" is gone
    assert all(len(found) == 1 for found in places.values())


def test_plain_texts_without_prompt_or_group_are_not_tied_to_each_other(tmp_path: Path) -> None:
    splits = run(tmp_path, [row(f"text number {number}") for number in range(50)])
    assert [len(splits[name]) for name in SPLITS] == [40, 5, 5]


@bounds(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    shares=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01)]),
    seed=st.integers(0, 99),
)
def test_the_shares_are_met_to_within_half_a_family(sizes: list[int], shares: tuple[float, ...], seed: int) -> None:
    families = np.repeat([f"family {number}" for number in range(len(sizes))], sizes)
    dealt = deal(families, list(shares), seed)
    for bound in (1, 2):
        wanted = sum(shares[:bound]) * len(families)
        assert abs((dealt < bound).sum() - wanted) <= max(sizes) / 2 + 1e-9
    assert all(len(set(dealt[families == name])) == 1 for name in set(families))


def test_the_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    rows = fillers()
    expected = run(tmp_path / "a", rows)
    random.Random(3).shuffle(rows)
    assert run(tmp_path / "b", rows) == expected


def test_the_order_of_the_deduplicated_rows_changes_nothing(tmp_path: Path) -> None:
    rows = fillers() + [row(f"answer {number}", group=f"group {number % 5}", line=number) for number in range(20)]
    expected = run(tmp_path, rows)
    for name, schema in (("rows", CLUSTERED), ("clusters", CLUSTERS)):
        shuffled = read(tmp_path / f"{name}.parquet")
        random.Random(name).shuffle(shuffled)
        write(tmp_path / f"{name}.parquet", shuffled, schema)
    outputs = {name: str(tmp_path / f"again-{name}.parquet") for name in SPLITS}
    split(str(tmp_path / "rows.parquet"), str(tmp_path / "clusters.parquet"), outputs, settings("split") | {"seed": 42})
    assert {name: read(path) for name, path in outputs.items()} == expected


def test_another_seed_gives_another_deal_and_the_same_seed_the_same(tmp_path: Path) -> None:
    deals = [placed(run(tmp_path / f"{number}", fillers(), seed)) for number, seed in enumerate((1, 2, 1))]
    assert deals[0] != deals[1]
    assert deals[0] == deals[2]


def test_rows_keep_their_fields_and_stand_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = fillers()
    given_by_id = {line["row_id"]: line for line in rows}
    splits = run(tmp_path, rows)
    found = [line for lines in splits.values() for line in lines]
    assert sorted(line["row_id"] for line in found) == sorted(given_by_id)
    for lines in splits.values():
        assert [line["row_id"] for line in lines] == sorted(line["row_id"] for line in lines)
    for line in found:
        assert given_by_id[line["row_id"]].items() <= line.items()


def test_the_family_is_named_by_its_smallest_row(tmp_path: Path) -> None:
    rows = fillers() + [row(f"answer {number}", group="one", row_id=f"{number:032x}") for number in (7, 5, 9)]
    lines = [line for part in run(tmp_path, rows).values() for line in part if line["group"] == "one"]
    assert {line["family"] for line in lines} == {f"{5:032x}"}


def test_too_few_families_are_told_in_a_sentence(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", group=f"group {number % 2}") for number in range(30)]
    with pytest.raises(StageError, match=r"30 rows in 2 families .* too few"):
        run(tmp_path, rows)
