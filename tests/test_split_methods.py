"""Each way to deal keeps its promise: shares, append-stability, strata, folds, the data's own split, contamination."""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import row, write
from snaketune.job import StageError
from snaketune.split import families
from test_split import SPLITS, fillers, placed, run

SHARES = [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01), (0.1, 0.3, 0.6)]
HITS = pa.schema(
    [(name, pa.string()) for name in ("row_id", "source", "test_file", "head")]
    + [("line", pa.int64()), ("item", pa.int64()), ("overlap", pa.float64())]
)


def sides(splits: dict[str, list[dict]]) -> dict[str, str]:
    """The split of each row by its id."""
    return {line["row_id"]: name for name in SPLITS for line in splits[name]}


@bounds(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    shares=st.sampled_from(SHARES),
    draw=st.randoms(use_true_random=False),
)
def test_the_shares_are_met_to_within_half_a_family(sizes: list[int], shares: tuple[float, ...], draw) -> None:
    order = list(range(len(sizes)))
    draw.shuffle(order)
    dealt = families.quota(np.array(sizes), np.array(order), list(shares))
    rows = np.bincount(dealt, weights=sizes, minlength=3)
    too_many = max(0, rows[0] - shares[0] * sum(sizes))
    assert too_many <= max(sizes) / 2 + 1e-9
    assert abs(rows[0] - shares[0] * sum(sizes)) <= max(sizes) / 2 + 1e-9
    assert abs(rows[2] - shares[2] * sum(sizes)) <= max(sizes) / 2 + too_many + 1e-9


def test_a_family_larger_than_the_test_split_goes_to_train(tmp_path: Path) -> None:
    rows = fillers(60) + [row(f"giant {n}", group="giant") for n in range(40)]
    for seed in range(12):
        splits = run(tmp_path / f"{seed}", rows, seed)
        assert [len(splits[name]) for name in SPLITS] == [80, 10, 10]
        assert {line["group"] for line in splits["train"]} == {None, "giant"}
        assert "1 larger than the smallest split dealt first, to train" in (tmp_path / f"{seed}/told").read_text()


def test_a_family_larger_than_train_leaves_the_others_to_validation_and_test(tmp_path: Path) -> None:
    splits = run(tmp_path, fillers(10) + [row(f"giant {n}", group="giant") for n in range(90)])
    assert [len(splits[name]) for name in SPLITS] == [90, 5, 5]


def test_hash_deals_each_family_by_its_own_name(tmp_path: Path) -> None:
    found = sides(run(tmp_path, fillers(200), seed=7, method="hash", train=0.6, validation=0.2, test=0.2))
    for name, side in found.items():
        drawn = int.from_bytes(blake2b(f"7:{name}".encode(), digest_size=16).digest()[:8], "big") / 2**64
        assert side == ("train" if drawn < 0.6 else "validation" if drawn < 0.8 else "test")


def test_hash_leaves_old_rows_where_they_were_when_others_are_added(tmp_path: Path) -> None:
    old = sides(run(tmp_path / "a", fillers(150), method="hash"))
    new = sides(run(tmp_path / "b", fillers(400), method="hash"))
    assert len(new) == 400
    assert old.items() <= new.items()


def test_quota_is_not_append_stable_and_hash_is_there_for_that(tmp_path: Path) -> None:
    old, new = (sides(run(tmp_path / f"{count}", fillers(count))) for count in (150, 400))
    assert not old.items() <= new.items()


def test_stratified_meets_the_shares_within_each_label_and_within_null(tmp_path: Path) -> None:
    labels = ["a"] * 100 + ["b"] * 30 + [None] * 20
    rows = [one | {"label": label} for one, label in zip(fillers(150), labels, strict=True)]
    splits = run(tmp_path, rows, method="stratified")
    counts = {name: Counter(line["label"] for line in splits[name]) for name in SPLITS}
    assert counts["train"] == {"a": 80, "b": 24, None: 16}
    assert counts["validation"] == {"a": 10, "b": 3, None: 2}
    assert counts["test"] == {"a": 10, "b": 3, None: 2}


def test_the_stratum_of_a_family_is_its_majority_label_and_of_equal_ones_the_smaller() -> None:
    member = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    labels = np.array([4, 1, 4, 3, 2, 0, 5, 5, 0])
    assert families.majorities(member, labels, 4).tolist() == [4, 2, 5, 0]


def test_labels_are_numbered_in_their_order_and_null_is_the_last(tmp_path: Path) -> None:
    given_labels = ["pear", None, "apple", "pear", "fig"]
    path = write(tmp_path / "c.parquet", [{"label": label} for label in given_labels], pa.schema([("label", "string")]))
    assert families.label_numbers(path).tolist() == [2, 3, 0, 2, 1]


