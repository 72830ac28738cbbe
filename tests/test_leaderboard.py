"""The leaderboard: what may be ranked together, and how."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pyarrow as pa
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from leaderboard import leaderboard
from runs import METRICS, TEMPLATES, inert, metric


def write_metrics(folder: Path, run: str, tuned: float, test: str | None = None) -> str:
    metrics = copy.deepcopy(METRICS) | {"bits_per_byte": metric(2.61, tuned, 0.05, False)}
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
