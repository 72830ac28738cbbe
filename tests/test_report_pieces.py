"""The pieces of the report: marks on tokens, groups of metrics, the words at its top."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import StrictUndefined, Template

from runs import METRICS, TEMPLATES, metric
from snaketune.pages.calibration import in_words, table
from snaketune.pages.errors import samples
from snaketune.pages.metric_groups import groups, tracks
from snaketune.pages.pages import METRICS as KNOWN
from snaketune.pages.pages import clipped, coded
from snaketune.pages.tokens import head, mark, notable, runs
from snaketune.pages.verdicts import cautions, checks_in_words, forgetting, headline, judged_in_words


def token(text: str, base: float | None, tuned: float | None) -> dict[str, Any]:
    return {"text": text, "base": base, "tuned": tuned}


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.9, ""), (2, "up1"), (9.9, "up1"), (10, "up2"), (99, "up2"), (100, "up3"), (1e9, "up3")]
)
def test_a_mark_says_by_which_factor_a_token_became_likelier(factor: float, expected: str) -> None:
    assert mark(token("a", 5 + math.log(factor), 5.0)) == expected
    assert mark(token("a", 5.0, 5 + math.log(factor))) == expected.replace("up", "down")


def test_a_token_without_a_finite_loss_has_no_mark() -> None:
    assert [mark(token("a", base, 1.0)) for base in (None, math.inf, math.nan)] == ["", "", ""]


def test_marked_tokens_stand_alone_and_the_others_together() -> None:
    found = runs([token("a", 1, 1), token("b", 1, 1.1), token("\n", 9, 1), token("c", 1, 9), token("d", 1, 1)])
    assert [(run.text, run.mark) for run in found] == [("ab", ""), ("↵\n", "up3"), ("c", "down3"), ("d", "")]
    assert found[1].told == "9.00 → 1.00"


def test_a_long_text_is_cut_within_a_run_and_a_short_one_not_at_all() -> None:
    pieces = runs([token("aaaa", 1, 1), token("bbbb", 9, 1)])
    assert head(pieces, 8) is None
    assert [(run.text, run.mark) for run in head(pieces, 6) or []] == [("aaaa", ""), ("bb", "up3")]


def test_the_tokens_that_changed_most_are_told_in_words() -> None:
    costs = {"a": -1.0, "b": -5.0, "c": -3.0, "d": -2.0, "e": 4.0, "f": 0.1}
    found = notable([token(text, 6.0, 6.0 + cost) for text, cost in costs.items()])
    assert found["gained"] == [("b", "6.00 → 1.00"), ("c", "6.00 → 3.00"), ("d", "6.00 → 4.00")]
    assert found["lost"] == [("e", "6.00 → 10.00")]


def test_a_scored_text_that_is_not_the_reference_is_shown_apart() -> None:
    row = {"reference": "and the rest", "tokens": [token(text, 1, 1) for text in ("and the", " rest", "<end>")]}
    whole = row | {"tokens": [token("The beginning, ", 1, 1), *row["tokens"]]}
    assert [shown["apart"] for shown in samples({"rows": [row, whole]})] == [False, True]


def test_every_metric_stands_in_one_group_with_a_leading_one() -> None:
    every = dict.fromkeys(KNOWN, metric(1.0, 2.0, 0.1, True)) | {"mine": metric(1.0, 2.0, 0.1, True)}
    found = groups(every)
    shown = [name for group in found for name in (*group["first"], *group["rest"])]
    assert sorted(shown) == sorted(every)
    assert all(group["first"] for group in found)
    assert groups({"ter": METRICS["bleu"]})[0] | {"note": ""} == {
        "id": "answers", "title": "Answers", "note": "", "first": ["ter"], "rest": [],
    }  # fmt: skip


def test_the_drawing_has_a_direction_only_where_all_its_metrics_have_it() -> None:
    up, down = metric(10.0, 20.0, 1.0, True), metric(30.0, 20.0, 1.0, False)
    (alike,) = tracks({"bleu": up, "chrf": up})
    (mixed,) = tracks({"accuracy": up, "unrecognized": down})
    assert (alike["direction"], mixed["direction"]) == ("higher is better", "0 to 100")
    assert [group["axis"] for group in tracks({"bleu": up, "myCOMET": up})] == ["Score", "myCOMET"]


def test_the_headline_counts_scores_only_and_no_probe() -> None:
    assert headline(METRICS | {"calibration_error": metric(6.0, 3.0, 0.5, False)})[1] == (
        "Of 5 scores of accuracy and of the answers, 4 got better, 1 shows no clear difference (Macro F1 31.0 → 55.0, "
        "BLEU 0.130 → 1.13)."
    )


def test_checks_are_summed_up_in_a_sentence() -> None:
    told = [checks_in_words([{"holds": holds} for holds in held]) for held in ([], [1], [1, 1], [1, 0], [0, 0])]
    assert told == ["", "The check holds.", "All 2 checks hold.", "1 of 2 checks fails.", "No check holds."]


def test_unequal_prompts_and_answers_that_hit_the_limit_are_cautioned_against() -> None:
    rows = {"perplexity": metric(9.0, 8.0, 0.1, False, n=500), "general_perplexity": metric(9.0, 8.0, 0.1, False, n=5)}
    assert cautions(rows, [{"kind": "truncated", "of": 100, "base": 90, "tuned": 19}], 0) == []
    (cut, shots) = cautions(rows, [{"kind": "truncated", "of": 100, "base": 0, "tuned": 20}], 2)
    assert cut.startswith("20.0\u00a0% of the tuned model's answers stop at the limit")
    assert "The base model was shown 2 examples" in shots


def test_general_text_that_got_no_worse_is_not_called_forgotten() -> None:
    assert "no sign of forgetting" in forgetting({"general_perplexity": metric(9.0, 8.0, 0.1, False)})
    assert "no clear difference" in forgetting({"general_perplexity": metric(9.0, 9.5, 1.0, False)})
    assert forgetting({}) == ""


def test_an_interval_of_votes_that_holds_one_half_is_no_preference() -> None:
    votes = {"judges": [{}], "judged": 9}
    assert judged_in_words(votes | {"win_rate": {"value": 0.6, "ci95": [0.4, 0.8]}}).startswith(
        "1 judge showed no clear preference"
    )
    assert "preferred the base model" in judged_in_words(votes | {"win_rate": {"value": 0.1, "ci95": [0.0, 0.4]}})
    assert judged_in_words(votes | {"win_rate": None}) == "1 judge compared answers and called every pair even."


def test_tenths_without_tokens_are_neither_listed_nor_told() -> None:
    empty, full = {"n": 0, "confidence": None, "accuracy": None}, {"n": 4, "confidence": 0.7, "accuracy": 0.5}
    bins = {"edges": [0.0, 0.5, 1.0], "base": [empty, empty], "tuned": [empty, full]}
    assert [(row["low"], row["tuned"]["n"]) for row in table(bins)] == [(0.5, 4)]
    assert in_words(bins).startswith("The tuned model is surer than it is right: 70.0\u00a0%")


def test_a_name_is_cut_where_it_is_longer_than_a_name() -> None:
    assert clipped("x" * 90) == "x" * 90
    assert clipped("x" * 91) == "x" * 89 + "…"
    assert clipped("\x1b") == "␛"


def test_code_in_a_sentence_is_escaped_before_it_is_marked() -> None:
    assert coded("set `a < b` & <i>") == "set <code>a &lt; b</code> &amp; &lt;i&gt;"


def test_the_captions_of_snakemakes_report_are_clean_text_for_their_rules() -> None:
    docutils = pytest.importorskip("docutils.core")
    parts = {"compare": {"resamples": 1000}, "seed": 42, "rows": 8}
    known = SimpleNamespace(wildcards=SimpleNamespace(run="demo"), params=SimpleNamespace(settings=parts))
    captions = sorted((TEMPLATES / "captions").glob("*.rst"))
    names = ["card", "curves", "data", "errors", "judge", "leaderboard", "metrics", "report", "tune"]
    assert [path.stem for path in captions] == names
    for path in captions:
        text = Template(path.read_text(encoding="utf-8"), undefined=StrictUndefined).render(snakemake=known)
        docutils.publish_string(text, writer="null", settings_overrides={"halt_level": 2, "report_level": 2})
        assert ("demo" in text) == (path.stem != "leaderboard")
