"""A paper, a customer or a question never straddles two splits, and the deal depends on the seed and the rows alone."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from builders import read, row, settings, write
from snaketune.job import StageError
from snaketune.rows import CLUSTERS, ROW
from split import split

SPLITS = ("train", "validation", "test")
HITS = ("row_id", "source", "line", "test_file", "item", "overlap", "head")


def clustered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What deduplication says of rows: each its own cluster and kept, unless the row says otherwise."""
    questions: dict[str, str] = {}
    made = []
    for one in sorted(rows, key=lambda one: (one["row_id"], one["source"], one["line"])):
        prompt = " ".join((one["prompt"] or "").lower().split())
        question = questions.setdefault(prompt, one["row_id"]) if prompt else None
        about = {"cluster": one["row_id"], "kept": True, "question": question}
        made.append(about | one | {"chars": len(one["prompt"] or "") + len(one["completion"])})
    return made


def inputs(folder: Path, rows: list[dict[str, Any]], shards: int = 1) -> tuple[str, list[str]]:
    """The files that the split reads: the clusters, and the rows in so many shards."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = [rows[len(rows) * number // shards : len(rows) * (number + 1) // shards] for number in range(shards)]
    paths = [write(folder / f"rows-{number:05d}.parquet", part, ROW) for number, part in enumerate(cut)]
    return write(folder / "clusters.parquet", clustered(rows), CLUSTERS), paths


def run(
    folder: Path,
    rows: list[dict[str, Any]],
    seed: int = 42,
    *,
    shards: int = 1,
    hits: list[str] = (),  # type: ignore[assignment]
    contaminated: str = "report",
    **changes: Any,
) -> dict[str, list[dict[str, Any]]]:
    """The splits of rows, and `dropped`; `told` has the stage's sentence."""
    clusters, paths = inputs(folder, rows, shards)
    outputs = {name: str(folder / f"{name}.parquet") for name in (*SPLITS, "dropped")}
    given = settings("split", **changes) | {"seed": seed, "contaminated": contaminated}
    (folder / "told").write_text(split(clusters, paths, list(hits), outputs, given))
    return {name: read(path) for name, path in outputs.items()}


def placed(splits: dict[str, list[dict[str, Any]]], field: str = "completion") -> dict[Any, set[str]]:
    """In which splits each value of a field stands."""
    places = defaultdict(set)
    for name in SPLITS:
        for line in splits[name]:
            places[line[field]].add(name)
    return places


def fillers(count: int = 40) -> list[dict[str, Any]]:
    return [row(f"filler {number} alone", f"question {number}", line=number) for number in range(count)]


