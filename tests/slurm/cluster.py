"""Workflows through the Slurm that start.sh started, with the shipped profile, and what Slurm says of their jobs."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from micro import ROOT

PROFILE = ROOT / "profiles/slurm"
GPU_RULES = ("preflight", "train", "likelihood", "generate", "probe")
# A second before the first look at the jobs in place of five: they take seconds, and the scheduler has nobody else
SOON = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")
FIELDS = ("JobIDRaw", "Comment", "State", "AllocTRES", "Account", "QOS", "Start", "End")
T = TypeVar("T")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job: its number, the rule or group, the state, what it was given, and when."""

    number: str
    name: str
    state: str
    given: dict[str, str]
    account: str
    qos: str
    start: datetime
    end: datetime


class Run:
    """A call of Snakemake that may go on beside the test."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE), *SOON, *arguments]
        self.folder, self.output = folder, folder / f"call-{len(list(folder.glob('call-*')))}.txt"
        with self.output.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, text=True)

    @property
    def text(self) -> str:
        """What the terminal shows."""
        return self.output.read_text(encoding="utf-8")

    def ended(self, code: int = 0) -> str:
        """Wait for the end, which must have this code; what the terminal shows."""
        assert self.process.wait(600) == code, self.text
        return self.text

    def number(self, rule: str, after: int = 0) -> str:
        """Wait for the job of a rule, and for its number in Slurm; after: so many jobs of the rule that were before."""
        pattern = re.compile(rf"SLURM jobid (\d+) \(log: \S*/rule_{rule}/")
        return until(lambda: self._alive() and pattern.findall(self.text)[after:])[0]

    def _alive(self) -> bool:
        assert self.process.poll() is None, self.text
        return True

    @property
    def jobs(self) -> list[Job]:
        """The jobs of a call that has ended; accounting may be some seconds late."""
        name = re.search(r"SLURM run ID: (\S+)", self.text)[1]
        command = ["sacct", "-X", "-n", "-P", "--name", name, "--format", ",".join(FIELDS)]

        def found() -> list[list[str]]:
            lines = subprocess.check_output(command, text=True).splitlines()
            rows = [line.split("|") for line in lines]
            return rows if all(row[2].split()[0] in OVER for row in rows) else []

        return [job(row) for row in until(found)]


def job(row: list[str]) -> Job:
    """A line of sacct."""
    number, name, state, given, account, qos, start, end = row
    amounts = dict(part.split("=") for part in given.split(",") if part)
    return Job(number, name, state, amounts, account, qos, *map(datetime.fromisoformat, (start, end)))


def until(found: Callable[[], T], seconds: float = 240) -> T:
    """Wait until something is found, and give it back."""
    end = time.monotonic() + seconds
    while not (what := found()):
        assert time.monotonic() < end, "nothing was found in time"
        time.sleep(0.3)
    return what


def checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints of the training under way."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("results/.store/*/checkpoints/step-*"))
