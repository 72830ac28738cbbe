"""A training over two nodes: two Slurm daemons on this host, with processes, ports and folders of their own."""

import json
import os
import subprocess
from pathlib import Path
from tempfile import mkdtemp

import pytest
from cluster import Run, until

import micro

pytestmark = pytest.mark.example
HERE = micro.ROOT / "tests/slurm"


@pytest.fixture
def two_nodes(monkeypatch):
    """A second Slurm beside the first, with two nodes and no GPU; its srun is the one that is found."""
    others = [
        folder for folder in os.environ["PATH"].split(os.pathsep) if folder != f"{os.environ['SLURM_PREFIX']}/bin"
    ]
    monkeypatch.setenv("PATH", os.pathsep.join(others))
    prefix = Path(mkdtemp(prefix="snaketune-nodes-"))  # short, and below folders that others can enter
    given = {"SLURM_PREFIX": str(prefix), "SLURM_PORT": "18817", "SLURM_NODES": "2", "SLURM_GPUS": "0"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    subprocess.run([HERE / "start.sh"], check=True)
    monkeypatch.setenv("SLURM_CONF", str(prefix / "etc/slurm.conf"))
    monkeypatch.setenv("PATH", str(prefix / "bin"), prepend=os.pathsep)
    yield
    subprocess.run([HERE / "stop.sh", "--purge"], check=True)


def test_a_training_over_two_nodes_that_is_stopped_goes_on_on_one(two_nodes, tmp_path):
    folder = micro.make(tmp_path / "run")
    train = micro.CONFIG["train"] | {"epochs": 20, "evaluations": 5}
    micro.write_config(folder, micro.CONFIG | {"train": train | {"nodes": 2}})
    micro.snakemake(folder, "results/micro/train/plan.json")
    without = ("--set-resources", "train:gpu=0", "preflight:gpu=0", "--set-threads", "train=2", "preflight=2")
    run = Run(folder, "--retries", "0", *without, "--", "results/micro/train/summary.json")
    number = run.number("train")
    (history,) = until(lambda: [file for file in folder.glob("results/.store/*/history.jsonl") if lines(file) > 5])
    about = subprocess.check_output(["scontrol", "show", "job", number], text=True)
    assert "NumNodes=2" in about
    assert "NumTasks=2" in about
    subprocess.run(["scancel", "--signal", "TERM", number], check=True)  # as Slurm does before the time limit
    assert "stopped by a signal after step" in run.ended(1)
    micro.write_config(folder, micro.CONFIG | {"train": train})
    ended = micro.snakemake(folder, "results/micro/train/summary.json")
    assert "goes on from step" in ended.stdout
    summary = json.loads((folder / "results/micro/train/summary.json").read_text(encoding="utf-8"))
    assert (summary["processes"], summary["fingerprint"]) == (1, history.parent.name)


def lines(file) -> int:
    """How many lines a file has."""
    return len(file.read_text(encoding="utf-8").splitlines())