def test_over_all_folds_every_row_is_tested_once_and_validated_once(tmp_path: Path) -> None:
    rows = fillers(70) + [row(f"answer {n}", group=f"group {n // 3}") for n in range(30)]
    tested, validated = Counter(), Counter()
    for fold in range(5):
        splits = run(tmp_path / f"{fold}", rows, method="k-fold", folds=5, fold=fold)
        tested.update(line["row_id"] for line in splits["test"])
        validated.update(line["row_id"] for line in splits["validation"])
        assert abs(len(splits["test"]) - 20) <= 3
        assert sum(len(splits[name]) for name in SPLITS) == 100
        assert all(len(found) == 1 for group, found in placed(splits, "group").items() if group)
    assert tested == validated == Counter({one["row_id"]: 1 for one in rows})


def test_the_validation_split_of_a_fold_is_the_test_split_of_the_next(tmp_path: Path) -> None:
    parts = [run(tmp_path / f"{fold}", fillers(), method="k-fold", folds=4, fold=fold) for fold in range(4)]
    for fold in range(4):
        assert parts[fold]["validation"] == parts[(fold + 1) % 4]["test"]


def test_the_data_may_name_its_own_split_in_any_of_the_usual_spellings(tmp_path: Path) -> None:
    names = {
        "train": ["train", "training", "TRAIN", " Training "],
        "validation": ["validation", "valid", "val", "Dev"],
        "test": ["test", "Testing"],
    }
    rows = [row(f"{side} {name}", split=name) for side in SPLITS for name in names[side]]
    splits = run(tmp_path, rows, method="column")
    for side in SPLITS:
        assert sorted(line["completion"] for line in splits[side]) == sorted(f"{side} {n}" for n in names[side])


def test_a_row_without_a_split_or_with_an_unknown_one_stops_the_run_and_is_named(tmp_path: Path) -> None:
    rows = [row(f"{side} {n}", split=side) for side in SPLITS for n in range(3)]
    odd = [row("odd", split="holdout", source="b.csv", line=9), row("odder", split="x", source="b.csv", line=10)]
    with pytest.raises(StageError, match=r"b\.csv, line 9 names the split `holdout` \(2 such rows"):
        run(tmp_path, rows + odd, method="column")
    with pytest.raises(StageError, match=r"a\.csv, line 3 names no split"):
        run(tmp_path, [*rows, *odd, row("none", source="a.csv", line=3)], method="column")


def test_the_given_test_set_stays_whole_and_less_protected_relatives_leave(tmp_path: Path) -> None:
    rows = [row(f"{side} {n}", split=side, line=n) for side in SPLITS for n in range(3)]
    rows += [row(f"one {side}", split=side, group="one") for side in SPLITS]
    rows += [row(f"two {side}", split=side, group="two") for side in ("train", "validation")]
    rows += [row("test copy", split="train", group="three"), row("copy", split="test", group="three", kept=False)]
    splits = run(tmp_path, rows, method="column")
    assert [len(splits[name]) for name in SPLITS] == [3, 4, 4]
    wanted = {"one train", "one validation", "two train", "test copy"}
    gone = {line["row_id"]: line for line in splits["dropped"]}
    assert set(gone) == {one["row_id"] for one in rows if one["completion"] in wanted}
    assert {(line["stage"], line["rule"], line["value"]) for line in gone.values()} == {
        ("split", "straddles_splits", None)
    }
    assert [line["row_id"] for line in splits["dropped"]] == sorted(gone)


def test_a_split_that_the_data_does_not_name_is_told(tmp_path: Path) -> None:
    rows = [row(f"{side} {n}", split=side) for side in ("train", "test") for n in range(3)]
    with pytest.raises(StageError, match="the validation split is empty: no row that stays names it"):
        run(tmp_path, rows, method="column")


def hit(one: dict, overlap: float, item: int = 1) -> dict:
    return {name: one[name] for name in ("row_id", "source", "line")} | {
        "test_file": "test.jsonl", "item": item, "overlap": overlap, "head": "What"}  # fmt: skip


def test_contaminated_rows_stay_where_they_are_reported_and_leave_where_they_are_dropped(tmp_path: Path) -> None:
    rows = fillers(50)
    removed = row("removed", cluster=rows[0]["row_id"], kept=False)
    first = write(tmp_path / "a.parquet", [hit(rows[3], 0.6), hit(rows[3], 0.9, 2), hit(removed, 1.0)], HITS)
    second = write(tmp_path / "b.parquet", [hit(rows[4], 0.5), hit(rows[3], 0.7, 3)], HITS)
    empty = write(tmp_path / "c.parquet", [], HITS)
    told = run(tmp_path / "report", [*rows, removed], hits=[first, second, empty])
    assert sum(len(told[name]) for name in SPLITS) == 50
    assert told["dropped"] == []
    assert "2 rows with text of the given test sets stay" in (tmp_path / "report/told").read_text()
    left = run(tmp_path / "drop", [*rows, removed], hits=[first, second, empty], contaminated="drop")
    assert sum(len(left[name]) for name in SPLITS) == 48
    expected = [(rows[3]["row_id"], 0.9), (rows[4]["row_id"], 0.5)]
    assert [(line["row_id"], line["value"]) for line in left["dropped"]] == sorted(expected)
    assert {(line["stage"], line["rule"], line["threshold"]) for line in left["dropped"]} == {
        ("split", "contaminated", None)
    }
