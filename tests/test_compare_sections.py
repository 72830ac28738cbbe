"""What metrics.json has beside the metrics of every run: classes, metrics of the user's own, probes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compare import compare
from probe import PROBES
from scored_sides import BASE, PUBLISHED, ROWS, SCORE, SETTINGS, TUNED, scored
from snaketune.job import StageError


def _labelled(outputs: list[str]) -> list[dict]:
    """Rows of three classes: four that are red, four that are green, two that are blue."""
    golds = ["red"] * 4 + ["green"] * 4 + ["blue"] * 2
    return [row | {"label": gold, "output": said} for row, gold, said in zip(BASE, golds, outputs, strict=False)]


def test_classes_have_their_confusion_and_scores_by_hand(tmp_path):
    base = _labelled(["red", "green", "red", "?", "green", "green", "red", "green", "green", "blue"])
    tuned = _labelled(["red", "red", "red", "red", "green", "green", "green", "green", "blue", "blue"])
    labels = ["blue", "green", "red"]
    settings = SETTINGS | {"score": SCORE | {"metrics": ["classification"]}}
    paths = [
        scored(tmp_path, name, rows, settings=settings["score"], classes=labels)
        for name, rows in (("b", base), ("t", tuned))
    ]
    compare(*paths, str(tmp_path / "metrics.json"), settings)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    found = report["classes"]
    assert found["labels"] == labels
    assert found["confusion"]["base"] == [[1, 1, 0, 0], [0, 3, 1, 0], [0, 1, 2, 1]]
    assert found["confusion"]["tuned"] == [[2, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]]
    assert {label: part["support"] for label, part in found["per_class"].items()} == {"blue": 2, "green": 4, "red": 4}
    green = found["per_class"]["green"]
    assert [green[name]["base"] for name in ("precision", "recall", "f1")] == pytest.approx(
        [100 * 3 / 5, 100 * 3 / 4, 100 * 6 / 9], abs=1e-6
    )
    assert green["recall"]["delta"] == 25
    assert (green["recall"]["n"], green["recall"]["wins"], green["recall"]["higher_is_better"]) == (10, None, True)
    low, high = green["recall"]["ci95"]
    assert low < 25 < high
    accuracy = report["metrics"]["accuracy"]
    assert (accuracy["base"], accuracy["wins"], accuracy["ties"], accuracy["losses"]) == (60, 4, 6, 0)
    assert report["metrics"]["f1_macro"]["wins"] is None


def test_scores_with_other_classes_are_refused(tmp_path):
    rows = _labelled(["red"] * 10)
    settings = SETTINGS | {"score": SCORE | {"metrics": ["classification"]}}
    paths = [
        scored(tmp_path, name, rows, settings=settings["score"], classes=["red", "green", "blue", *more])
        for name, more in (("b", []), ("t", ["grey"]))
    ]
    with pytest.raises(StageError, match=r"those of tuned into .*'grey'.*`score.classes`"):
        compare(*paths, str(tmp_path / "metrics.json"), settings)


def test_a_metric_of_the_users_own_stands_beside_the_others(tmp_path):
    """Two groups: by hand, the standard error of the difference is sqrt(1 / 2 * (1 + 1)) = 1."""
    about = {"higher_is_better": None, "signature": "mine", "n": ROWS}
    sides = [{"value": 5.0, "groups": [4.0, 6.0]}, {"value": 8.0, "groups": [8.0, 8.0]}]
    paths = []
    for name, rows, side in zip("bt", (BASE, TUNED), sides, strict=True):
        paths.append(scored(tmp_path, name, rows, own={"mine": side | about}))
        table = pq.read_table(paths[-1])
        signatures = json.loads(table.schema.metadata[b"signatures"]) | {"mine": "mine"}
        pq.write_table(
            table.replace_schema_metadata(table.schema.metadata | {b"signatures": json.dumps(signatures)}), paths[-1]
        )
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    entry = report["metrics"]["mine"]
    assert (entry["base"], entry["tuned"], entry["delta"], entry["wins"], entry["n"]) == (5, 8, 3, None, ROWS)
    assert entry["ci95"] == pytest.approx([3 - 12.706205, 3 + 12.706205], abs=1e-5)  # Student's t of one degree
    assert report["signatures"]["mine"] == "mine"
    assert set(report["signatures"]) == set(report["metrics"])


def _probes(folder: Path, name: str, cost: float, outputs: list[str]) -> str:
    """Three passages of general text, and two templates and prompts with two terms of one axis."""
    empty = dict.fromkeys(("topic", "axis", "group", "term", "prefix", "output"))
    rows = [
        empty | {"kind": "general", "item": f"p{i}", "text": "t", "nll": cost * 10, "n_tokens": 10, "n_bytes": 40}
        for i in range(3)
    ]
    for item in range(2):
        for i, (group, term) in enumerate((("women", "woman"), ("men", "man"))):
            who = empty | {"axis": "gender", "group": group, "term": term, "prefix": f"The {term}", "text": " is"}
            nll = 4 * (1 + (item + 1) * i * cost)
            rows.append(who | {"kind": "likelihood", "item": f"t{item}", "nll": nll, "n_tokens": 4, "n_bytes": 3})
            said = {"output": outputs[i], "nll": None, "n_tokens": 2, "n_bytes": 9}
            rows.append(who | {"kind": "generation", "item": f"g{item}"} | said)
    axis = {"groups": ["women", "men"], "mask": [], "control": False}
    about = {
        "general": {"file": "shipped", "sha256": "0" * 64, "passages": 3},
        "bias": {"file": "shipped", "sha256": "1" * 64, "axes": {"gender": axis}},
    }
    table = pa.Table.from_pylist(rows, schema=PROBES.with_metadata({"probes": json.dumps(about)}))
    pq.write_table(table, folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def test_probes_are_metrics_like_others_and_sections_of_their_own(tmp_path):
    paths = [scored(tmp_path, name, rows) for name, rows in (("b", BASE), ("t", TUNED))]
    probes = (_probes(tmp_path, "pb", 2.0, ["a b", "a b"]), _probes(tmp_path, "pt", 3.0, ["a b", "c d"]))
    compare(*paths, str(tmp_path / "metrics.json"), SETTINGS, probes)
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    names = {"general_perplexity", "general_bits_per_byte", "bias_likelihood_gap", "bias_output_difference"}
    assert set(report["metrics"]) == set(report["signatures"]) == PUBLISHED | names
    general = report["metrics"]["general_perplexity"]
    assert (general["base"], general["tuned"]) == pytest.approx((math.exp(2), math.exp(3)), abs=1e-6)
    assert (general["n"], general["losses"], general["higher_is_better"]) == (3, 3, False)
    gap = report["bias"]["gender"]["gap"]
    assert (gap["base"], gap["tuned"], gap["n"]) == pytest.approx((3, 4.5, 2))  # (c + 2 c) / 2 nats per token
    assert report["bias"]["gender"]["output_difference"]["tuned"] == 100
    assert report["bias"]["gender"]["groups"]["men"]["base"] == pytest.approx(1.5)
    assert report["probes"]["general"]["passages"] == 3
