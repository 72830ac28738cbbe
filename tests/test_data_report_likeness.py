"""The data report on rows that are alike, on leaks and test sets, and on what is in the rows that stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from builders import row
from data_runs import plain, rendered, told
from snaketune.pages.histograms import counted, log_edges, quantiles
from snaketune.pages.likeness import chance_found, cluster_sizes
from test_data_report import cells, part


def pair(a: str, b: str, relation: str, *parts: float) -> dict[str, Any]:
    """A line of the evidence; parts: the similarity of all, of the prompts and of the completions."""
    names = ("similarity", "similarity_prompt", "similarity_completion")
    similar = dict(zip(names, parts, strict=True))
    return {
        "row_id_a": a,
        "row_id_b": b,
        "relation": relation,
        "head_a": f"head of {a}",
        "head_b": f"head of {b}",
    } | similar


def bars(section: Any, figure: int = 0) -> list[str]:
    """What the bars of a figure say."""
    return [title.text() for title in section.css("svg.chart")[figure].css("title")]


def test_duplicates_are_counted_by_source_of_the_rows_that_cleaning_left(tmp_path: Path) -> None:
    lines = [plain(number, source=f"{'ab'[number % 2]}.jsonl") for number in range(20)]
    rules = [("clean", "empty")] * 2 + [("dedup", "exact_duplicate")] * 5 + [("dedup", "near_duplicate")] * 4
    rules += [("split", "contaminated")] * 2 + [("tokenize", "")] * 7
    ledger = [told(line, stage, rule) for line, (stage, rule) in zip(lines, rules, strict=True)]
    counts = Counter((line["source"], rule) for line, (_, rule) in zip(lines, rules, strict=True))
    assert counts["a.jsonl", "exact_duplicate"] == 3  # numbers 2, 4, 6
    section = part(rendered(tmp_path, raw=[lines], ledger=ledger), "duplicates")
    assert cells(section) == [
        ["a.jsonl", "9", "3", "2", "55.6 %"],
        ["b.jsonl", "9", "2", "2", "44.4 %"],
    ]
    assert " ".join(section.css_first("tfoot").text(separator=" ").split()) == "All 18 5 4 50.0\u00a0%".replace(
        "\u00a0", " "
    )


def test_many_sources_end_in_one_line_for_the_others(tmp_path: Path) -> None:
    lines = [plain(number, source=f"{number:03}.txt") for number in range(50)]
    ledger = [
        told(line, "dedup" if n < 22 else "tokenize", "exact_duplicate" * (n < 22)) for n, line in enumerate(lines)
    ]
    section = part(rendered(tmp_path, raw=[lines], ledger=ledger), "duplicates")
    assert len(cells(section)) == 21
    assert cells(section)[-1] == ["30 other sources", "30", "2", "0", "6.7 %"]


def test_clusters_are_counted_by_size(tmp_path: Path) -> None:
    names = [f"{number:032x}" for number in (*range(5), *[90] * 2, *[91] * 2, *[92] * 7)]
    clusters = [plain(number, cluster=name, chars=1, kept=True) for number, name in enumerate(names)]
    section = part(rendered(tmp_path, clusters=clusters), "duplicates")
    assert "8 clusters of related rows; the largest has 7 rows" in section.text()
    assert cells(section) == [["1", "5", "5"], ["2", "2", "4"], ["6 to 10", "1", "7"]]
    assert cluster_sizes(tmp_path / "clusters.parquet")["clusters"] == 8


def test_pairs_nearest_to_the_threshold_are_shown_from_both_sides(tmp_path: Path) -> None:
    pairs = [pair(f"a{9 - n}", f"b{n}", "duplicate", 0.95, 0.82 + n / 50, 0.99) for n in range(8)]
    pairs += [pair(f"c{n}", f"d{n}", "related", 0.9, 0.99, 0.5 + n / 50) for n in range(8)]
    section = part(rendered(tmp_path, evidence=pairs[::-1]), "duplicates")
    shown = [[line[1] for line in cells(section, table)] for table in range(2)]
    assert shown == [["head of a9", "head of a8", "head of a7"], ["head of c7", "head of c6", "head of c5"]]
    assert "8 duplicate pairs, 8 related pairs" in section.text()
    assert "weakest part 0.820" in section.text()


def test_the_similarity_of_pairs_is_drawn_with_the_threshold(tmp_path: Path) -> None:
    pairs = [pair(f"{n:02}", "b", "duplicate", value, 1.0, value) for n, value in enumerate((0.8, 0.805, 0.93, 1.0))]
    section = part(rendered(tmp_path, evidence=pairs), "duplicates")
    assert bars(section) == [
        "0.8 to 0.81: 2 pairs (50.0%)",
        "0.93 to 0.94: 1 pairs (25.0%)",
        "0.99 to 1: 1 pairs (25.0%)",
    ]
    figure = section.css_first("svg.chart")
    assert figure.attributes["role"] == "img"
    assert "threshold 0.8" in figure.attributes["aria-label"]
    assert figure.css_first(".mark") is not None


def test_the_chance_to_find_a_pair_is_the_published_one(tmp_path: Path) -> None:
    # FineWeb (Penedo et al. 2024), of 14 bands of 8; and Leskovec et al., Mining of Massive Datasets, figure 3.8
    published = {0.7: 0.56, 0.75: 0.77, 0.8: 0.92, 0.85: 0.988}
    assert {j: round(chance_found(j, 14, 8), 3 if j == 0.85 else 2) for j in published} == published
    assert chance_found(0.5, 20, 5) == pytest.approx(0.470, abs=1e-3)
    similarities, found = cells(part(rendered(tmp_path), "duplicates"))
    shown = dict(zip(similarities[1:], found[1:], strict=True))
    assert (shown["0.8"], shown["0.85"]) == ("92.35 %", "98.84 %")


def test_a_leak_is_said_in_the_verdict_and_marked_in_the_table(tmp_path: Path) -> None:
    found = {("prompt", "train-test"): 3, "near": 7, "within": 2}
    html = rendered(tmp_path, {"leaks": {"near": "report"}}, checks=found)
    verdict = [node.text() for node in HTMLParser(html).css(".verdict")][-1]
    assert "found 3 rows of one split in another, and 7 pairs of a train row" in verdict
    assert "measure memory" in HTMLParser(html).css_first(".caution").text()
    section = part(html, "leaks")
    assert ["Prompt", "0", "3", "0"] in cells(section)
    assert [node.text() for node in section.css("td.worse")] == ["3"]
    assert "on: 7 of a train row and a validation or test row; 2 of a validation and a test row" in " ".join(
        section.text().split()
    )


def test_near_duplicates_alone_are_a_leak_too(tmp_path: Path) -> None:
    html = rendered(tmp_path, {"leaks": {"near": "report"}}, checks={"near": 1})
    assert "The leak check found 0 rows" in [node.text() for node in HTMLParser(html).css(".verdict")][-1]


def test_the_nearest_train_rows_are_drawn_by_split_and_the_closest_shown(tmp_path: Path) -> None:
    near = [
        {"split": split, "row_id": f"{n:032x}", "train_row_id": "1" * 32, "similarity": value}
        | {"head": f"{split} {n}", "train_head": f"train {n}"}
        for n, (split, value) in enumerate([("validation", 0.31), ("validation", 0.55), ("test", 0.55), ("test", 0.89)])
    ]
    near.append({"split": "test", "row_id": "9" * 32, "train_row_id": None, "similarity": 0.0, "head": "alone"})
    section = part(rendered(tmp_path, nearest=near), "leaks")
    assert bars(section) == [
        "0.31 to 0.32: 1 rows (50.0%)", "0.55 to 0.56: 1 rows (50.0%)",
        "0 to 0.01: 1 rows (33.3%)", "0.55 to 0.56: 1 rows (33.3%)", "0.89 to 0.9: 1 rows (33.3%)",
    ]  # fmt: skip
    assert "0 where nothing is near: 1 of 5 rows" in section.text()
    assert [line[1:] for line in cells(section, 1)] == [
        ["test 3", "train 3"], ["validation 1", "train 1"], ["test 2", "train 2"]
    ]  # fmt: skip


def test_hits_of_test_sets_are_told_by_file(tmp_path: Path) -> None:
    hit = lambda line, file, item, overlap: {  # noqa: E731
        **plain(line), "test_file": file, "item": item, "overlap": overlap, "head": f"item {item}"
    }  # fmt: skip
    hits = [hit(1, "x.jsonl", 4, 0.6), hit(2, "x.jsonl", 4, 0.9), hit(2, "x.jsonl", 5, 0.7), hit(3, "y.jsonl", 1, 1.0)]
    section = part(rendered(tmp_path, {"decontaminate": {"files": ["*.jsonl"]}}, hits=hits), "tests")
    words = " ".join(section.text(separator=" ").split())
    assert "x.jsonl 2 items found in 2 rows." in words
    assert "y.jsonl 1 item found in 1 row." in words
    assert [line[:3] for line in cells(section)] == [["4", "0.90", "a.jsonl, line 2"], ["5", "0.70", "a.jsonl, line 2"]]


def test_lengths_are_drawn_and_their_quantiles_told_by_split(tmp_path: Path) -> None:
    sizes = [list(range(1, 101)), [40, 500], [7]]
    splits = [[row("x" * size, line=size) for size in part] for part in sizes]
    section = part(rendered(tmp_path, splits=splits), "lengths")
    assert [node.text() for node in section.css("h3")] == ["Completions"]
    assert cells(section) == [
        ["train", "100", "1", "5", "50", "95", "100", "5,050"],
        ["validation", "2", "40", "40", "40", "500", "500", "540"],
        ["test", "1", "7", "7", "7", "7", "7", "7"],
    ]
    assert bars(section)[:3] == ["1 to 2: 1 rows (1.0%)", "2 to 3: 1 rows (1.0%)", "3 to 5: 2 rows (2.0%)"]
    assert bars(section)[-1] == "7 to 10: 1 rows (100.0%)"


def test_prompts_have_a_figure_of_their_own(tmp_path: Path) -> None:
    splits = [[row("answer", "why?"), plain(1)], [row("b", "so?")], [row("c", "and?")]]
    section = part(rendered(tmp_path, splits=splits), "lengths")
    assert [node.text() for node in section.css("h3")] == ["Prompts", "Completions"]
    assert [line[1] for line in cells(section, 0)] == ["1", "1", "1"]


def test_bins_hold_their_lower_edge_and_every_value_lies_in_one() -> None:
    values = np.array([1, 9, 10, 11, 999, 1000])
    edges = log_edges(1, 1000)
    assert (edges[0], edges[-1]) == (1, 1500)
    assert counted(values, edges).sum() == 6
    assert list(counted(np.array([0.8, 0.7999999999999999, 1.0]), np.array([0, 0.5, 0.8, 1.0]))) == [0, 0, 3]
    assert log_edges(250, 260)[0] == 100
    assert quantiles(np.arange(1, 11)) == [1, 1, 5, 10, 10]


def test_labels_groups_and_families_are_counted_by_split(tmp_path: Path) -> None:
    split = [plain(n, label="ab"[n % 2], group=f"g{n // 4}", family=f"{n // 3:032x}") for n in range(12)]
    section = part(rendered(tmp_path, splits=[split[:9], split[9:11], split[11:]]), "splits")
    assert cells(section, 1) == [["a", "5", "1", "0"], ["b", "4", "1", "1"]]
    words = " ".join(section.text().split())
    assert (
        "4 families (cluster, group and prompt together) were dealt, each to one split; the largest has 3 rows."
        in words
    )
    assert "3 groups, the largest with 4 rows: g0." in words


def test_tokens_are_told_with_the_library_that_made_them(tmp_path: Path) -> None:
    made = {"rows": 12, "tokens": 3456, "truncated": 1, "dropped": 2, "backend": "gigatoken", "why": "the same ids"}
    section = part(rendered(tmp_path, tokens={"train": made}), "splits")
    assert cells(section)[0] == ["train", "0", "0", "12", "3,456", "1", "2"]
    assert "Tokenized by gigatoken: the same ids." in section.text()


def test_the_languages_are_those_of_the_kept_rows_with_the_smallest_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaketune.pages.survey.SAMPLE_ROWS", 4)
    english = "the government of the people of the united states shall meet in the congress every year"
    german = "die Regierung des Landes soll sich in jedem Jahr mit dem Parlament treffen und beraten"
    lines = [row(f"{english} {n}", row_id=f"{n:032x}") for n in (1, 5, 6)] + [row(german, row_id=f"{2:032x}")]
    lines += [row(german + " noch einmal", row_id=f"{n:032x}") for n in (7, 8, 9)]
    by_id = sorted(lines, key=lambda line: line["row_id"])  # en 1, de 2, en 5, en 6, de 7 to 9
    section = part(rendered(tmp_path, splits=[by_id[4:], by_id[1:4], by_id[:1]]), "languages")
    assert [line[:3] for line in cells(section)] == [["en", "3", "75.0 %"], ["de", "1", "25.0 %"]]
    assert "4 kept rows with the smallest ids" in section.text()
