"""The data report: its numbers are those of the files, its examples are their rows, and no text of theirs does harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from builders import row
from data_runs import rendered, text, told
from runs import HOSTILE, inert

SECTIONS = [
    "Funnel", "Dropped rows", "Cleaning", "Findings", "Duplicates", "Leak check", "Splits", "Lengths", "Languages",
    "Test sets", "Quarantine",
]  # fmt: skip
SHORT = [row("ab" + "c" * number, source="a.jsonl", line=number + 1) for number in range(5)]  # 2 to 6 characters
DOUBLE = [row(text(number), source="b.jsonl", line=number) for number in range(10, 14)]
STAY = [row(text(number), "question", source="b.jsonl", line=number, label="x") for number in range(20, 40)]
SPLITS = [STAY[:16], STAY[16:18], STAY[18:]]
LEDGER = [
    *(told(line, "clean", "too_short", value=len(line["completion"]), threshold=10.0) for line in SHORT),
    *(told(line, "dedup", "exact_duplicate", value=1.0, threshold=1.0) for line in DOUBLE[:1]),
    *(told(line, "dedup", "near_duplicate", value=0.8 + n / 100, threshold=0.8) for n, line in enumerate(DOUBLE[1:])),
    *(told(line, "tokenize", "", "train", chars_kept=50) for line in SPLITS[0][1:]),
    told(STAY[0], "tokenize", "overlong", "train", value=99.0, threshold=64.0, chars_kept=0),
    *(told(line, "tokenize", "truncated", "validation", value=77.0, threshold=64.0) for line in SPLITS[1]),
    *(told(line, "tokenize", "", "test") for line in SPLITS[2]),
    {"row_id": "f" * 32, "source": "a.jsonl", "line": 9, "stage": "ingest", "rule": "quarantine", "kept": False},
]
PARTS: dict[str, Any] = {
    "raw": [[*SHORT, *DOUBLE[:2]], [*DOUBLE[2:], *STAY]],
    "ledger": LEDGER,
    "splits": SPLITS,
    "quarantine": [{"row_id": "f" * 32, "source": "a.jsonl", "line": 9, "reason": "broken JSON", "head": "{"}],
}


def length(lines: list[dict[str, Any]]) -> int:
    return sum(len(line["prompt"] or "") + len(line["completion"]) for line in lines)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("run"), **PARTS)


def part(html: str, name: str) -> Any:
    return HTMLParser(html).css_first(f"section#{name}")


def cells(section: Any, table: int = 0) -> list[list[str]]:
    """The cells of a table in a section, line by line."""
    lines = section.css("table")[table].css("tbody tr")
    return [[" ".join(cell.text(separator=" ").split()) for cell in line.css("th, td")] for line in lines]


def test_every_section_has_its_heading_and_its_place_in_the_contents(page: str) -> None:
    tree = HTMLParser(page)
    assert [node.text(strip=True) for node in tree.css("h2")] == SECTIONS
    targets = [node.attributes["href"] for node in tree.css("nav a")]
    assert targets == [f"#{node.attributes['id']}" for node in tree.css("main > section")]
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids))


def test_the_verdict_says_how_much_stays_why_the_rest_went_and_that_nothing_leaks(page: str) -> None:
    first, reason, leak = (node.text() for node in HTMLParser(page).css(".verdict"))
    kept = 15 * 50 + length(SPLITS[1]) + length(SPLITS[2])
    raw = length([*SHORT, *DOUBLE, *STAY])
    assert first.startswith("Of 30 raw rows, 19 stay (63.3\u00a0%)")
    assert f"with {kept:,} of {raw:,} characters" in first
    assert "too short, 5 rows (16.7\u00a0%)" in reason
    assert leak.startswith("The leak check passed")
    assert rendered.summary == first


def test_rows_and_characters_of_each_stage_add_up(page: str) -> None:
    raw = length([*SHORT, *DOUBLE, *STAY])
    after_clean, after_dedup = raw - length(SHORT), raw - length([*SHORT, *DOUBLE])
    out = after_dedup - length(STAY[:1])
    told_chars = lambda rows, chars: f"{rows} {chars:,} characters"  # noqa: E731
    assert [line[1:4] for line in cells(part(page, "funnel"))] == [
        [told_chars(30, raw), told_chars(1, 0), told_chars(29, raw)],
        [told_chars(29, raw), told_chars(5, length(SHORT)), told_chars(24, after_clean)],
        [told_chars(24, after_clean), told_chars(4, length(DOUBLE)), told_chars(20, after_dedup)],
        [told_chars(20, after_dedup), told_chars(0, 0), told_chars(20, after_dedup)],
        [told_chars(20, after_dedup), told_chars(1, length(STAY[:1])), told_chars(19, out)],
    ]
    words = part(page, "funnel").text()
    assert "19 kept + 11 dropped = 30 raw" in words
    assert "Of the kept rows: 2 truncated" in words


def test_each_rule_is_told_with_its_threshold_and_the_range_of_its_values(page: str) -> None:
    words = " ".join(part(page, "reasons").text().split())
    assert f"5 rows with {length(SHORT)} characters, dropped by clean: completion shorter than 10 characters." in words
    assert "Values from 2 to 6." in words
    assert "similarity of at least 0.8 (Jaccard) to a row that stays. Values from 0.800 to 0.820." in words
    assert "longer than 64 tokens. Values are all 99." in words


def test_kept_rows_and_their_characters_are_told_by_split(page: str) -> None:
    told_rows = [line[:3] for line in cells(part(page, "splits"))]
    assert told_rows == [
        ["train", "15", "750"],  # one of the 16 was dropped as overlong
        ["validation", "2", f"{length(SPLITS[1]):,}"],
        ["test", "2", f"{length(SPLITS[2]):,}"],
    ]


def test_the_examples_of_a_rule_are_the_raw_rows_with_the_smallest_ids(page: str) -> None:
    expected = sorted(SHORT, key=lambda line: line["row_id"])[:3]
    shown = [[f"a.jsonl line {line['line']}", str(len(line["completion"])), line["completion"]] for line in expected]
    assert cells(part(page, "reasons"), 0) == shown


def test_an_example_is_the_head_of_prompt_and_completion(tmp_path: Path) -> None:
    long = row("y" * 300, "x" * 100, line=3)
    html = rendered(tmp_path, raw=[[long]], ledger=[told(long, "clean", "too_long", value=400.0, threshold=200.0)])
    (shown,) = [line[2] for line in cells(part(html, "reasons"))]
    assert shown == "x" * 100 + " " + "y" * 59 + "…"


def test_equal_dropped_rows_are_shown_once(tmp_path: Path) -> None:
    same = [row("the same", line=number) for number in range(1, 9)]
    other = row("another")
    lines = [told(line, "dedup", "exact_duplicate", value=1.0, threshold=1.0) for line in [*same, other]]
    html = rendered(tmp_path, raw=[[*same, other]], ledger=lines)
    shown = cells(part(html, "reasons"))
    assert sorted(line[2] for line in shown) == ["another", "the same"]
    assert "raw line 1" in [line[0] for line in shown]


def test_what_cleaning_changed_is_summed_over_the_shards(tmp_path: Path) -> None:
    shards = [
        {"steps": [step("html", 2, 100, 60), step("unicode", 0, 0, 0), step("whitespace", 1, 9, 8)]},
        {"steps": [step("html", 3, 1000, 700), step("unicode", 0, 0, 0), step("whitespace", 0, 0, 0)]},
    ]
    section = part(rendered(tmp_path, effects=shards), "cleaning")
    assert cells(section) == [["html", "5", "1,100", "760", "\u2212340"], ["whitespace", "1", "9", "8", "\u22121"]]
    assert "Nothing to do for: unicode." in section.text()


def test_the_languages_that_cleaning_told_are_summed_over_the_shards(tmp_path: Path) -> None:
    html = rendered(tmp_path, effects=[{"languages": {"en": 1200, "und": 1}}, {"languages": {"de": 7, "en": 34}}])
    assert "Of all rows that cleaning kept: en 1,234, de 7, und 1;" in part(html, "languages").text()


def step(name: str, rows: int, before: int, after: int) -> dict[str, Any]:
    return {"step": name, "rows": rows, "chars_before": before, "chars_after": after}


def test_findings_are_counted_by_kind_and_only_the_commonest_twenty_are_shown(tmp_path: Path) -> None:
    found = [{"row_id": "0" * 32, "source": "a", "line": n, "rule": "pii", "kind": "email", "count": n} for n in (1, 2)]
    found += [{"row_id": "0" * 32, "source": "a", "line": 1, "rule": "pii", "kind": "ip", "count": 7}]
    for kind in range(25):
        found += [
            {"row_id": "0" * 32, "source": "a", "line": 1, "rule": "toxicity", "kind": f"w{kind:02}", "count": 1}
        ] * (1 + (kind == 24))
    section = part(rendered(tmp_path, findings=found), "findings")
    assert cells(section, 0) == [["email", "2", "3"], ["ip", "1", "7"]]
    assert [line[0] for line in cells(section, 1)] == ["w24", *(f"w{kind:02}" for kind in range(19))]
    assert "and 5 rarer ones" in section.text()


def test_quarantined_rows_are_shown_with_reason_file_and_line(page: str) -> None:
    section = part(page, "quarantine")
    assert "1 row was set aside" in section.text()
    assert cells(section) == [["a.jsonl line 9", "broken JSON", "{"]]


def test_an_empty_run_has_a_page_that_says_none(tmp_path: Path) -> None:
    html = rendered(tmp_path)
    inert(html)
    assert [node.text(strip=True) for node in HTMLParser(html).css("h2")] == SECTIONS
    for name, words in {
        "reasons": "No row that could be read was dropped",
        "cleaning": "Cleaning changed no text",
        "findings": "Nothing was found",
        "duplicates": "No duplicate was removed",
        "lengths": "No row is left",
        "languages": "No row is left",
        "tests": "No test set was given",
        "quarantine": "none was set aside",
    }.items():
        assert words in part(html, name).text(), name
    assert "No row was dropped." in html


def test_hostile_text_does_nothing_wherever_it_stands(tmp_path: Path) -> None:
    bad = row(HOSTILE, HOSTILE, source=HOSTILE, label=HOSTILE, group=HOSTILE)
    gone = row(HOSTILE + "gone", source=HOSTILE)
    pair = {"row_id_a": bad["row_id"], "row_id_b": gone["row_id"], "relation": "duplicate", "similarity": 0.9}
    html = rendered(
        tmp_path,
        {"report": {"title": HOSTILE}, "decontaminate": {"files": [HOSTILE]}},
        raw=[[bad, gone]],
        ledger=[told(bad, "tokenize", "", "train"), told(gone, "dedup", HOSTILE, value=1.0)],
        splits=[[bad], [], []],
        quarantine=[{"row_id": "f" * 32, "source": HOSTILE, "line": 1, "reason": HOSTILE, "head": HOSTILE}],
        findings=[{"row_id": "f" * 32, "source": HOSTILE, "line": 1, "rule": HOSTILE, "kind": HOSTILE, "count": 1}],
        effects=[{"steps": [step(HOSTILE, 1, 2, 3)]}],
        evidence=[pair | {"head_a": HOSTILE, "head_b": HOSTILE, "similarity_completion": 0.9}],
        hits=[{**gone, "test_file": HOSTILE, "item": 1, "overlap": 0.7, "head": HOSTILE}],
        nearest=[
            {"split": "test", "row_id": "0" * 32, "train_row_id": "1" * 32, "similarity": 0.5}
            | {"head": HOSTILE, "train_head": HOSTILE}
        ],
        tokens={"train": {"rows": 1, "backend": HOSTILE, "why": HOSTILE}},
    )
    inert(html)
    assert html.count("&lt;/script&gt;&lt;img src=") >= 18
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert "\x1b" not in html
    policy = HTMLParser(html).css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_the_same_files_make_the_same_page_however_the_rows_are_sharded(page: str, tmp_path: Path) -> None:
    assert rendered(tmp_path / "again", **PARTS) == page
    shards = [[line] for lines in reversed(PARTS["raw"]) for line in lines]
    assert rendered(tmp_path / "sharded", **PARTS | {"raw": shards}) == page
