"""The slices of errors.json: which rows each holds, what is left out, and that its scores are those of its rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu

import error_files
from error_files import ANSWERED, ROWS, SCORE, Files
from snaketune.scoring import measures
from snaketune.scoring.slices import slices

files, document = error_files.files, error_files.document  # fixtures


def test_slices_cover_all_rows_and_what_is_left_out_is_counted(document) -> None:
    covered: dict[str, int] = {}
    for part in [*document["slices"], *({"by": p["by"], "n": p["rows"]} for p in document["slices_left_out"])]:
        covered[part["by"]] = covered.get(part["by"], 0) + part["n"]
    assert covered == {"length": ROWS, "prompt length": ANSWERED, "source": ROWS, "label": ROWS}
    assert [(part["value"], part["n"]) for part in document["slices"] if part["by"] == "source"] == [
        ("a", 24), ("b", 8), ("c", 8)
    ]  # fmt: skip
    assert {part["value"] for part in document["slices"] if part["by"] == "label"} == {None, "l0", "l1", "l2"}


def test_a_slice_has_the_scores_of_its_rows_alone(files: Files, document) -> None:
    part = next(part for part in document["slices"] if (part["by"], part["value"]) == ("source", "b"))
    chosen = [i for i, row in enumerate(files.rows) if row["source"] == "b"]
    scores = pq.read_table(files.paths["scores"][1])
    nats, tokens = (sum(scores[name][i].as_py() for i in chosen) for name in ("nll", "n_tokens"))
    assert part["metrics"]["perplexity"]["tuned"] == pytest.approx(math.exp(nats / tokens), abs=1e-5)
    chosen = [i for i in chosen if i < ANSWERED]
    outputs = [files.outputs["tuned"][i] for i in chosen]
    by_sacrebleu = sacrebleu.corpus_bleu(outputs, [[files.rows[i]["completion"] for i in chosen]]).score
    entry = part["metrics"]["bleu"]
    assert (entry["tuned"], entry["n"]) == (pytest.approx(by_sacrebleu, abs=1e-5), len(chosen))
    assert entry["wins"] + entry["ties"] + entry["losses"] == entry["n"]
    assert entry["ci95"][0] <= entry["delta"] <= entry["ci95"][1]
    assert list(part["metrics"]) == ["perplexity", "rougeL", "bleu"]


def test_length_slices_are_quartiles(files: Files, document) -> None:
    parts = [part for part in document["slices"] if part["by"] == "length"]
    lengths = sorted(len(files.tokenizer.encode(row["completion"]).ids) + 1 for row in files.rows)
    assert sum(part["n"] for part in parts) == ROWS
    done = 0
    for part in parts:
        inside = lengths[done : done + part["n"]]
        assert part["value"] == f"{inside[0]:,} to {inside[-1]:,} tokens"
        done += part["n"]


def test_forty_lengths_make_four_slices_of_ten_and_equal_lengths_stand_together(files: Files) -> None:
    scores = pq.read_table(files.paths["scores"][0])
    nats = np.random.default_rng(1).uniform(1, 90, size=ROWS)
    scores = scores.set_column(scores.column_names.index("nll"), "nll", pa.array(nats))
    order = np.random.default_rng(0).permutation(ROWS)
    for lengths, sizes in ((order + 1, [10, 10, 10, 10]), (np.where(order < 15, 1, order), [15, 5, 10, 10])):
        given = scores.set_column(scores.column_names.index("n_tokens"), "n_tokens", pa.array(lengths))
        parts = [part for part in slices(given, given, {}, 100, 1)[0] if part["by"] == "length"]
        assert [part["n"] for part in parts] == sizes
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            inside = (order >= start) & (order < start + size)
            by_hand = math.exp(nats[inside].sum() / lengths[inside].sum())
            assert part["metrics"]["perplexity"]["base"] == pytest.approx(by_hand, rel=1e-6)
            start += size


def test_the_rarest_of_many_values_are_one_slice(files: Files) -> None:
    scores = pq.read_table(files.paths["scores"][0])
    sizes = [7, 6, *[2] * 12, 3]
    names = [f"s{number:02}" for number, size in enumerate(sizes) for _ in range(size)]
    scores = scores.set_column(scores.column_names.index("source"), "source", pa.array(names))
    scores = scores.set_column(scores.column_names.index("family"), "family", scores["row_id"])
    made, left_out = slices(scores, scores, measures.load(SCORE), 100, 1)
    assert [(part["value"], part["n"], part["values"]) for part in made if part["by"] == "source"] == [
        ("s00", 7, 1), ("s01", 6, 1), ("other", 8, 4)
    ]  # fmt: skip
    assert [part for part in left_out if part["by"] == "source"] == [{"by": "source", "values": 9, "rows": 19}]


def test_rows_of_a_few_families_are_no_slice(files: Files) -> None:
    """Two sources of twenty rows each: one in four families, the other in twenty."""
    scores = pq.read_table(files.paths["scores"][0])
    for name, values in (
        ("source", ["few"] * 20 + ["many"] * 20),
        ("family", [f"f{i % 4 if i < 20 else i}" for i in range(ROWS)]),
    ):
        scores = scores.set_column(scores.column_names.index(name), name, pa.array(values))
    made, left_out = slices(scores, scores, {}, 100, 1)
    assert [(part["value"], part["n"]) for part in made if part["by"] == "source"] == [("many", 20)]
    assert [part for part in left_out if part["by"] == "source"] == [{"by": "source", "values": 1, "rows": 20}]