def test_a_group_never_straddles_two_splits(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", f"question {number}", group=f"paper {number % 15}") for number in range(60)]
    places = placed(run(tmp_path, rows), "group")
    assert len(places) == 15
    assert all(len(splits) == 1 for splits in places.values())


def test_a_prompt_never_straddles_two_splits(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", f"question {number % 15}") for number in range(45)]
    places = placed(run(tmp_path, rows), "prompt")
    assert len(places) == 15
    assert all(len(splits) == 1 for splits in places.values())


def test_related_rows_never_straddle_two_splits(tmp_path: Path) -> None:
    rows = fillers() + [row(f"answer {n}", f"like {n}", cluster=f"{n % 9:032x}", label=f"{n % 9}") for n in range(36)]
    places = placed(run(tmp_path, rows), "label")
    del places[None]
    assert len(places) == 9
    assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize("seed", range(8))
def test_the_group_of_a_removed_duplicate_ties_too(tmp_path: Path, seed: int) -> None:
    rows = fillers()
    for number in range(9):
        kept = row(f"longer {number}", group=f"kept {number}")
        removed = row(f"long {number}", group=f"removed {number}", cluster=kept["row_id"], kept=False)
        rows += [kept, removed, row(f"another row {number} of the group of the removed", group=f"removed {number}")]
    splits = run(tmp_path, rows, seed)
    groups = placed(splits, "group")
    assert sum(len(splits[name]) for name in SPLITS) == 40 + 18
    for number in range(9):
        assert len(groups[f"kept {number}"] | groups[f"removed {number}"]) == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_prompt_of_a_removed_duplicate_ties_too(tmp_path: Path, seed: int) -> None:
    rows = fillers()
    for number in range(9):
        kept = row(f"yes {number}", f"text {number} longer", label=f"{number}")
        removed = row(f"yes {number}", f"text {number}", cluster=kept["row_id"], kept=False)
        rows += [kept, removed, row(f"a wholly other answer {number}", f"text {number}", label=f"{number}")]
    places = placed(run(tmp_path, rows, seed), "label")
    del places[None]
    assert len(places) == 9
    assert all(len(found) == 1 for found in places.values())


def test_equal_rows_that_no_stage_removed_stand_in_one_split(tmp_path: Path) -> None:
    rows = fillers() + [row(f"text {n % 12}", source=f"{n // 12}", line=n) for n in range(48)]
    splits = run(tmp_path, rows)
    assert sum(len(splits[name]) for name in SPLITS) == 88
    assert all(len(found) == 1 for found in placed(splits, "row_id").values())


def test_plain_texts_without_prompt_or_group_are_not_tied_to_each_other(tmp_path: Path) -> None:
    splits = run(tmp_path, [row(f"text number {number}") for number in range(50)])
    assert [len(splits[name]) for name in SPLITS] == [40, 5, 5]


def test_neither_the_order_of_the_rows_nor_the_number_of_shards_changes_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaketune.split.external_sort.BUCKET", 2_000)  # so that the 500 rows make several buckets
    monkeypatch.setattr("snaketune.split.external_sort.HELD", 5_000)
    rows = [row(f"answer {n} " * 4, group=f"group {n % 170}", line=n, meta=f"{n}") for n in range(500)]
    run(tmp_path / "a", rows)
    random.Random(3).shuffle(rows)
    run(tmp_path / "b", rows, shards=7)
    for name in (*SPLITS, "dropped"):
        assert (tmp_path / f"a/{name}.parquet").read_bytes() == (tmp_path / f"b/{name}.parquet").read_bytes()


def test_another_seed_gives_another_deal_and_the_same_seed_the_same(tmp_path: Path) -> None:
    deals = [placed(run(tmp_path / f"{number}", fillers(), seed)) for number, seed in enumerate((1, 2, 1))]
    assert deals[0] != deals[1]
    assert deals[0] == deals[2]


def test_rows_keep_their_fields_and_stand_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = [one | {"meta": f"meta {n}", "label": "a" if n % 2 else None} for n, one in enumerate(fillers())]
    given_by_id = {line["row_id"]: line for line in rows}
    splits = run(tmp_path, rows)
    found = [line for name in SPLITS for line in splits[name]]
    assert sorted(line["row_id"] for line in found) == sorted(given_by_id)
    for name in SPLITS:
        assert [line["row_id"] for line in splits[name]] == sorted(line["row_id"] for line in splits[name])
    for line in found:
        assert given_by_id[line["row_id"]].items() <= line.items()


def test_each_row_has_the_cluster_that_deduplication_gave_it(tmp_path: Path) -> None:
    rows = [one | {"cluster": f"{n % 30:032x}"} for n, one in enumerate(fillers())]
    wanted = {one["row_id"]: one["cluster"] for one in rows}
    splits = run(tmp_path, rows)
    assert {line["row_id"]: line["cluster"] for name in SPLITS for line in splits[name]} == wanted


def test_the_family_is_named_by_its_smallest_row(tmp_path: Path) -> None:
    rows = fillers() + [row(f"answer {number}", group="one", row_id=f"{number:032x}") for number in (7, 5, 9)]
    rows.append(row("a removed duplicate", group="one", row_id=f"{3:032x}", kept=False))
    splits = run(tmp_path, rows)
    lines = [line for name in SPLITS for line in splits[name] if line["group"] == "one"]
    assert len(lines) == 3
    assert {line["family"] for line in lines} == {f"{5:032x}"}


def test_a_row_that_stands_twice_on_a_line_is_dealt_as_often_as_it_was_kept(tmp_path: Path) -> None:
    twice = [row("made by two templates", kept=kept) for kept in (True, False)]
    both = [row("made by two templates, deduplication off") for _ in range(2)]
    splits = run(tmp_path, fillers() + twice + both)
    found = [line["completion"] for name in SPLITS for line in splits[name]]
    assert found.count("made by two templates") == 1
    assert found.count("made by two templates, deduplication off") == 2


def test_one_text_from_two_places_is_taken_from_the_place_that_was_kept(tmp_path: Path) -> None:
    rows = fillers() + [row("twice", source=source, line=line, kept=kept) for source, line, kept in [
        ("a", 1, False), ("a", 2, False), ("b", 1, True), ("b", 2, False)]]  # fmt: skip
    splits = run(tmp_path, rows)
    found = [(one["source"], one["line"]) for name in SPLITS for one in splits[name] if one["completion"] == "twice"]
    assert found == [("b", 1)]


def test_too_few_families_are_told_in_a_sentence(tmp_path: Path) -> None:
    rows = [row(f"answer {number}", group=f"group {number % 2}") for number in range(30)]
    with pytest.raises(StageError, match=r"30 rows in 2 families .* too few"):
        run(tmp_path, rows)


def test_files_of_two_runs_are_told_and_nothing_is_left(tmp_path: Path) -> None:
    clusters, paths = inputs(tmp_path, fillers(), shards=2)
    outputs = {name: str(tmp_path / f"out/{name}.parquet") for name in (*SPLITS, "dropped")}
    given = settings("split") | {"seed": 42, "contaminated": "report"}
    with pytest.raises(StageError, match=r"20 rows of dedup/clusters\.parquet are in no clean shard"):
        split(clusters, paths[:1], [], outputs, given)
    assert list((tmp_path / "out").iterdir()) == []
