"""What is told of the energy of a training."""

import json

import pytest
import torch

import training_runs
from snaketune.model import process
from snaketune.model.energy import Meter, counters_of
from training_runs import Run, killed

made = training_runs.made  # a fixture


def test_a_meter_counts_from_when_it_was_made_over_all_devices():
    counts = [100.0, 7000.0]
    meter = Meter([lambda: counts[0], lambda: counts[1]])
    assert meter.joules() == 0
    counts[:] = [130.0, 7005.5]
    assert meter.joules() == 35.5


def test_what_does_not_tell_is_not_guessed():
    assert counters_of([torch.device("cpu")]) == []
    assert counters_of([]) == []
    assert Meter([]).joules() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts():
    (counter,) = counters_of([torch.device("cuda", 0)])
    before = counter()
    square = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        square = (square @ square).clamp(0, 1)
    torch.cuda.synchronize()
    assert counter() > before


def test_a_training_that_goes_on_tells_what_both_parts_took(made, tmp_path, monkeypatch):
    spent = [0.0]

    def counter() -> float:
        spent[0] += 3
        return spent[0]

    monkeypatch.setattr(process, "counters_of", lambda devices: [counter])
    monkeypatch.setattr("snaketune.model.watch.REDRAWN", 0.0)  # a line for each step
    run = Run(made, tmp_path, max_steps=6, evaluations=3, batching="padded")
    killed(run, monkeypatch, step=4)
    run()
    told = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]
    assert [line["energy_j"] for line in told] == [3, 6, 9, 12, 15, 18]


def test_a_cpu_leaves_no_column(made, tmp_path):
    Run(made, tmp_path, max_steps=2, evaluations=1)()
    assert "energy_j" not in (tmp_path / "speed.jsonl").read_text()
