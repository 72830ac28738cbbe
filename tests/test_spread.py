"""Several seeds and folds: what their mean and spread are, which runs are refused, and what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from report import _only
from runs import HEADINGS, HOSTILE, METRICS, inert, metric, rendered
from snaketune.job import StageError
from snaketune.pages.pages import visible
from snaketune.pages.spread import cautions, parts, verdict
from snaketune.scoring.spread import over_folds, over_seeds, summary
from snaketune.scoring.student import quantile, student
from spread import _named, spread

# From a printed table, two-sided 95 %: of n runs, n - 1 degrees of freedom.
T = {2: 12.706205, 3: 4.302653, 5: 2.776445}


def run_of(name: str, test: str, **scores: tuple[float, float]) -> dict[str, Any]:
    """What of a metrics.json is read; scores: metric -> (base, tuned). Of `bleu` more is better."""
    higher = {"bleu": True, "distinct_2": None}
    made = {key: metric(base, tuned, 0.1, higher.get(key, False)) for key, (base, tuned) in scores.items()}
    return {"run": name, "test": {"rows": 9, "sha256": test}, "metrics": made}


def seeds(*tuned: float, base: float = 60.0) -> dict[str, dict[str, Any]]:
    names = [f"demo-seed-{number}" for number in range(len(tuned))]
    return {name: run_of(name, "aa", perplexity=(base, value)) for name, value in zip(names, tuned, strict=True)}


def folds(*scores: tuple[float, float]) -> dict[str, dict[str, Any]]:
    names = [f"demo-fold-{number}" for number in range(len(scores))]
    return {name: run_of(name, name, perplexity=pair) for name, pair in zip(names, scores, strict=True)}


def document(tmp_path: Path, **kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """spread.json by way of files, as the stage writes it."""
    files: dict[str, dict[str, str]] = {}
    for kind, runs in kinds.items():
        for number, (name, run) in enumerate(runs.items()):
            path = tmp_path / f"{kind}-{number}.json"
            path.write_text(json.dumps(run), encoding="utf-8")
            files.setdefault(kind, {})[name] = str(path)
    spread(files, str(tmp_path / "out" / "spread.json"), {"run": "demo"})
    return json.loads((tmp_path / "out" / "spread.json").read_text(encoding="utf-8"))


def test_students_t_is_that_of_the_printed_tables_for_two_three_and_five_runs():
    for n, t in T.items():
        assert quantile(n - 1) == pytest.approx(t, abs=1e-6)
        assert student(t, n - 1) == pytest.approx(0.95, abs=1e-7)


@pytest.mark.parametrize(
    ("values", "mean", "sd", "reach"),
    [
        ([46.0, 48.0], 47.0, 1.414214, 12.706205),  # s / sqrt 2 = 1
        ([46.0, 47.0, 48.0], 47.0, 1.0, 2.484138),  # 4.302653 / sqrt 3
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 1.581139, 1.963243),  # 2.776445 * sqrt(2.5 / 5)
    ],
)
def test_mean_sample_deviation_and_interval_over_seeds_are_those_by_hand(values, mean, sd, reach):
    found = summary(values)
    assert (found["mean"], found["min"], found["max"], found["values"]) == (mean, values[0], values[-1], values)
    assert found["sd"] == pytest.approx(sd, abs=1e-6)
    assert found["ci95"] == pytest.approx([mean - reach, mean + reach], abs=2e-6)


def test_the_interval_over_folds_is_widened_by_the_training_rows_that_they_share():
    """Nadeau and Bengio (2003): s^2 = 2.5, k = 5: 2.5 * (1/5 + 1/3) = 4/3; 2.776445 * sqrt(4/3) = 3.205962."""
    found = over_folds(folds(*((10.0, float(value)) for value in (1, 2, 3, 4, 5))))["metrics"]["perplexity"]
    assert found["tuned"]["ci95"] == pytest.approx([3 - 3.205962, 3 + 3.205962], abs=2e-6)
    assert found["delta"]["ci95"] == pytest.approx([-7 - 3.205962, -7 + 3.205962], abs=2e-6)


def test_of_three_folds_one_is_trained_on_so_that_the_variance_is_four_thirds():
    found = over_folds(folds((60, 46), (61, 47), (62, 48)))["metrics"]["perplexity"]
    assert found["tuned"]["ci95"] == pytest.approx([47 - 4.968276, 47 + 4.968276], abs=2e-6)  # 4.302653 * sqrt(4/3)
    assert found["base"]["values"] == [60, 61, 62]  # of each fold's own rows, so that it has a spread as well
    assert found["base"]["ci95"] == pytest.approx([61 - 4.968276, 61 + 4.968276], abs=2e-6)


def test_two_folds_have_no_interval_since_nothing_would_be_trained_on():
    found = over_folds(folds((60, 46), (61, 48)))["metrics"]["perplexity"]["tuned"]
    assert (found["mean"], found["sd"], found["ci95"]) == (47, pytest.approx(1.414214, abs=1e-6), None)


def test_one_run_has_a_mean_and_neither_deviation_nor_interval(tmp_path):
    found = document(tmp_path, seeds=seeds(46.0))["seeds"]
    assert found["metrics"]["perplexity"]["tuned"] == {
        "mean": 46.0,
        "sd": None,
        "min": 46.0,
        "max": 46.0,
        "ci95": None,
        "values": [46.0],
    }
    assert verdict(found, "seeds") == "Over 1 seed perplexity is 46.00; one run shows no spread."


def test_over_seeds_the_base_has_one_value_and_no_spread():
    assert over_seeds(seeds(46, 47, 48))["metrics"]["perplexity"]["base"] == {"mean": 60.0}


def test_what_counts_as_better_follows_the_direction_of_the_metric():
    scores = [((60, 59), (10, 9)), ((60, 61), (10, 11)), ((60, 58), (10, 10))]
    runs = {str(n): run_of(str(n), "aa", perplexity=a, bleu=b, distinct_2=b) for n, (a, b) in enumerate(scores)}
    found = over_seeds(runs)["metrics"]
    assert [(found[key]["better"], found[key]["n"]) for key in ("perplexity", "bleu")] == [(2, 3), (1, 3)]
    assert found["distinct_2"]["better"] is None


def test_a_metric_that_some_runs_lack_is_left_out_and_counted():
    runs = seeds(46, 47, 48)
    runs["demo-seed-1"]["metrics"]["bleu"] = metric(1.0, 2.0, 0.1, True)
    found = over_seeds(runs)
    assert list(found["metrics"]) == ["perplexity"]
    assert found["left_out"] == {"bleu": 1}


def test_seeds_that_were_tested_on_other_rows_are_refused():
    runs = seeds(46, 47, 48)
    runs["demo-seed-2"]["test"]["sha256"] = "bb"
    with pytest.raises(StageError, match="demo-seed-2 was tested on other rows than demo-seed-0"):
        over_seeds(runs)


def test_seeds_with_another_base_are_refused():
    runs = seeds(46, 47) | {"demo-seed-2": run_of("demo-seed-2", "aa", perplexity=(61.0, 48.0))}
    with pytest.raises(StageError, match="perplexity of the base is 60 in demo-seed-0 and 61 in demo-seed-2"):
        over_seeds(runs)


def test_folds_that_were_tested_on_the_same_rows_are_refused():
    runs = folds((60, 46), (61, 47), (62, 48))
    runs["demo-fold-2"]["test"]["sha256"] = "demo-fold-0"
    with pytest.raises(StageError, match="demo-fold-2 was tested on the very rows of demo-fold-0"):
        over_folds(runs)


def test_the_stage_writes_the_same_bytes_twice_and_says_what_it_found(tmp_path):
    runs, path = seeds(46, 47, 48), tmp_path / "out" / "spread.json"
    found = document(tmp_path, seeds=runs)
    first = path.read_bytes()
    assert document(tmp_path, seeds=runs) == found
    assert path.read_bytes() == first
    assert (found["run"], found["folds"], found["seeds"]["runs"]) == ("demo", None, list(runs))
    named = _named([str(tmp_path / f"seeds-{n}.json") for n in range(3)])
    assert list(named) == list(runs)
    told = spread({"seeds": named}, str(path), {"run": "demo"})
    assert told == "3 seeds, 1 metric: perplexity 47.00 ± 2.48"


def test_without_seeds_and_folds_the_file_says_so(tmp_path):
    assert document(tmp_path) == {"run": "demo", "seeds": None, "folds": None}


def test_the_verdict_gives_half_the_interval_and_whether_the_difference_keeps_its_sign():
    kept = over_seeds(seeds(46, 47, 48))
    assert verdict(kept, "seeds") == (
        "Over 3 seeds perplexity is 47.00 ± 2.48; the difference from the base keeps its sign in all."
    )
    mixed = over_folds(folds((47, 46), (46, 47), (48, 48)))
    assert verdict(mixed, "folds") == (
        "Over 3 folds perplexity is 47.00 ± 4.97; the difference from the base is above zero in 1, below in 1 and is "
        "zero in 1."
    )


def test_without_perplexity_the_verdict_is_of_the_first_leading_metric():
    runs = {f"r{n}": run_of(f"r{n}", "aa", rouge1=(9.0, 5.0), bleu=(1.0, 2.0 + n)) for n in range(2)}
    told = verdict(over_seeds(runs), "seeds")
    assert told == "Over 2 seeds BLEU is 2.50 ± 6.35; the difference from the base keeps its sign in both."


def test_runs_without_a_metric_in_common_are_told_as_such():
    runs = {"a": run_of("a", "aa", bleu=(1, 2)), "b": run_of("b", "aa", perplexity=(1, 2))}
    found = over_seeds(runs)
    assert verdict(found, "seeds") == "Over 2 seeds no metric is common to all runs."
    assert parts({"seeds": found})[0]["first"] == []


def test_a_spread_over_seeds_that_is_wider_than_the_runs_own_interval_is_cautioned_of():
    found = {"seeds": over_seeds(seeds(43.0, 46.0, 48.0))}
    (told,) = cautions(found, {"perplexity": metric(60.0, 46.0, 2.4, False)})  # 5.0 of seeds beside 4.8 of rows
    assert "of 1 of 1 metrics spread wider than the 95\u00a0% interval of this run" in told
    assert "Perplexity 43.00 to 48.00, interval 43.60 to 48.40" in told
    assert cautions(found, {"perplexity": metric(60.0, 46.0, 2.6, False)}) == []  # 5.2 of rows
    assert cautions(found, {}) == []
    assert cautions({"folds": over_folds(folds((60, 40), (61, 47), (62, 68)))}, METRICS) == []


@pytest.fixture(scope="module")
def both() -> dict[str, Any]:
    """Seeds and folds with every place that the data reaches hostile: names of metrics, and of runs."""
    names = ("perplexity", "bleu", "rouge1", HOSTILE)
    seeded = {f"{HOSTILE}{n}": run_of("x", "aa", **dict.fromkeys(names, (60.0, 46.0 + 9 * n))) for n in range(3)}
    seeded[f"{HOSTILE}0"]["metrics"]["<b>some</b>"] = metric(1.0, 2.0, 0.1, True)
    folded = {f"f{n}": run_of("x", f"{n}", **dict.fromkeys(names, (60.0 + n, 46.0 - n))) for n in range(5)}
    return {"run": "demo", "seeds": over_seeds(seeded), "folds": over_folds(folded)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, both: dict[str, Any]) -> str:
    return rendered(tmp_path_factory.mktemp("run"), spread=both)


def test_the_section_stands_after_the_metrics_with_its_place_in_the_contents(page):
    tree = HTMLParser(page)
    headings = [node.text(strip=True) for node in tree.css("h2")]
    assert headings == [HEADINGS[0], "Seeds and folds", *HEADINGS[1:]]
    targets = [node.attributes["href"] for node in tree.css("nav a")]
    assert targets == [f"#{node.attributes['id']}" for node in tree.css("main > section")]


def test_a_run_without_seeds_and_folds_has_no_section_and_no_mention(tmp_path):
    pages = [rendered(tmp_path)]
    for number, empty in enumerate(({"run": "demo", "seeds": None, "folds": None}, None)):
        (folder := tmp_path / str(number)).mkdir()
        pages.append(rendered(folder, spread=empty))
    assert pages[0] == pages[1] == pages[2]
    assert [node.text(strip=True) for node in HTMLParser(pages[0]).css("h2")] == HEADINGS
    assert not HTMLParser(pages[0]).css("#spread, [href='#spread']")
    assert "folds" not in HTMLParser(pages[0]).css_first("#metrics").text()


def test_seeds_alone_make_a_section_of_that_name(tmp_path, both):
    tree = HTMLParser(rendered(tmp_path, spread=both | {"folds": None}))
    assert tree.css_first("#spread h2").text() == "Seeds"
    assert len(tree.css("#spread table")) == 2  # the leading metrics, and the rest


def test_one_seed_is_shown_with_dashes_for_what_one_run_does_not_tell(tmp_path):
    html = rendered(tmp_path, spread={"run": "demo", "seeds": over_seeds(seeds(46.0)), "folds": None})
    cells = [node.text(strip=True) for node in HTMLParser(html).css("#spread tbody td")]
    assert cells == ["60.00", "46.00–", "–", "46.00 to 46.00", "−14.00–", "1 of 1"]


def test_hostile_names_of_metrics_and_runs_do_nothing_in_the_section(page):
    inert(page)
    tree = HTMLParser(page)
    shown = " ".join(visible(HOSTILE)[:80].split())
    for kind in ("tbody th", ".note"):
        assert any(shown in " ".join(node.text().split()) for node in tree.css(f"#spread {kind}")), kind
    assert "&lt;b&gt;some&lt;/b&gt; (1 of 3)" in page


def test_the_table_shows_each_metric_once_the_leading_ones_first_and_the_rest_folded(page):
    section = HTMLParser(page).css_first("#spread")
    rows = [row.css_first("th").text() for row in section.css("tbody tr")]
    names = ["Perplexity", "BLEU", visible(HOSTILE)[:80], "ROUGE-1"]
    assert [row.startswith(name) for row, name in zip(rows, names * 2, strict=True)] == [True] * 8
    folded = [row.css_first("th").text() for row in section.css("details tbody tr")]
    assert folded == ["ROUGE-1lower is better"] * 2
    seeded = section.css("table")[0].css_first("tbody tr")
    cells = {node.attributes["data-name"]: " ".join(node.text().split()) for node in seeded.css("td")}
    # 46, 55, 64: s = 9, 4.302653 * 9 / sqrt 3 = 22.357
    assert cells == {
        "Base": "60.00",
        "Tuned": "55.0032.64 to 77.36",
        "SD": "9.00",
        "Least to largest": "46.00 to 64.00",
        "Difference": "−5.00−27.36 to +17.36",
        "Better": "2 of 3",
    }


def test_the_page_says_that_the_base_is_the_same_over_seeds_and_that_folds_share_training_rows(page):
    notes = " ".join(node.text() for node in HTMLParser(page).css("#spread .note"))
    assert "the same base, which therefore has one value and no spread" in notes
    assert "Folds share training rows" in notes
    assert "s²\u202f(1/5\u00a0+\u00a01/3)" in notes


def test_the_caution_stands_at_the_top_of_the_report(page):
    told = [node.text() for node in HTMLParser(page).css("header .caution")]
    # perplexity 46 to 64 beside an interval of 8; BLEU beside one of 0.2
    assert [text for text in told if text.startswith("Over 3 seeds the scores of 2 of 2 metrics spread wider")]


def test_the_input_may_be_a_path_a_list_with_one_an_empty_list_or_missing():
    assert [_only(found) for found in ("a/spread.json", ["a/spread.json"], [], None)] == [
        *("a/spread.json", "a/spread.json", None, None)
    ]
