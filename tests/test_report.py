"""The report: what it says is in the files, and what the data says does nothing."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from runs import CONFIG, DROPS, HEADINGS, KEPT, inert, rendered
from snaketune.config import load
from snaketune.pages.pages import number, short
from snaketune.pages.samples import choose


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("run"))


def test_hostile_text_does_nothing_in_the_report(page: str) -> None:
    inert(page)
    assert "&lt;/script&gt;&lt;img src=" in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "\x1b" not in page


def test_the_report_forbids_scripts_and_every_outside_source(page: str) -> None:
    policy = HTMLParser(page).css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


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


def test_an_interval_that_holds_zero_is_not_sold_as_a_gain(page: str) -> None:
    verdicts = {row.css_first("th").text(): row.css_first('[data-name="Verdict"]').text() for row in metric_rows(page)}
    assert [text for name, text in verdicts.items() if name.startswith("ROUGE-L")] == ["unclear"]
    assert [text for name, text in verdicts.items() if name.startswith("Perplexity")] == ["better"]


def metric_rows(html: str) -> list[Any]:
    return HTMLParser(html).css("#metrics tbody tr")


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
    assert any(("long " * 300).strip() in node.text() for node in HTMLParser(page).css("details.fold .text"))


def test_samples_show_base_tuned_and_reference_and_say_how_they_were_chosen(page: str) -> None:
    samples = HTMLParser(page).css(".sample")
    assert len(samples) == 8
    assert {node.css_first("h3").text() for node in samples} == {
        "Tuning won most",
        "Tuning lost most",
        "Drawn at random",
    }
    for node in samples:
        assert [h.text().split(",")[0] for h in node.css(".answers h4")] == ["Base", "Tuned", "Reference"]


def test_the_rows_shown_are_those_that_won_and_lost_most_by_rouge_l() -> None:
    rows = [f"{i:032x}" for i in range(5)]
    texts = [{"row_id": row, "prompt": None, "reference": row, "output": row, "n_tokens": 1} for row in rows]
    scores = {"base": [0.0, 0.5, 0.2, 0.3, 0.1], "tuned": [0.9, 0.1, 0.2, 0.6, 0.1]}
    tables = {who: pa.table({"row_id": rows, "rouge_rougeL": values}) for who, values in scores.items()}
    measure, shown = choose({who: pa.Table.from_pylist(texts) for who in scores}, tables, 4, seed=1)
    assert measure == "ROUGE-L"
    assert [(sample["kind"], rows.index(sample["row_id"])) for sample in shown[:3]] == [
        ("won", 0),
        ("won", 3),
        ("lost", 1),
    ]
    assert shown[3]["kind"] == "random"
    assert shown[0]["tuned_value"] == pytest.approx(90)


def test_no_row_is_shown_twice(page: str) -> None:
    rows = [
        re.search(r"[pr](\d+)$", node.css_first(".answers div:last-child .text").text())
        for node in HTMLParser(page).css(".sample")
    ]
    assert len({match.group(1) for match in rows if match}) == len(rows)


def test_a_run_without_quarantine_and_samples_has_a_report(tmp_path: Path) -> None:
    html = rendered(tmp_path, rows=0, quarantined=0)
    inert(html)
    assert "No sample is shown" in html
    assert [node.text(strip=True) for node in HTMLParser(html).css("h2")] == HEADINGS


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
