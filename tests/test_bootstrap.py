"""The paired bootstrap by itself: which draws, which entries, and what becomes of rows and draws without a score."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pytest

from snaketune.job import StageError
from snaketune.scoring import bootstrap
from snaketune.scoring.bootstrap import bootstrap_sums, codes_of, compared, counts, entries, p_value, rounded

DIRECTIONS = {"hits": True, "cost": False, "length": None, "whole": True}


class Means:
    """Three means by row, and one score of the whole corpus that no row has."""

    METRICS = tuple(DIRECTIONS)
    HIGHER_IS_BETTER = DIRECTIONS

    def aggregate(self, sums, n):
        return {name: sums[name] / n for name in DIRECTIONS}

    def row_scores(self, statistics):
        return {name: statistics[name] for name in ("hits", "cost", "length")}


class Share:
    """A ratio of sums that a draw may leave undefined."""

    METRICS = ("share",)
    HIGHER_IS_BETTER = MappingProxyType({"share": True})

    def aggregate(self, sums, n):
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"share": np.float64(sums["right"]) / sums["asked"]}

    def row_scores(self, statistics):
        return self.aggregate(statistics, 1)


def _columns(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=rows).round(1) for name in DIRECTIONS}


@pytest.fixture(scope="module")
def sides() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return _columns(rng, 60), _columns(rng, 60)


FAMILIES = np.random.default_rng(1).integers(0, 20, size=60)
FAMILIES[:20] = np.arange(20)


def test_the_draws_are_those_of_a_loop_over_families(sides) -> None:
    base, _ = sides
    sums = np.stack([np.bincount(FAMILIES, weights=base[name]) for name in DIRECTIONS], axis=1)
    rng = np.random.default_rng(7)
    by_hand = []
    for _ in range(50):
        times = rng.multinomial(20, [1 / 20] * 20)
        rows = np.concatenate([np.repeat(np.flatnonzero(family == FAMILIES), times[family]) for family in range(20)])
        by_hand.append([base[name][rows].sum() for name in DIRECTIONS])
    assert bootstrap_sums(sums, 50, seed=7) == pytest.approx(np.array(by_hand))


def test_the_memory_for_draws_changes_none(sides, monkeypatch) -> None:
    sums = np.stack(list(sides[0].values()), axis=1)
    whole = bootstrap_sums(sums, 50, seed=7)
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 200)
    assert bootstrap_sums(sums, 50, seed=7) == pytest.approx(whole, abs=1e-12)


def test_wins_ties_and_losses_are_all_rows_in_the_direction_of_the_metric(sides) -> None:
    base, tuned = sides
    found = entries({"m": Means()}, {"m": base}, {"m": tuned}, FAMILIES, 100, 1)
    for name, better in DIRECTIONS.items():
        entry = found[name]
        assert entry["higher_is_better"] is better
        if name == "whole":
            assert [entry[key] for key in ("wins", "ties", "losses")] == [None] * 3
            continue
        more, less = sum(tuned[name] > base[name]), sum(tuned[name] < base[name])
        assert (entry["wins"], entry["losses"]) == ((less, more) if better is False else (more, less))
        assert entry["wins"] + entry["ties"] + entry["losses"] == entry["n"] == 60
        assert entry["ties"] == sum(tuned[name] == base[name]) > 0


def test_rows_without_a_score_are_ties_and_nothing_is_lost() -> None:
    base = np.array([np.inf, np.inf, 1.0, np.nan, np.nan, 2.0])
    tuned = np.array([np.inf, 1.0, np.inf, np.nan, 1.0, 2.0 + 1e-12])
    assert counts(base, tuned, False) == {"wins": 1, "ties": 4, "losses": 1}
    assert counts(base, tuned, None) == {"wins": 1, "ties": 4, "losses": 1}


def test_a_table_is_compared_by_its_families_like_its_columns(sides) -> None:
    tables = [pa.table({"family": [f"f{code:02}" for code in FAMILIES]} | side) for side in sides]
    assert codes_of(tables[0]["family"]).tolist() == FAMILIES.tolist()
    by_columns = entries({"m": Means()}, *({"m": side} for side in sides), FAMILIES, 100, 1)
    assert compared(Means(), *tables, resamples=100, seed=1) == by_columns


def test_one_family_is_one_witness_and_its_interval_has_no_width() -> None:
    base, tuned = {"hits": np.array([0.0, 1, 0])}, {"hits": np.array([1.0, 1, 1])}
    sides = [{"m": dict.fromkeys(DIRECTIONS, np.zeros(3)) | side} for side in (base, tuned)]
    entry = entries({"m": Means()}, *sides, np.zeros(3, np.int64), 99, 1)["hits"]
    assert entry["ci95"] == pytest.approx([2 / 3, 2 / 3])
    assert entry["p"] == pytest.approx(2 / 100)


def test_a_draw_without_a_score_is_left_out_of_the_interval_and_p() -> None:
    """Two of six families are asked; a draw without them has no share."""
    asked = np.array([1.0, 1, 0, 0, 0, 0])
    sides = [{"m": {"right": right, "asked": asked}} for right in (np.array([1.0, 0, 0, 0, 0, 0]), asked)]
    sums = bootstrap_sums(asked[:, None], 500, seed=3)[:, 0]
    assert 0 < (sums == 0).sum() < 100
    entry = entries({"m": Share()}, *sides, np.arange(6), 500, 3)["share"]
    assert (entry["base"], entry["tuned"], entry["tuned_ci95"]) == (0.5, 1.0, [1.0, 1.0])
    assert entry["base_ci95"] == [0.0, 1.0]
    rights = bootstrap_sums(np.array([[1.0], [0], [0], [0], [0], [0]]), 500, seed=3)[:, 0]
    even = (rights == sums)[sums > 0]  # the difference is 0 where only the family that is right was drawn
    assert entry["p"] == pytest.approx(min(1, 2 * (even.sum() + 1) / ((sums > 0).sum() + 1)))


def test_a_sure_difference_has_the_smallest_p_and_none_has_1() -> None:
    assert p_value(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert p_value(np.full(999, -0.1)) == pytest.approx(2 / 1000)
    assert p_value(np.array([-1.0, 1.0])) == 1


def test_numbers_are_rounded_and_what_is_none_is_refused() -> None:
    assert rounded("m", {"base": -1e-9, "ci95": [0.12345678, 1.0], "n": 3, "wins": None, "better": True}) == {
        "base": 0.0,
        "ci95": [0.123457, 1.0],
        "n": 3,
        "wins": None,
        "better": True,
    }
    with pytest.raises(StageError, match=r"m: `ci95` is \[0.0, nan\], which is no number"):
        rounded("m", {"ci95": [0.0, float("nan")]})
