"""The report: what it says is in the files, and what the data says does nothing."""

from __future__ import annotations

import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from report import report
from runs import CONFIG, DROPS, HEADINGS, HOSTILE, KEPT, METRICS, NOBODY, inert, make_run, metric, rendered
from snaketune.config import load
from snaketune.job import StageError
from snaketune.pages.pages import number, outcome, short, visible


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("run"))


def test_hostile_text_does_nothing_in_the_report(page: str) -> None:
    inert(page)
    assert "&lt;/script&gt;&lt;img src=" in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "\x1b" not in page


def test_every_place_of_the_evaluation_that_holds_text_of_the_data_shows_it_escaped(page: str) -> None:
    tree = HTMLParser(page)
    shown = " ".join(visible(HOSTILE)[:80].split())  # names are cut where they are longer than names
    places = {
        "samples": "article header, .text, .notable, .nearest .text",
        "errors": "tbody th, td",
        "classes": "thead th, tbody th",
        "bias": "tbody th, details summary, .note code",
        "judgement": ".note, li",
        "lineage": "dt",
        "signatures": "dd",
    }
    for section, within in places.items():
        for kind in within.split(", "):
            found = [" ".join(node.text().split()) for node in tree.css(f"#{section} {kind}")]
            assert any(shown in text for text in found), f"#{section} {kind}"


def test_text_that_would_turn_the_direction_of_the_page_is_shown_by_its_number(page: str) -> None:
    assert "\u202e" not in page
    assert "[U+202E]" in page
    assert visible("\u0627\u200f \u05d0") == "\u0627\u200f \u05d0"  # what Arabic and Hebrew are written with stays


def test_the_report_forbids_every_outside_source_and_every_script_but_the_one_that_sorts(page: str) -> None:
    policy = HTMLParser(page).css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert "default-src 'none'" in policy
    assert re.findall(r"script-src ([^;]*)", policy) == re.findall(r"script-src ('sha256-[A-Za-z0-9+/=]{44}')", policy)
    with pytest.raises(AssertionError):
        inert(page.replace("</main>", "<script>1</script></main>"))
    with pytest.raises(AssertionError):
        inert(page.replace("numeric: true", "numeric: false"))


def test_every_section_has_its_heading_and_its_place_in_the_contents(page: str) -> None:
    tree = HTMLParser(page)
    assert [node.text(strip=True) for node in tree.css("h2")] == HEADINGS
    targets = [node.attributes["href"] for node in tree.css("nav a")]
    assert targets == [f"#{node.attributes['id']}" for node in tree.css("main > section")]
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids))


def test_the_verdict_comes_first_and_holds_the_numbers(page: str) -> None:
    first = HTMLParser(page).css_first(".verdict").text()
    assert "Perplexity fell from 404 to 43.1" in first
    assert (
        "95\u00a0% interval of the difference \u2212365.1 to \u2212357.1, p\u00a0<\u00a00.001, over 9 test rows"
        in first
    )


def test_the_checks_follow_the_verdict_and_say_which_do_not_hold(page: str) -> None:
    found = HTMLParser(page).css_first("header .checks")
    assert found.css_first("p").text() == "2 of 3 checks fail."
    told = {node.css_first("code").text(): node.attributes["class"] for node in found.css("li")}
    assert told == {"min: 5": "fails", "max: 50": "holds", "min_delta: 0": "fails"}


def test_a_run_without_checks_says_nothing_of_them(tmp_path: Path) -> None:
    files = make_run(tmp_path)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"] | {"checks": {}}
    report(files, str(tmp_path / "report.html"), settings)
    assert not HTMLParser((tmp_path / "report.html").read_text()).css(".checks")


def test_a_check_of_a_metric_that_was_not_computed_is_refused(tmp_path: Path) -> None:
    files = make_run(tmp_path)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"] | {"checks": {"blue": {"min": 1}}}
    with pytest.raises(StageError, match="bleu"):
        report(files, str(tmp_path / "report.html"), settings)


def test_an_interval_that_holds_zero_is_not_sold_as_a_gain(page: str) -> None:
    verdicts = {row.css_first("th").text(): row.css_first('[data-name="Verdict"]').text() for row in metric_rows(page)}
    assert [text for name, text in verdicts.items() if name.startswith("ROUGE-L")] == ["unclear"]
    assert [text for name, text in verdicts.items() if name.startswith("Perplexitylower")] == ["better"]


def test_a_metric_of_which_neither_direction_is_better_is_called_neither(page: str) -> None:
    (row,) = [row for row in metric_rows(page) if row.css_first("th").text().startswith("Distinct-2")]
    assert row.css_first("th small").text() == "neither is better"
    assert row.css_first('[data-name="Verdict"]').text() == "lower"
    assert row.css_first('[data-name="Rows"]').text(strip=True) == "9"  # and has no better and worse rows
    assert [outcome(metric(1.0, value, 0.1, None)) for value in (0.5, 1.05, 2.0)] == ["lower", "unclear", "higher"]


