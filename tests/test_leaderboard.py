"""The leaderboard: what may be ranked together, and how; which files of a run may be missing."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from leaderboard import leaderboard
from runs import HOSTILE, METRICS, TEMPLATES, inert, metric
from snaketune.job import StageError
from snaketune.pages.leaderboard_runs import natural, root

SETTINGS = {"resamples": 200, "seed": 7}


def write_metrics(folder: Path, run: str, tuned: float, test: str | None = None, **others: dict[str, Any]) -> str:
    metrics = copy.deepcopy(METRICS) | {"bits_per_byte": metric(2.61, tuned, 0.05, False)} | others
    (folder / run).mkdir()
    result = {"run": run, "settings": {}, "signatures": {"bleu": "v"}, "metrics": metrics}
    (folder / run / "metrics.json").write_text(
        json.dumps(result | ({"test": {"sha256": test, "rows": 9}} if test else {}))
    )
    return str(folder / run / "metrics.json")


def files_of(metrics: str) -> dict[str, str]:
    """The files of a run whose folder holds its metrics.json; the report is named even where it is not there."""
    folder = Path(metrics).parent
    others = {
        "scores": "scores/tuned.parquet",
        "manifest": "manifest.json",
        "summary": "train/summary.json",
        "speed": "train/speed.jsonl",
    }
    there = {key: str(folder / path) for key, path in others.items() if (folder / path).exists()}
    return {"metrics": metrics, "report": str(folder / "report.html")} | there


def built(folder: Path, runs: Sequence[Mapping[str, str]]) -> str:
    """Make both files, as l.csv and l.html; returns the sentence."""
    return leaderboard(
        runs, str(folder / "l.csv"), str(folder / "l.html"), str(TEMPLATES / "leaderboard.html.j2"), SETTINGS
    )


def board(folder: Path, files: Sequence[str]) -> tuple[pa.Table, HTMLParser]:
    import pyarrow.csv

    built(folder, [files_of(path) for path in files])
    html = (folder / "l.html").read_text(encoding="utf-8")
    inert(html)
    return pyarrow.csv.read_csv(folder / "l.csv"), HTMLParser(html)


def column(tree: HTMLParser, name: str) -> list[Any]:
    """The cells of the scores under a heading."""
    table = tree.css_first("table.scores")
    names = [head.text(strip=True) for head in table.css("thead th")]
    return [row.css("th, td")[names.index(name)] for row in table.css("tbody tr")]


def test_the_leaderboard_keeps_runs_of_different_test_data_apart(tmp_path: Path) -> None:
    files = [
        write_metrics(tmp_path, run, 1.9, test) for run, test in (("a", "aa"), ("b", "bb"), ("c", "aa"), ("d", None))
    ]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["a", "c", "b", "d"]
    assert table["rank"].to_pylist() == [1, 2, 1, 1]
    groups = [[node.text(strip=True) for node in t.css("tbody th a")] for t in tree.css("table.scores")]
    assert groups == [["a", "c"], ["b"], ["d"]]


def test_the_best_run_stands_first(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 2.0), ("b", 1.5), ("c", 1.8))]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["b", "c", "a"]
    assert table["bits_per_byte"].to_pylist() == [1.5, 1.8, 2.0]
    assert table["bits_per_byte_low"].to_pylist() == pytest.approx([1.45, 1.75, 1.95])
    assert tree.css_first("tbody th a").attributes["href"] == "b/report.html"


def test_the_order_of_the_files_changes_no_byte_of_the_leaderboard(tmp_path: Path) -> None:
    files = [files_of(write_metrics(tmp_path, run, 1.9, test)) for run, test in zip("abcd", "xxyz", strict=True)]
    made = []
    for given in (files, files[::-1], files):
        built(tmp_path, given)
        made.append([(tmp_path / name).read_bytes() for name in ("l.csv", "l.html")])
    assert made[0] == made[1] == made[2]


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


def test_runs_that_share_the_best_value_are_all_bold(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 1.5), ("b", 1.5), ("c", 1.7))]
    table, tree = board(tmp_path, files)
    assert [bool(cell.css("strong")) for cell in column(tree, "Bits per byte")] == [True, True, False]
    assert not any(cell.css("strong") for cell in column(tree, "Perplexity"))  # where all are equal none is the best
    assert table["run"].to_pylist() == ["a", "b", "c"]


def test_a_cell_tells_the_interval_of_the_difference_from_the_base(tmp_path: Path) -> None:
    tree = board(tmp_path, [write_metrics(tmp_path, "a", 1.5, "aa")])[1]
    cell = column(tree, "Bits per byte")[0]
    assert [small.text(strip=True) for small in cell.css("small")] == [
        "1.450 to 1.550",
        "base 2.610",
        "−1.160 to −1.060",
    ]
    assert cell.css("small")[2].attributes["class"] == "better"


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
    names = [head.text(strip=True) for head in tree.css_first("table.scores").css("thead th")]
    assert "Top-5 token accuracy" not in names
    assert names[1:3] == ["Perplexity", "Bits per byte"]
    assert "politeness" in names  # a metric of the user's own leads
    assert table["token_accuracy_top5"].to_pylist() == [41.0]


def resign(path: str, **signatures: str) -> None:
    document = json.loads(Path(path).read_text())
    document["signatures"] |= signatures
    Path(path).write_text(json.dumps(document))


def test_a_run_that_was_computed_otherwise_than_most_is_not_ranked_and_says_so(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 1.9), ("b", 1.2), ("c", 1.7))]
    for path, window in zip(files, ("512", "64", "512"), strict=True):
        resign(path, bits_per_byte=f"window:{window}")
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["c", "a", "b"]
    assert table["rank"].to_pylist() == [1, 2, None]
    cells = column(tree, "Bits per byte")
    assert [bool(cell.css("strong")) for cell in cells] == [True, False, False]
    assert ["computed otherwise" in cell.text() for cell in cells] == [False, False, True]
    told = tree.css_first(".caution").text()
    assert "window:512: a, c" in " ".join(told.split())
    assert "window:64: b" in " ".join(told.split())


def test_two_files_of_one_run_are_refused(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, "a", 1.5, "aa")
    with pytest.raises(StageError, match=r"two metrics\.json speak of the run `a`"):
        built(tmp_path, [{"metrics": path}, {"metrics": path}])


def test_seeds_stand_below_their_run_in_order_and_are_never_the_best(tmp_path: Path) -> None:
    values = {"a": 1.9, "a-seed-10": 1.1, "a-seed-9": 1.2, "b": 1.8, "c-seed-1": 1.85}
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in values.items()]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["b", "c-seed-1", "a", "a-seed-9", "a-seed-10"]
    assert table["rank"].to_pylist() == [1, 2, 3, None, None]  # there is no run c: nobody's seed is a run like others
    assert table["parent"].to_pylist() == ["", "", "", "a", "a"]
    cells = column(tree, "Bits per byte")
    assert [bool(cell.css("strong")) for cell in cells] == [True, False, False, False, False]
    heads = [head.text(strip=True) for head in tree.css("table.scores tbody th")]
    assert [head.startswith("↳") for head in heads] == [False, False, False, True, True]


def test_folds_of_a_run_stand_together_without_a_rank_because_each_has_test_rows_of_its_own(tmp_path: Path) -> None:
    tests = {"a": "t", "a-fold-0": "t0", "a-fold-1": "t1", "b": "u", "b-fold-0": "u0"}
    files = [write_metrics(tmp_path, run, 1.9 - i / 10, test) for i, (run, test) in enumerate(tests.items())]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["a", "b", "a-fold-0", "a-fold-1", "b-fold-0"]
    assert table["rank"].to_pylist() == [1, 1, None, None, None]
    assert table["parent"].to_pylist() == ["", "", "a", "a", "b"]
    assert table["test_sha256"].to_pylist() == ["t", "u", "t0", "t1", "u0"]
    assert [head.text(strip=True) for head in tree.css("h2")][2:] == ["Folds of a", "Folds of b"]
    assert not tree.css("table.scores")[2].css("strong")


def test_the_root_of_a_seed_or_fold_is_the_outermost_run_that_is_there() -> None:
    names = {"a", "a-seed-1", "b-seed-2-fold-0"}
    asked = ("a-seed-1", "a-seed-1-fold-3", "b-seed-2-fold-0", "a-seed-x", "a-trial-001", "seed-1")
    assert [root(name, names) for name in asked] == ["a", "a", None, None, None, None]
    assert sorted(["s-10", "s-9", "r-11", "s"], key=natural) == ["r-11", "s", "s-9", "s-10"]


def test_a_run_of_which_only_the_metrics_are_known_is_shown_without_what_is_not_known(tmp_path: Path) -> None:
    document = {"run": "old", "metrics": {"perplexity": METRICS["perplexity"]}}
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert built(tmp_path, [{"metrics": str(tmp_path / "old.json")}]) == "1 run"
    tree = HTMLParser((tmp_path / "l.html").read_text())
    assert not tree.css("a, svg, h3, .verdict")
    assert tree.css_first("h2").text() == "Test split not recorded"
    line = next(csv.DictReader((tmp_path / "l.csv").read_text().splitlines()))
    assert [line[key] for key in ("run", "rank", "perplexity")] == ["old", "1", "43.1"]
    assert {line[key] for key in ("seconds", "config_differences", "on_front", "parent")} == {""}


def test_without_any_run_the_page_says_so(tmp_path: Path) -> None:
    assert built(tmp_path, []) == "0 runs"
    assert "No run has been evaluated yet" in (tmp_path / "l.html").read_text()
    assert (tmp_path / "l.csv").read_text().count("\n") == 1


def test_hostile_names_do_nothing_on_the_page_and_come_back_from_the_table(tmp_path: Path) -> None:
    names = [HOSTILE, HOSTILE + "\n,\r\n\"x'", "=1+1", "b" * 5_000]
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        write_metrics(tmp_path, str(number), 1.5 + number / 10, "aa", **{name: metric(1.0, 2.0 + number, 0.1, True)})
        document = json.loads((folder / "metrics.json").read_text())
        document |= {"run": name, "signatures": {"bleu": name, "perplexity": HOSTILE * (number % 2)}}
        (folder / "metrics.json").write_text(json.dumps(document))
        config = {"config": {name: {name: name}, "train": {"learning_rate": number}}}
        (folder / "manifest.json").write_text(json.dumps(config))
    files = [files_of(str(tmp_path / str(number) / "metrics.json")) for number in range(4)]
    for entry in files:
        entry["report"] = f'{tmp_path}/{HOSTILE}"/javascript:alert(1)/report.html'
    built(tmp_path, files)
    html = (tmp_path / "l.html").read_text(encoding="utf-8")
    inert(html)
    assert len(HTMLParser(html).css("script")) == 1
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["run"] for line in lines] == names
    assert [float(line["bits_per_byte"]) for line in lines] == [1.5, 1.6, 1.7, 1.8]
    assert [float(line[name]) for line, name in zip(lines, names, strict=True)] == [2.0, 3.0, 4.0, 5.0]


def test_every_number_of_the_metrics_comes_back_from_the_table(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, 1 / 3 + at, "aa") for at, run in enumerate("ab")]
    built(tmp_path, [files_of(path) for path in files])
    lines = {line["run"]: line for line in csv.DictReader((tmp_path / "l.csv").read_text().splitlines())}
    for path in files:
        document = json.loads(Path(path).read_text())
        for name, entry in document["metrics"].items():
            told = [entry[key] for key in ("tuned", "base", "delta", "p", "n")]
            told += [*entry["tuned_ci95"], *entry["ci95"]]
            ends = ("", "_base", "_delta", "_p", "_n", "_low", "_high", "_delta_low", "_delta_high")
            assert [float(lines[document["run"]][name + end]) for end in ends] == told
