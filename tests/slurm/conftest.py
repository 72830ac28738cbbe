"""What the tests share. They need a Slurm, which `make test-slurm` starts; `make test` does not collect them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import GPU_RULES, Run

import micro

collect_ignore_glob = [] if os.environ.get("SNAKETUNE_SLURM") else ["test_*.py"]
# With other numbers of threads, sums on the CPU come in another order, and a model's last bits differ.
THREADS = ("--set-threads", *(f"{rule}=2" for rule in GPU_RULES))


def pytest_configure(config):
    """`-m "not example"` is the quick part: small rules through Slurm, in place of the whole example."""
    config.addinivalue_line("markers", "example: the whole example goes through Slurm first, which takes minutes")


def example(folder: Path) -> Path:
    """The micro example with raw rows that are long enough to be cut in two, and two parts of each split's tokens."""
    micro.make(folder)
    micro.write_rows(folder / "data/rows.jsonl", [row | {"note": "x" * 25_000} for row in micro.rows(48)])
    config = micro.CONFIG | {"source": micro.CONFIG["source"] | {"shard_mb": 1}}
    config["tokenize"] = config["tokenize"] | {"shards": 2}
    micro.write_config(folder, config)
    return folder


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """The run through Slurm, and the folder of the local one; they go on side by side."""
    local = example(tmp_path_factory.mktemp("local") / "run")
    folder = shutil.copytree(local, tmp_path_factory.mktemp("slurm") / "run", symlinks=True)
    run = Run(folder, *THREADS)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *THREADS]
    subprocess.run(command, cwd=local, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run.ended()
    return run, local
