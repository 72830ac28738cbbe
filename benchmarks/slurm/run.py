"""What a Slurm job costs beside its work: from submission to the rule's start, from its end to Snakemake's notice.

    python benchmarks/slurm/run.py

It wants a Slurm that is idle; `tests/slurm/start.sh` starts one. Each case is a workflow of rules that sleep, run with
profiles/slurm; a rule writes down when it began and ended, and this program when Snakemake said what.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PROFILE = Path(__file__).resolve().parents[2] / "profiles/slurm"
RULES = """
rule all:
    input: expand("{chain}/2.txt", chain=range(config["chains"]))

rule first:
    output: "{chain}/0.txt"
    shell: "date +%s.%N > {output}; sleep " + str(config["seconds"]) + "; date +%s.%N >> {output}"

for number in (1, 2):
    rule:
        name: f"next{number}"
        input: f"{{chain}}/{number - 1}.txt"
        output: f"{{chain}}/{number}.txt"
        shell: "date +%s.%N > {output}; sleep " + str(config["seconds"]) + "; date +%s.%N >> {output}"
"""


@dataclass(frozen=True)
class Case:
    """Chains of three rules, how long each sleeps, and what the profile is told otherwise."""

    name: str
    chains: int
    seconds: int
    arguments: tuple[str, ...] = ()


FIRST_LOOK = "--slurm-init-seconds-before-status-checks"
GROUP = ("--groups", "first=g", "next1=g", "next2=g")
CASES = (
    Case("as shipped", 1, 1),
    Case("first look after 1 s", 1, 1, (FIRST_LOOK, "1")),
    Case("as shipped, 30 s of work", 1, 30),
    Case("as shipped, in a group", 1, 1, GROUP),
    Case("as shipped, two chains", 2, 1),
)


def measure(case: Case, folder: Path) -> dict[str, float]:
    """Seconds: the whole call; of its jobs the median from submission to start, and from end to notice."""
    (folder / "Snakefile").write_text(RULES, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE), *case.arguments]
    settings = ["--config", f"chains={case.chains}", f"seconds={case.seconds}"]
    small = ["--default-resources", "mem_mb=400", "runtime=5", "--latency-wait", "5"]
    began = time.time()
    call = subprocess.Popen([*command, *settings, *small], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    submitted, noticed = [], []
    lines = []
    for line in call.stdout:
        lines.append(line.decode())
        if b"has been submitted" in line:
            submitted.append(time.time())
        elif re.match(rb"Finished jobid: .*(first|next)", line):
            noticed.append(time.time())
    if call.wait():
        sys.exit("".join(lines))
    whole = time.time() - began
    times = [list(map(float, path.read_text().split())) for path in folder.glob("*/*.txt")]
    starts, ends = sorted(start for start, _ in times), sorted(end for _, end in times)
    if len(submitted) < len(starts):  # a group: its first rule's start, its last one's end
        starts, ends, noticed = starts[:1], ends[-1:], noticed[-1:]
    return {
        "whole": whole,
        "to_start": median(start - at for start, at in zip(starts, sorted(submitted), strict=True)),
        "to_notice": median(at - end for at, end in zip(sorted(noticed), ends, strict=True)),
    }


def main() -> None:
    """Print a table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    if not shutil.which("sbatch"):
        sys.exit("there is no Slurm here: `tests/slurm/start.sh`, then `. /tmp/snaketune-slurm/env.sh`")
    print("| case | whole, s | submitted to started, s | ended to noticed, s |\n| --- | --- | --- | --- |")
    for case in CASES:
        found = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(case, Path(folder)))
        cells = (", ".join(f"{one[key]:.1f}" for one in found) for key in ("whole", "to_start", "to_notice"))
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)
    print(f"\nload while it ran: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