def test_a_metric_without_intervals_is_shown_with_dashes_and_not_drawn(tmp_path: Path) -> None:
    lone = {"base": 1.0, "tuned": 2.0, "delta": 1.0, "n": 9, "higher_is_better": True}
    unknown = dict.fromkeys(("ci95", "base_ci95", "tuned_ci95", "p", "wins", "ties", "losses"))
    html = rendered(tmp_path, metrics={"metrics": METRICS | {"politeness": lone | unknown}})
    (row,) = [row for row in metric_rows(html) if row.css_first("th").text().startswith("politeness")]
    cells = [row.css_first(f'[data-name="{name}"]').text() for name in ("Tuned", "Difference", "Verdict", "p")]
    assert cells == ["2.000–", "+1.000–", "unclear", "–"]
    assert not [node for node in HTMLParser(html).css(".plot .name") if node.text() == "politeness"]


def test_metrics_stand_in_groups_the_leading_ones_first_and_every_one_once(page: str) -> None:
    section = HTMLParser(page).css_first("#metrics")
    titles = [node.text() for node in section.css("h3")]
    assert titles[:-1] == [
        *("Likelihood", "Answers", "Classification", "Your own metrics", "Diversity and copying", "Probes"),
    ]
    folded = [row.css_first("th").text() for row in section.css("details tbody tr")]
    assert folded == ["Top-5 token accuracyhigher is better"]
    assert "politenesshigher is better" in [row.css_first("th").text() for row in metric_rows(page)]
    assert len(metric_rows(page)) == len(METRICS)


def metric_rows(html: str) -> list[Any]:
    return HTMLParser(html).css("#metrics tbody tr")


def test_what_is_forgotten_stands_in_the_cautions_and_in_its_section(page: str) -> None:
    tree = HTMLParser(page)
    cautions = " ".join(node.text() for node in tree.css("header .caution"))
    assert "On general text perplexity rose from 60.00 to 75.00" in cautions
    assert "stop at the limit of generate.max_new_tokens" in cautions  # 3 of 9
    assert "+11.00 to +19.00, over 40 passages): part of what the base model knew is forgotten" in page


def test_kept_and_dropped_rows_add_up_to_the_raw_rows(page: str) -> None:
    raw = sum(DROPS.values()) + sum(KEPT.values())
    assert f"{sum(KEPT.values())} + {sum(DROPS.values())} = {raw}" in page
    rows = [
        [int(row.css_first(f'[data-name="{name}"]').text()) for name in ("Rows in", "Dropped", "Rows out")]
        for row in HTMLParser(page).css(".funnel tbody tr")
    ]
    assert rows[0][0] == raw
    assert rows[-1][2] == sum(KEPT.values())
    assert all(entering - dropped == leaving for entering, dropped, leaving in rows)
    assert all(before[2] == after[0] for before, after in pairwise(rows))


def test_each_rule_that_dropped_rows_is_named_with_its_count(page: str) -> None:
    text = HTMLParser(page).css_first(".funnel").text()
    for (_, rule), count in DROPS.items():
        assert f"{rule.replace('_', ' ')} {count}" in text


def test_a_quarantine_of_another_run_is_noticed(page: str, tmp_path: Path) -> None:
    assert "not of this run" not in page
    assert "not of this run" in rendered(tmp_path, quarantined=2)


def test_a_long_answer_is_folded_and_still_whole(page: str) -> None:
    assert any(("long " * 20_000).strip() in node.text() for node in HTMLParser(page).css("details.fold .text"))


def test_samples_show_base_tuned_and_reference_and_say_how_they_were_chosen(page: str) -> None:
    samples = HTMLParser(page).css(".sample")
    assert [node.css_first("h3").text() for node in samples] == [
        *["Tuning won most"] * 3,
        *["Tuning lost most"] * 3,
        *["Drawn at random"] * 2,
    ]
    for node in samples:
        assert [h.text().split(",")[0] for h in node.css(".answers h4")] == ["Base", "Tuned", "Reference"]
    # a text without a prompt is scored from its beginning, which is not the reference: it is shown apart
    assert [len(node.css(".tokens")) - len(node.css(".answers .tokens")) for node in samples] == [0, 0, 1, *[0] * 5]
    assert "ROUGE-L 17.00 → –" in samples[-1].css_first("header").text()  # a value that there is not


def test_the_nearest_training_row_is_told_with_its_similarity(page: str) -> None:
    told = [node.text() for node in HTMLParser(page).css(".nearest summary")]
    assert told == ["Nearest training row: similarity 0.25"] * 6  # the random ones have none


def test_slices_can_be_sorted_by_rows_and_by_difference(page: str) -> None:
    table = HTMLParser(page).css_first("table.slices.sortable")
    assert [node.attributes.get("data-sort") for node in table.css("thead th")] == ["text", "number", "number"]
    values = [[cell.attributes["data-value"] for cell in row.css("td")] for row in table.css("tbody tr")]
    assert values == [["4", "-50.0"], ["30", "-7.0"], ["5", "-300.0"]]
    assert "−50.00 (−54.00 to −46.00)" in table.css_first("tbody td:last-child").text()
    assert "Left out, for too few rows: 2 by label (3 rows)." in page


