"""The profile for Kubernetes: what its jobs ask for, and how they end. There is no cluster here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
JOBS = ROOT / "profiles/kubernetes/jobs.py"
ASKED = ["--name", "likelihood_Tuned", "--threads", "4", "--memory", "8000", "--minutes", "90"]


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """jobs.py with a kubectl that runs jobs on this machine."""
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/stand_in_kubectl.py"} "$@"\n')
    program.chmod(0o755)
    state = tmp_path / "state"
    state.mkdir()
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "STAND_IN": str(state)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(JOBS), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return call


def submitted(jobs: Callable[..., subprocess.CompletedProcess[str]], folder: Path, script: str, gpus: int = 0) -> str:
    path = folder / "job.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    done = jobs("submit", *ASKED, "--gpus", str(gpus), str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ended(jobs: Callable[..., subprocess.CompletedProcess[str]], name: str) -> str:
    for _ in range(200):
        if (told := jobs("status", name).stdout.strip()) != "running":
            return told
        time.sleep(0.05)
    return "running"


def test_a_job_runs_in_the_folder_of_the_workflow_and_its_end_is_told(jobs, tmp_path: Path) -> None:
    good = submitted(jobs, tmp_path, "pwd > here")
    assert ended(jobs, good) == "success"
    assert (tmp_path / "here").read_text().strip() == str(tmp_path)
    assert ended(jobs, submitted(jobs, tmp_path, "exit 3")) == "failed"


def test_a_job_asks_for_what_its_rule_asks_for(jobs, tmp_path: Path) -> None:
    with_gpus, without = submitted(jobs, tmp_path, "true", gpus=2), submitted(jobs, tmp_path, "true")
    job = json.loads((tmp_path / f"state/{with_gpus}.json").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "8000M", "nvidia.com/gpu": "2"},
        "limits": {"memory": "8000M", "nvidia.com/gpu": "2"},
    }
    assert job["spec"]["activeDeadlineSeconds"] == 5400
    assert job["spec"]["backoffLimit"] == 0
    assert "gpu" not in (tmp_path / f"state/{without}.json").read_text()


def test_names_are_those_that_kubernetes_takes_and_never_twice_the_same(jobs, tmp_path: Path) -> None:
    names = {submitted(jobs, tmp_path, "true") for _ in range(2)}
    assert len(names) == 2
    for name in names:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name), name  # RFC 1123


def test_a_stopped_pod_lets_its_job_end_by_itself(jobs, tmp_path: Path) -> None:
    """As a training does, which writes a checkpoint: in a process of its own, some levels below the first one."""
    training = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('kept'), sys.exit(9)))\n"
    training += "print('ready', flush=True)\ntime.sleep(60)"
    (tmp_path / "training.py").write_text(training)
    name = submitted(jobs, tmp_path, f"cd . && {sys.executable} training.py > told && true")
    for _ in range(200):
        if (tmp_path / "told").exists() and (tmp_path / "told").read_text():
            break
        time.sleep(0.05)
    assert jobs("status", name).stdout.strip() == "running"
    assert name in jobs("cancel", name).stdout
    assert ended(jobs, name) == "failed"
    assert (tmp_path / "told").read_text().split() == ["ready", "kept"]


def test_a_job_that_is_gone_has_failed_and_a_server_that_is_away_says_nothing_about_it(jobs, tmp_path: Path) -> None:
    assert jobs("status", "never-was").stdout.strip() == "failed"
    name = submitted(jobs, tmp_path, "true")
    assert ended(jobs, name) == "success"
    (tmp_path / "state/down").touch()
    assert jobs("status", name).stdout.strip() == "running"
    refused = jobs("submit", *ASKED, "--gpus", "0", str(tmp_path / "job.sh"))
    assert refused.returncode == 1
    assert "kubectl refused the job: Unable to connect" in refused.stderr


def test_the_profile_fills_in_what_the_program_asks_for() -> None:
    profile = yaml.safe_load((ROOT / "profiles/kubernetes/config.yaml").read_text())
    told = profile["cluster-generic-submit-cmd"]
    filled = re.sub(r"\{[\w.]+\}", "1", told).split()
    assert filled[:2] == ["python", "profiles/kubernetes/jobs.py"]
    assert {"mem_mb", "runtime", "gpu"} == set(profile["default-resources"]), "every job has what {resources.*} names"
    help_text = subprocess.run([sys.executable, JOBS, "submit", "--help"], capture_output=True, text=True, check=True)
    options = {word for word in filled if word.startswith("--")}
    assert options
    assert all(option in help_text.stdout for option in options)
    default = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    for key in ("rerun-incomplete", "rerun-triggers", "max-checksum-file-size"):
        assert profile[key] == default[key], f"{key} decides what is up to date: no profile may differ"
