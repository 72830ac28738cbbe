"""The leaderboard beside its best run: differences with intervals, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from runs import metric
from snaketune.pages import leaderboard_best
from test_leaderboard import SETTINGS, built, files_of, write_metrics

BYTES = np.array([10, 20, 30, 40, 50, 60])
TOKENS = np.array([3, 5, 7, 11, 13, 17])


def scored(
    folder: Path, run: str, bits: Sequence[float], rouge: Sequence[float | None] | None = None, **changes: Any
) -> dict[str, str]:
    """A run with scores: `bits` per byte and `rouge` (0 to 1) of each of its rows, every row a family of its own."""
    spent = np.array(bits) * BYTES  # in bits; the nats of the tokens are the same
    told = metric(9.0, float(spent.sum() / BYTES.sum()), 0.05, False)
    perplexity = metric(99.0, float(np.exp(spent.sum() * math.log(2) / TOKENS.sum())), 0.5, False)
    found = [value for value in rouge or () if value is not None]
    answers = {"rougeL": metric(1.0, 100 * sum(found) / len(found), 0.5, True)} if found else {}
    path = write_metrics(folder, run, told["tuned"], "aa", perplexity=perplexity, **answers)
    columns: dict[str, Any] = {
        "row_id": [f"{row:032x}" for row in range(len(bits))],
        "family": [f"f{row}" for row in range(len(bits))],
        "n_tokens": TOKENS,
        "nll": spent * math.log(2),
        "n_bytes": BYTES,
        "nll_text": spent * math.log(2),
        "n_correct": TOKENS // 2,
        "entropy": spent,
    }
    if rouge:
        columns |= {f"rouge_{name}": pa.array(rouge, pa.float64()) for name in ("rouge1", "rouge2", "rougeL")}
        columns["rouge_rougeLsum"] = columns["rouge_rougeL"]
    table = pa.table(columns | changes)
    (folder / run / "scores").mkdir()
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), folder / run / "scores/tuned.parquet")
    return files_of(path)


def lines(folder: Path, runs: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    built(folder, runs)
    with (folder / "l.csv").open(encoding="utf-8", newline="") as file:
        return {line["run"]: line for line in csv.DictReader(file)}


def difference(line: dict[str, str], name: str) -> list[float]:
    return [float(line[f"{name}_best_{end}"]) for end in ("delta", "delta_low", "delta_high")]


def test_a_run_that_pays_the_same_more_on_every_byte_differs_by_that_without_doubt(tmp_path: Path) -> None:
    first = [1.0, 1.2, 1.4, 1.1, 1.3, 1.0]
    found = lines(tmp_path, [scored(tmp_path, "a", first), scored(tmp_path, "b", [bits + 0.25 for bits in first])])
    assert difference(found["b"], "bits_per_byte") == [0.25, 0.25, 0.25]
    assert found["b"]["bits_per_byte_best"] == "a"
    assert float(found["b"]["bits_per_byte_best_p"]) == pytest.approx(2 / 201, abs=1e-6)  # the smallest of 200 draws
    assert found["a"]["bits_per_byte_best_delta"] == ""
    tree = HTMLParser((tmp_path / "l.html").read_text())
    assert "The other run is worse beyond chance" in tree.css_first(".verdict").text()


def test_the_intervals_are_those_of_a_paired_bootstrap_over_families(tmp_path: Path) -> None:
    bits = {"a": [1.0, 1.2, 1.4, 1.1, 1.3, 1.0], "b": [1.4, 0.9, 1.6, 1.0, 1.35, 1.05]}
    rouge = {"a": [0.5, 0.1, 0.4, 0.9, 0.3, 0.2], "b": [0.4, 0.3, 0.2, 0.8, 0.3, 0.1]}
    found = lines(tmp_path, [scored(tmp_path, run, bits[run], rouge[run]) for run in bits])
    # An independent bootstrap with the same draws: how often each of the 6 families came up in each resample.
    draws = np.random.default_rng(SETTINGS["seed"]).multinomial(6, [1 / 6] * 6, size=SETTINGS["resamples"])
    nats = {run: np.array(bits[run]) * BYTES * math.log(2) for run in bits}
    perplexity = np.exp((draws @ nats["b"]) / (draws @ TOKENS)) - np.exp((draws @ nats["a"]) / (draws @ TOKENS))
    expected = np.exp(nats["b"].sum() / 56) - np.exp(nats["a"].sum() / 56)
    told = [expected, *np.percentile(perplexity, [2.5, 97.5])]
    assert difference(found["b"], "perplexity") == pytest.approx(told, abs=2e-6)
    answers = 100 * draws @ (np.array(rouge["b"]) - np.array(rouge["a"])) / 6
    told = [100 * (2.1 - 2.4) / 6, *np.percentile(answers, [2.5, 97.5])]
    assert difference(found["b"], "rougeL") == pytest.approx(told, abs=2e-6)


def test_a_run_whose_interval_holds_zero_is_not_surely_worse(tmp_path: Path) -> None:
    runs = [
        scored(tmp_path, "best", [1.0] * 6),
        scored(tmp_path, "near", [1.3, 1.3, 1.3, 0.9, 0.9, 1.0]),
        scored(tmp_path, "far", [2.0] * 6),
    ]
    low, high = difference(lines(tmp_path, runs)["near"], "bits_per_byte")[1:]
    assert low < 0 < high
    tree = HTMLParser((tmp_path / "l.html").read_text())
    said = " ".join(tree.css_first(".verdict").text().split())
    assert said == "best has the best bits per byte. Not surely worse: near."


def test_equal_runs_are_both_the_best_and_do_not_differ(tmp_path: Path) -> None:
    bits = [1.1, 1.3, 1.7, 1.9, 1.2, 1.6]
    runs = [scored(tmp_path, "a", bits), scored(tmp_path, "b", bits), scored(tmp_path, "c", [2.0] * 6)]
    found = lines(tmp_path, runs)
    assert difference(found["b"], "bits_per_byte") == [0.0, 0.0, 0.0]
    assert float(found["b"]["bits_per_byte_best_p"]) == 1.0
    assert [found[run]["bits_per_byte_best"] for run in "abc"] == ["a"] * 3


def test_runs_whose_scores_are_of_other_rows_are_not_compared_and_say_so(tmp_path: Path) -> None:
    bits = [1.0] * 6
    runs = [
        scored(tmp_path, "a", bits),
        scored(tmp_path, "b", [1.5] * 6, row_id=[f"{row:032x}" for row in range(1, 7)]),
        scored(tmp_path, "c", [1.6] * 6, family=["f0"] * 6),
        files_of(write_metrics(tmp_path, "d", 1.7, "aa")),
        scored(tmp_path, "e", [1.8] * 6),
    ]
    found = lines(tmp_path, runs)
    assert [found[run]["bits_per_byte_best_delta"] for run in "abcde"] == ["", "", "", "", "0.8"]
    told = [item.text(strip=True) for item in HTMLParser((tmp_path / "l.html").read_text()).css("details.rest li")]
    elsewhere = "is not compared: its scores stand on other rows, or on other families of them."
    assert sorted(told) == [
        f"b {elsewhere}",
        f"c {elsewhere}",
        "d is not compared: its scores are not at hand.",
    ]


def test_a_run_that_answered_other_rows_is_compared_by_its_likelihood_alone(tmp_path: Path) -> None:
    answers = ([0.5] * 6, [0.4] * 5 + [None], [0.3] * 6)
    runs = [
        scored(tmp_path, run, [bits] * 6, rouge)
        for run, bits, rouge in zip("abc", (1.0, 1.5, 1.75), answers, strict=True)
    ]
    found = lines(tmp_path, runs)
    assert difference(found["b"], "bits_per_byte") == [0.5] * 3
    assert found["b"]["rougeL_best_delta"] == ""
    assert difference(found["c"], "rougeL") == [-20.0] * 3
    page = (tmp_path / "l.html").read_text()
    assert "b is not compared by its answers: it answered other rows." in page


def test_a_value_that_was_computed_otherwise_is_not_compared_in_its_column(tmp_path: Path) -> None:
    runs = [scored(tmp_path, run, [bits] * 6) for run, bits in (("a", 1.0), ("b", 1.5), ("c", 0.5))]
    for files, window in zip(runs, ("512", "512", "64"), strict=True):
        path = Path(files["metrics"])
        document = json.loads(path.read_text())
        document["signatures"]["bits_per_byte"] = window
        path.write_text(json.dumps(document))
    found = lines(tmp_path, runs)
    assert found["c"]["bits_per_byte_best"] == "a"
    assert [found[run]["bits_per_byte_best_delta"] for run in "abc"] == ["", "0.5", ""]
    assert found["a"]["perplexity_best"] == "c"  # which was not computed otherwise


def test_seeds_are_compared_with_the_best_but_are_not_it(tmp_path: Path) -> None:
    values = {"a": 1.5, "a-seed-1": 1.25, "b": 2.0}
    found = lines(tmp_path, [scored(tmp_path, run, [bits] * 6) for run, bits in values.items()])
    assert difference(found["a-seed-1"], "bits_per_byte") == [-0.25] * 3
    assert difference(found["b"], "bits_per_byte") == [0.5] * 3


def test_how_many_runs_are_in_memory_at_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    runs = [scored(tmp_path, run, list(rng.uniform(1, 2, 6)), list(rng.uniform(0, 1, 6))) for run in "abcde"]
    made = []
    for most in (4_000_000, 1):
        monkeypatch.setattr(leaderboard_best, "NUMBERS_AT_ONCE", most)
        built(tmp_path, runs)
        made.append([(tmp_path / name).read_bytes() for name in ("l.csv", "l.html")])
    assert made[0] == made[1]


def test_of_sixty_runs_the_first_fifty_are_compared(tmp_path: Path) -> None:
    runs = [scored(tmp_path, f"r{number:02d}", [1 + number / 64] * 6) for number in range(60)]
    found = lines(tmp_path, runs[::-1])
    deltas = [found[f"r{number:02d}"]["bits_per_byte_best_delta"] for number in range(60)]
    assert deltas[1] == "0.015625"
    assert [delta != "" for delta in deltas] == [False] + [True] * 49 + [False] * 10
    tree = HTMLParser((tmp_path / "l.html").read_text())
    assert tree.css_first("details.rest summary").text() == "10 runs not compared with the best, or not in all"
