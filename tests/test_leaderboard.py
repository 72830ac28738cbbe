"""The leaderboard: what may be ranked together, and how."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from leaderboard import leaderboard
from runs import METRICS, TEMPLATES, inert, metric


def write_metrics(folder: Path, run: str, tuned: float, test: str | None = None, **others: dict[str, Any]) -> str:
    metrics = copy.deepcopy(METRICS) | {"bits_per_byte": metric(2.61, tuned, 0.05, False)} | others
    (folder / run).mkdir()
    result = {"run": run, "settings": {}, "signatures": {"bleu": "v"}, "metrics": metrics}
    (folder / run / "metrics.json").write_text(
        json.dumps(result | ({"test": {"sha256": test, "rows": 9}} if test else {}))
    )
    return str(folder / run / "metrics.json")


def board(folder: Path, files: list[str]) -> tuple[pa.Table, HTMLParser]:
    import pyarrow.csv

    leaderboard(files, str(folder / "l.csv"), str(folder / "l.html"), str(TEMPLATES / "leaderboard.html.j2"))
    html = (folder / "l.html").read_text(encoding="utf-8")
    inert(html)
    return pyarrow.csv.read_csv(folder / "l.csv"), HTMLParser(html)


def column(tree: HTMLParser, name: str) -> list[Any]:
    """The cells under a heading."""
    names = [head.text(strip=True) for head in tree.css("thead th")]
    return [row.css("th, td")[names.index(name)] for row in tree.css("tbody tr")]


def test_the_leaderboard_keeps_runs_of_different_test_data_apart(tmp_path: Path) -> None:
    files = [
        write_metrics(tmp_path, run, 1.9, test) for run, test in (("a", "aa"), ("b", "bb"), ("c", "aa"), ("d", None))
    ]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["a", "c", "b", "d"]
    groups = [[node.text(strip=True) for node in t.css("tbody th a")] for t in tree.css("table")]
    assert groups == [["a", "c"], ["b"], ["d"]]


def test_the_best_run_stands_first(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 2.0), ("b", 1.5), ("c", 1.8))]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["b", "c", "a"]
    assert table["bits_per_byte"].to_pylist() == [1.5, 1.8, 2.0]
    assert table["bits_per_byte_low"].to_pylist() == pytest.approx([1.45, 1.75, 1.95])
    assert tree.css_first("tbody th a").attributes["href"] == "b/report.html"


def test_the_order_of_the_files_changes_nothing_on_the_leaderboard(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, 1.9, "aa") for run in "abc"]
    first = board(tmp_path, files)[0]
    assert board(tmp_path, files[::-1])[0].equals(first)


def test_the_best_of_a_column_is_bold_unless_neither_direction_is_better(tmp_path: Path) -> None:
    runs = [("a", 1.5, 40.0, 0.9), ("b", 2.0, 50.0, 1.4)]
    files = [
        write_metrics(
            tmp_path, run, bits, "aa", chrf=metric(1.0, chrf, 0.1, True), length_ratio=metric(1.0, ratio, 0.1, None)
        )
        for run, bits, chrf, ratio in runs
    ]
    tree = board(tmp_path, files)[1]
    bold = {
        name: [bool(cell.css("strong")) for cell in column(tree, name)]
        for name in ("Bits per byte", "chrF", "Length ratio")
    }
    assert bold == {"Bits per byte": [True, False], "chrF": [False, True], "Length ratio": [False, False]}


def test_a_run_without_a_metric_or_its_value_has_a_dash_that_sorts_last(tmp_path: Path) -> None:
    unknown = metric(1.0, 2.0, 0.1, True) | dict.fromkeys(("base", "tuned", "base_ci95", "tuned_ci95", "ci95"))
    files = [
        write_metrics(tmp_path, "a", 1.5, "aa", chrf=unknown),
        write_metrics(tmp_path, "b", 1.6, "aa", chrf=metric(1.0, 2.0, 0.1, True)),
        write_metrics(tmp_path, "c", 1.7, "aa"),
    ]
    table, tree = board(tmp_path, files)
    cells = column(tree, "chrF")
    assert [cell.text(strip=True)[0] for cell in cells] == ["–", "2", "–"]
    assert [cell.attributes["data-value"] for cell in cells] == ["", "2.0", ""]
    assert not any(cell.css("strong") for cell in cells)
    assert table["chrf"].to_pylist() == [None, 2.0, None]


def test_metrics_that_do_not_lead_their_group_stand_in_the_table_alone(tmp_path: Path) -> None:
    table, tree = board(tmp_path, [write_metrics(tmp_path, "a", 1.5, "aa")])
    names = [head.text(strip=True) for head in tree.css("thead th")]
    assert "Top-5 token accuracy" not in names
    assert names[1:3] == ["Perplexity", "Bits per byte"]
    assert "politeness" in names  # a metric of the user's own leads
    assert table["token_accuracy_top5"].to_pylist() == [41.0]
