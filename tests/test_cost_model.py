"""The cost model of benchmarks/scale finds the costs that points were made of; docs/scaling.md shows its table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks/scale"


@pytest.fixture(scope="module")
def model() -> Any:
    spec = importlib.util.spec_from_file_location("cost_model", FOLDER / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def points() -> dict[str, Any]:
    return json.loads((FOLDER / "points.json").read_text())


def made(megabytes: float, rows: int, jobs: int) -> dict[str, Any]:
    """A point of two rules whose costs are known: 2 s a job and 0.05 s a MB; 300 MB and 220 bytes a row."""
    sharded = {"jobs": jobs, "cpu_s": 2 * jobs + 0.05 * megabytes, "peak_mb": 180, "bytes": int(4e5 * megabytes)}
    alone = {"jobs": 1, "cpu_s": 1 + 0.01 * megabytes, "peak_mb": 300 + 2.2e-4 * rows, "bytes": int(1e5 * megabytes)}
    return {"megabytes": megabytes, "rows": rows, "rules": {"ingest": sharded, "dedup": alone}}


def test_the_fit_finds_the_costs_that_the_points_were_made_of(model: Any) -> None:
    found = model.fit([made(100, 40_000, 1), made(500, 200_000, 3), made(1000, 400_000, 4)])
    assert (found["ingest"].start, found["ingest"].per_mb) == pytest.approx((2, 0.05))
    assert (found["dedup"].base, found["dedup"].per_row) == pytest.approx((300, 220))
    assert found["ingest"].disk == pytest.approx(0.4)
    told = model.predict(found, 10_000, 4_000_000, 40)
    assert told["shared_s"] == pytest.approx(2 * 40 + 500)
    assert told["alone_s"] == pytest.approx(101)
    assert (told["largest"], told["memory_mb"]) == ("dedup", pytest.approx(1180))


def test_no_cost_is_negative_and_a_flat_one_stays_flat(model: Any) -> None:
    assert model.two(np.array([1.0, 1, 1]), np.array([1.0, 2, 3]), np.array([9.0, 6, 3]))[1] == 0
    assert model.line([1, 2, 3], [5, 5, 5]) == pytest.approx((5, 0))


def test_the_check_leaves_the_largest_corpus_out_of_the_fit(model: Any) -> None:
    honest = [made(100, 40_000, 1), made(500, 200_000, 3), made(1000, 400_000, 4), made(4000, 1_600_000, 16)]
    for _, told, true in model.check(honest):
        assert told == pytest.approx(true, rel=1e-6)
    honest[-1]["rules"]["ingest"]["cpu_s"] *= 2
    errors = {name: told / true for name, told, true in model.check(honest)}
    assert errors["processor seconds, ingest"] == pytest.approx(0.5)


def test_hours_of_training_are_six_flops_a_weight_and_token(model: Any) -> None:
    # 1e9 weights, 1e9 tokens: 6e18 FLOPs; at half of 1,000 TFLOPS: 12,000 s
    assert model.training_hours(1e9, 1e9, 1000, 0.5) == pytest.approx(12000 / 3600)


def test_the_table_of_the_documentation_is_that_of_the_measured_points(model: Any, points: dict[str, Any]) -> None:
    table = model.table(points, row_kb=2.37, shard_mb=points["shard_mb"], cores=64)
    assert table in (ROOT / "docs/scaling.md").read_text(), "python benchmarks/scale/model.py prints the new one"