def test_failures_show_base_beside_tuned_with_their_shares(page: str) -> None:
    row = HTMLParser(page).css_first(".failures tbody tr")
    assert row.css_first("th").text() == "Cut at the limit"
    cells = [row.css_first(f'[data-name="{side}"]').text() for side in ("Base", "Tuned")]
    assert cells == ["444.4\u00a0%", "333.3\u00a0%"]  # 4 and 3 of 9


def test_the_reliability_diagram_has_a_point_for_each_tenth_that_holds_tokens(page: str) -> None:
    drawing = HTMLParser(page).css_first("svg.reliability")
    assert [len(drawing.css(f"circle.{side}")) for side in ("base", "tuned")] == [9, 9]
    # base: n tokens at confidence n/10 + 0.05 and accuracy n/10 - 0.1; sums over n = 1..9 with weights n:
    # (28.5 + 2.25) / 45 = 68.3 % sure, (28.5 - 4.5) / 45 = 53.3 % right; tuned: (28.5 + 2.025) / 45 = 67.8 %
    words = drawing.attributes["aria-label"]
    assert "The base model is surer than it is right: 68.3\u00a0% mean confidence, 53.3\u00a0%" in words
    assert "The tuned model is about as sure as it is right: 68.3\u00a0% mean confidence, 67.8\u00a0%" in words


def test_the_confusion_matrix_is_read_by_row_and_shaded_by_share(page: str) -> None:
    rows = HTMLParser(page).css_first(".matrix").css("tbody tr")
    assert [[cell.text() for cell in row.css("td")] for row in rows] == [["3", "1", "1"], ["0", "4", "0"]]
    assert [row.css("td")[place].attributes["class"] for place, row in enumerate(rows)] == [
        "n share3 right",
        "n share4 right",
    ]


def test_people_are_told_what_they_preferred_or_where_to_judge(page: str, tmp_path: Path) -> None:
    told = HTMLParser(page).css_first("#judgement").text()
    assert "2 judges preferred the tuned model: the tuned one won 87.5\u00a0%" in told
    nobody = HTMLParser(rendered(tmp_path, judgement=NOBODY)).css_first("#judgement")
    assert "Nobody has judged yet" in nobody.text()
    assert nobody.css_first("a").attributes["href"] == "judge/page.html"
    assert not nobody.css("dl")


def test_the_lineage_holds_the_hash_that_sha256sum_would_give_of_the_code(page: str) -> None:
    lines = f"{'1b' * 32}  Snakefile\n{'2c' * 32}  workflow/a.py\n"
    codes = [node.text() for node in HTMLParser(page).css(".hashes code")]
    assert codes == ["0a" * 32, hashlib.sha256(lines.encode()).hexdigest()]
    stages = {node.css_first("strong").text(): node.text() for node in HTMLParser(page).css(".stages li")}
    assert "metrics.json" in stages["metrics"]
    assert "decontaminate" not in stages  # it does not happen in this run,
    assert stages["leaks"].startswith("leaks from split →")  # nor does the augmentation that this would read
    assert stages["ingest"].startswith("ingest from the raw files →")


def test_a_run_with_nothing_to_show_has_a_report(tmp_path: Path) -> None:
    changes = {
        "metrics": {"classes": None, "bias": None, "metrics": {"perplexity": METRICS["perplexity"]}}
        | {"calibration": {"edges": [0, 1], "base": [{"n": 0}], "tuned": [{"n": 0}]}, "probes": {}, "signatures": {}},
        "errors": {"slices": [], "slices_left_out": [], "failures": []},
        "judgement": NOBODY,
    }
    files = make_run(tmp_path, rows=0, quarantined=0, **changes)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"] | {"checks": {}}
    report(files, str(tmp_path / "report.html"), settings)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    inert(html)
    for words in ("No sample is shown", "No part of the test split", "No test row was answered", "No token was scored"):
        assert words in html
    assert "probes.bias</code> is off" in html
    headings = [node.text(strip=True) for node in HTMLParser(html).css("h2")]
    assert headings == [name for name in HEADINGS if name != "Classes"]


def test_the_report_holds_the_complete_settings_as_yaml(page: str) -> None:
    shown = HTMLParser(page).css_first("#settings pre").text()
    loaded = yaml.safe_load(shown.replace("\u241b", ""))
    expected = load(CONFIG)["demo"]
    assert {**loaded, "report": None} == {**expected, "report": None}


def test_the_same_files_make_the_same_report(page: str, tmp_path: Path) -> None:
    assert rendered(tmp_path) == page


def test_numbers_are_written_as_people_read_them() -> None:
    assert [number(v) for v in (43.117, -0.5, -0.001, 12345.6, None, math.inf)] == [
        "43.12",
        "\u22120.50",
        "0.00",
        "12,346",
        "\u2013",
        "∞",
    ]
    assert [short(v) for v in (404.2, 43.117, 0.1349, 12345.6)] == ["404", "43.1", "0.135", "12,346"]
