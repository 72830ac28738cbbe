"""The page of a search: what it says of the trials, what it draws, and that nothing of the data does anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from runs import TEMPLATES, inert
from search_pages import RATE, SPACE, hostile, made, many, searched, trial, tune, write
from snaketune.job import StageError
from snaketune.pages.tune_charts import history, losses_axis, slice_of
from snaketune.pages.tune_importance import correlation, importances
from snaketune.pages.tune_trials import Dimension, Trial, told
from snaketune.pages.tune_words import cautions, verdict
from tune_report import tune_report


def drawn(svg: str, css: str) -> list[Any]:
    return HTMLParser(svg).css(css)


def test_the_verdict_holds_the_best_against_the_median_and_the_first(tmp_path: Path) -> None:
    found = searched(tmp_path, [trial(number, loss) for number, loss in enumerate((3.0, 2.5, 2.9, 2.8))])
    assert verdict(found) == [
        "Trial 1 is the best, with a validation loss of 2.500: 0.350 below the median of the complete trials "
        "(29.5\u00a0% less perplexity), and 0.500 below the first one (39.3\u00a0% less perplexity).",
        "All 4 trials are complete.",
    ]


def test_pruned_and_failed_trials_are_counted_but_not_held_against_the_best(tmp_path: Path) -> None:
    trials = [trial(0, None, "failed"), trial(1, 9.0, "pruned"), trial(2, 2.0), trial(3, 3.0), trial(4, 8.0, "pruned")]
    said = verdict(searched(tmp_path, trials))
    assert "0.500 below the median" in said[0]
    assert "and it was the first one" in said[0]
    assert said[1] == "Of 5 trials 2 are complete, 2 were pruned and 1 failed."
    said = verdict(searched(tmp_path / "b", [*trials, trial(5, 1.0)]))
    assert "1.000 below trial 2, the first complete one" in said[0]


def test_the_one_complete_trial_is_called_the_only_one(tmp_path: Path) -> None:
    found = searched(
        tmp_path, [trial(0, None, "failed", reason="out of `memory`."), trial(1, 2.5), trial(2, None, "failed")]
    )
    assert verdict(found)[0] == "Trial 1 is the best, with a validation loss of 2.500: the only complete trial."
    assert cautions(found) == [
        "Only 1 trial is complete, fewer than 8: the best of so few may be far from the best of the space. "
        "Raise `tune.trials`.",
        "2 trials failed, half of them or more; trial 0: out of `memory`.",
    ]


@pytest.mark.parametrize(
    ("space", "value", "edge"),
    [
        ({"low": 1e-5, "high": 1e-3, "log": True}, 1e-5, "lower"),
        ({"low": 1e-5, "high": 1e-3, "log": True}, 1e-4, None),  # at a tenth of the range, but half of its factors
        ({"low": 1e-5, "high": 1e-3, "log": True}, 9e-4, "upper"),
        ({"low": 0.0, "high": 0.1}, 0.0, None),  # a share of zero has nothing below it
        ({"low": 0.0, "high": 0.1}, 0.1, "upper"),
        ({"low": 3, "high": 5}, 4, None),
        ({"low": 3, "high": 5}, 5, "upper"),
        ({"low": 1, "high": 12, "step": 4}, 9, "upper"),  # 13 would lie beyond
        ({"low": 0.1, "high": 1.0, "step": 0.1}, 0.9, None),
        ({"values": [32, 8, 16]}, 8, "lower"),
        ({"values": [32, 8, 16]}, 16, None),
        ({"values": [8, 16]}, 16, None),
        ({"values": ["a", "b", "c"]}, "a", None),
    ],
)
def test_a_best_value_at_the_edge_of_its_range_asks_for_a_wider_one(
    tmp_path: Path, space: dict[str, Any], value: Any, edge: str | None
) -> None:
    trials = [trial(number, 2.0 + number, values={"train.x": value}) for number in range(3)]
    found = searched(tmp_path, trials, {"train.x": space})
    assert found.dimensions[0].edge(value) == edge
    told_so = [caution for caution in cautions(found) if "Widen it" in caution]
    assert len(told_so) == (edge is not None)
    assert all(f"the {edge} edge" in caution for caution in told_so)


def test_dimensions_that_change_the_scored_tokens_forbid_the_comparison(tmp_path: Path) -> None:
    space = {"tokenize.max_length": {"values": [64, 128]}, "tokenize.shards": {"values": [1, 2]}}
    found = searched(tmp_path, [trial(0, 2.0, values={"tokenize.max_length": 64, "tokenize.shards": 1})], space)
    said = next(caution for caution in cautions(found) if "comparable" in caution)
    assert said.startswith("Trials differ in `tokenize.max_length`, which")


@pytest.mark.parametrize("best", [1, 2, 7])
def test_a_best_trial_that_is_not_a_complete_one_is_refused(tmp_path: Path, best: int) -> None:
    with pytest.raises(StageError, match=f"names trial {best}, but"):
        searched(tmp_path, [trial(0, 2.0), trial(1, None, "failed"), trial(2, 1.0, "pruned")], best=best)


def test_a_value_is_written_as_people_write_it() -> None:
    values = [3e-5, 1e-5, 0.00123456, 0.05, 8, 8.0, 2048, -0.5, 0.0, True, None, "a\x1b", ["q", "v"]]
    said = ["3×10⁻⁵", "10⁻⁵", "0.00123", "0.05", "8", "8", "2,048", "−0.5", "0", "true", "none", "a␛", '["q", "v"]']
    assert [told(value) for value in values] == said


def test_a_choice_is_found_by_value_and_kind() -> None:
    choices = Dimension("train.x", "x", (8, True, None, "8", 1))
    assert [choices.place(value) for value in (8.0, True, None, "8", 1)] == [0, 1, 2, 3, 4]


def test_a_number_that_yaml_reads_as_a_text_and_a_range_with_a_step_are_lists_of_numbers(tmp_path: Path) -> None:
    space = {
        "train.learning_rate": {"values": ["1e-5", "5e-6"]},
        "train.warmup": {"low": 0.1, "high": 0.4, "step": 0.1},
    }
    values = {"train.learning_rate": 1e-5, "train.warmup": 0.3}
    rate, warmup = searched(tmp_path, [trial(0, 2.0, values=values)], space).dimensions
    assert rate.choices == (5e-6, 1e-5)
    assert rate.place(1e-5) == 1
    assert warmup.choices == (0.1, 0.2, 0.3, 0.4)
    assert [words for _, words in warmup.marks(6)] == ["0.1", "0.2", "0.3", "0.4"]


def test_dimensions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    space = {key: {"low": 1, "high": 9} for key in ("train.decay", "train.average.decay", "train.epochs")}
    found = searched(tmp_path, [trial(0, 2.0, values=dict.fromkeys(space, 3))], space)
    assert [dimension.name for dimension in found.dimensions] == ["train.decay", "train.average.decay", "epochs"]


def test_the_history_marks_each_trial_by_its_state_and_follows_the_best(tmp_path: Path) -> None:
    trials = [trial(0, 3.0), trial(1, 3.5), trial(2, 2.5, "pruned"), trial(3, None, "failed"), trial(4, 2.0)]
    svg = history(searched(tmp_path, trials, generation=2))
    titles = {
        kind: [node.text() for node in drawn(svg, f"svg > .{kind} title")] for kind in ("complete", "pruned", "failed")
    }
    assert titles == {
        "complete": ["trial 1: 3.500", "trial 0: 3.000", "trial 4: 2.000"],
        "pruned": ["trial 2: 2.500"],
        "failed": ["trial 3: failed, without a loss"],
    }
    # Five trials share 640 units from 64 on; the axis goes from 2.0 at 304 to 3.5 at 84.
    stairs = drawn(svg, "svg > .sofar")[0].attributes["d"]
    first, last = 304 - 220 * (3.0 - 2.0) / 1.5, 304.0
    assert stairs == f"M128.0 {first:.1f}H640.0V{last:.1f}H704.0"
    assert [float(line.attributes["x1"]) for line in drawn(svg, ".turn")] == [64.0, 320.0, 576.0]
    assert "3.000 at trial 0, 2.000 at trial 4" in drawn(svg, "svg")[0].attributes["aria-label"]


def test_a_loss_far_off_does_not_flatten_the_others() -> None:
    axis = losses_axis([2.0, 2.1, 2.2, 2.3, 40.0], 300, 80)
    assert axis.marks[-1] < 3
    assert axis.beyond(40.0)
    assert axis.at(40.0) == 80
    assert not axis.beyond(2.3)
    even = losses_axis([1.0, 2.0, 3.0, 4.0, 5.0], 300, 80)
    assert not even.beyond(5.0)
    alike = losses_axis([2.0, 2.0, 2.0, 2.0, 2.005], 300, 80)
    assert not alike.beyond(2.005)
    assert alike.label(alike.marks[0]) == "2.000"


def test_a_slice_places_trials_by_factor_on_a_logarithmic_dimension(tmp_path: Path) -> None:
    rates = (1e-5, 1e-4, 1e-3)
    trials = [trial(number, 2.0 + number, values={RATE: rate}) for number, rate in enumerate(rates)]
    found = searched(tmp_path, trials, {RATE: SPACE[RATE]})
    spots = {
        node.text()[:7]: float(node.parent.attributes["cx"])
        for node in drawn(slice_of(found, found.dimensions[0]), "circle title")
    }
    low, middle, high = (spots[f"trial {number}"] for number in range(3))
    assert middle - low == pytest.approx(high - middle, abs=0.2)


def test_the_dimension_that_matters_is_found_important_and_the_others_are_not(tmp_path: Path) -> None:
    trials, space = many(60, 5)
    found = importances(searched(tmp_path, trials, space), seed=0)
    assert found[0].dimension.key == RATE
    assert found[0].clear
    assert found[0].share > 0.5
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found == importances(searched(tmp_path / "again", trials, space), seed=0)


def test_where_nothing_matters_few_dimensions_pass_for_important(tmp_path: Path) -> None:
    clear = 0
    for seed in range(10):
        trials, space = many(16, 4)
        losses = np.random.default_rng(seed).normal(3.0, 0.1, len(trials))
        trials = [
            found | {"state": "complete", "loss": float(loss)} for found, loss in zip(trials, losses, strict=True)
        ]
        clear += sum(one.clear for one in importances(searched(tmp_path / str(seed), trials, space), seed=0))
    assert clear <= 6  # 40 dimensions, one in 20 by chance: more than six has a probability of 0.3 %


def test_importance_is_not_told_of_few_trials_or_of_equal_losses(tmp_path: Path) -> None:
    assert not importances(searched(tmp_path / "a", [trial(number, 2.0 + number) for number in range(7)]), seed=0)
    assert not importances(searched(tmp_path / "b", [trial(number, 2.0) for number in range(12)]), seed=0)
    assert importances(searched(tmp_path / "c", [trial(number, 2.0 + number) for number in range(8)]), seed=0)


def test_the_rank_correlation_is_spearmans_with_shared_ranks() -> None:
    values, losses = [1, 2, 2, 3, 5, 5, 5, 9, 10], [3.0, 2.0, 2.5, 2.5, 2.0, 1.0, 1.5, 1.2, 0.5]
    trials = [
        Trial(n, {"x": v}, "complete", y, (), None, None, None, None, None)
        for n, (v, y) in enumerate(zip(values, losses, strict=True))
    ]
    expected = pd.Series(values).rank().corr(pd.Series(losses).rank())
    assert correlation(Dimension("x", "x", (), 1, 10), trials) == pytest.approx(expected)
    words = [Trial(n, {"x": "ab"[n % 2]}, "complete", float(n), (), None, None, None, None, None) for n in range(9)]
    assert correlation(Dimension("x", "x", ("a", "b")), words) is None


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    html = hostile(tmp_path)
    inert(html)
    table = HTMLParser(html).css_first("table.trials")
    assert "{{ 7 * 7 }}" in table.css("td.reason")[9].text()
    assert table.text().count("<img src=") == 2 * 11 + 1  # two of the values of each trial, and a reason
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_a_page_of_one_trial_and_one_where_all_but_one_failed_are_whole(tmp_path: Path) -> None:
    said, html = made(tmp_path / "one", [trial(0, 2.5, curve=[2.5])])
    assert said == "best is trial 0, loss 2.500. The one trial is complete."
    inert(html)
    failed = [trial(number, None, "failed", reason="the loss is not a number") for number in range(5)]
    said, html = made(tmp_path / "failed", [*failed, trial(5, 2.5, curve=[])])
    assert said == "best is trial 5, loss 2.500. Of 6 trials 1 is complete and 5 failed."
    assert "No trial was evaluated on its way" in html
    inert(html)


def test_a_loss_that_is_not_finite_is_none(tmp_path: Path) -> None:
    odd = trial(1, float("nan"), "failed", curve=[3.0, float("inf"), None])
    found = searched(tmp_path, [trial(0, 2.5), odd])
    assert (found.trials[1].loss, found.trials[1].curve) == (None, (3.0,))


def test_two_hundred_trials_make_a_small_page_whose_drawings_are_told_in_words(tmp_path: Path) -> None:
    trials, space = many(200, 6)
    _, html = made(tmp_path, trials, space)
    assert len(html.encode()) < 450_000
    tree = HTMLParser(html)
    drawings = tree.css("svg")
    assert len(drawings) == 4 + 6
    assert all(svg.attributes["role"] == "img" and len(svg.attributes["aria-label"] or "") > 30 for svg in drawings)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', html)
    rows = [(row.css_first("th").text(), row.css("td")[0].text()) for row in tree.css("table.trials tbody tr")]
    assert len(rows) == 200
    assert [state for _, state in rows] == sorted(state for _, state in rows[:164]) + ["pruned"] * 27 + ["failed"] * 9
    losses = {found["number"]: found["loss"] for found in trials}
    ranked = [losses[int(number)] for number, state in rows if state == "complete"]
    assert ranked == sorted(ranked)


def test_the_page_does_not_hang_on_the_order_of_the_files(tmp_path: Path) -> None:
    trials, space = many(9)
    files = write(tmp_path, trials)
    pages = []
    for place, names in enumerate((files["trials"], sorted(files["trials"]))):
        page = tmp_path / f"{place}.html"
        settings = {"run": "demo", "tune": tune(space), "seed": 0}
        tune_report(
            **files | {"trials": names}, page=str(page), settings=settings, template=str(TEMPLATES / "tune.html.j2")
        )
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]


def test_only_a_search_with_a_final_training_points_to_its_report(tmp_path: Path) -> None:
    link = 'href="../../demo-best/report.html"'
    assert link in made(tmp_path / "a", [trial(0, 2.5)])[1]
    assert link not in made(tmp_path / "b", [trial(0, 2.5)], final=False)[1]
