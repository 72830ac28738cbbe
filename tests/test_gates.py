"""Bounds on metrics: each way they can hold and fail, and what the user is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate import gate
from snaketune.job import StageError
from snaketune.scoring.gates import judged

METRICS: dict[str, Any] = {
    "metrics": {
        "bleu": {"base": 3.0, "tuned": 12.5, "delta": 9.5, "ci95": [7.0, 11.0], "tuned_ci95": [10.0, 15.0]},
        "perplexity": {"base": 404.0, "tuned": 43.1, "delta": -360.9, "ci95": [-365, -357], "tuned_ci95": [40.0, 47.0]},
        "general_perplexity": {
            "base": 50.0, "tuned": 58.0, "delta": 8.0, "ci95": [6.0, 10.5], "tuned_ci95": [51.0, 66.0]
        },
    }
}  # fmt: skip


def _gate(folder: Path, checks: dict[str, Any]) -> str:
    (folder / "metrics.json").write_text(json.dumps(METRICS), encoding="utf-8")
    return gate(str(folder / "metrics.json"), str(folder / "checks.json"), {"checks": checks, "run": "tiny"})


@pytest.mark.parametrize(
    ("metric", "check", "value", "holds"),
    [
        ("bleu", {"min": 12.5}, 12.5, True),
        ("bleu", {"min": 12.6}, 12.5, False),
        ("bleu", {"min": 10.0, "certain": True}, 10.0, True),
        ("bleu", {"min": 12.0, "certain": True}, 10.0, False),
        ("perplexity", {"max": 45}, 43.1, True),
        ("perplexity", {"max": 43}, 43.1, False),
        ("perplexity", {"max": 45, "certain": True}, 47.0, False),
        ("bleu", {"min_delta": 9}, 9.5, True),
        ("bleu", {"min_delta": 10}, 9.5, False),
        ("bleu", {"min_delta": 9, "certain": True}, 7.0, False),
        ("general_perplexity", {"max_delta": 8}, 8.0, True),
        ("general_perplexity", {"max_delta": 7.5}, 8.0, False),
        ("general_perplexity", {"max_delta": 10, "certain": True}, 10.5, False),
        ("general_perplexity", {"max_delta": 11, "certain": True, "min": None}, 10.5, True),
    ],
)
def test_a_bound_holds_as_arithmetic_says(metric, check, value, holds) -> None:
    (found,) = judged(METRICS, {metric: check})
    assert (found["metric"], found["value"], found["holds"]) == (metric, value, holds)
    assert found["limit"] == check[found["bound"]]


def test_all_bounds_of_all_metrics_are_judged_in_the_order_of_their_names() -> None:
    found = judged(METRICS, {"perplexity": {"max": 50, "max_delta": 0}, "bleu": {"min_delta": 0, "min": 5, "max": 90}})
    assert [(one["metric"], one["bound"]) for one in found] == [
        ("bleu", "min"), ("bleu", "max"), ("bleu", "min_delta"), ("perplexity", "max"), ("perplexity", "max_delta")
    ]  # fmt: skip


def test_bounds_that_hold_are_written_down(tmp_path: Path) -> None:
    assert _gate(tmp_path, {"bleu": {"min": 5}, "perplexity": {"max": 50}}) == "all 2 checks hold"
    written = json.loads((tmp_path / "checks.json").read_text(encoding="utf-8"))["checks"]
    assert written == judged(METRICS, {"bleu": {"min": 5}, "perplexity": {"max": 50}})
    assert [one["holds"] for one in written] == [True, True]


def test_no_checks_are_an_empty_list_and_said(tmp_path: Path) -> None:
    assert _gate(tmp_path, {}) == "no checks are set (`checks`)"
    assert json.loads((tmp_path / "checks.json").read_text(encoding="utf-8")) == {"checks": []}


def test_a_failure_names_every_bound_that_fails_by_how_much_and_what_to_look_at(tmp_path: Path) -> None:
    checks = {"bleu": {"min": 20}, "perplexity": {"max": 50}, "general_perplexity": {"max_delta": 5, "certain": True}}
    with pytest.raises(StageError) as raised:
        _gate(tmp_path, checks)
    first, *failed = str(raised.value).splitlines()
    assert first == "2 of 3 checks do not hold (`checks`):"
    assert [line.split("; ")[0].strip() for line in failed] == [
        "- bleu is 12.5, 7.5 below `min: 20`",
        "- the upper end of the 95 % interval of general_perplexity, tuned - base, is +10.5, 5.5 above `max_delta: 5`",
    ]
    assert "rows that lost most" in failed[0]
    assert "probe of general text" in failed[1]
    assert not (tmp_path / "checks.json").exists()


def test_an_unknown_metric_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"`checks.perplexty`: .* did you mean `perplexity`\? There are bleu, general"):
        _gate(tmp_path, {"perplexty": {"max": 5}})


def test_a_bound_without_a_number_is_no_bound() -> None:
    assert judged(METRICS, {"bleu": {"min": None, "max": None, "certain": False}}) == []
