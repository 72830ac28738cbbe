"""The workflow's training beside its peers: one training, done by each program in turn, several times over.

python benchmarks/train/run.py --work FOLDER --peers-python PEERS/bin/python [--device cuda --model gpt2-random ...]

Every program is a process of its own, trains the same model on the same rows with the same number of threads, and
prints one line. They take turns (A B C A B C), because a shared machine is fast at one time and slow at another: what
counts is the ratio of two programs of the same round. Appends to FOLDER/results.jsonl and prints medians of all that
stands in it as a table; `--repeats 0` prints the table alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS, BARE, TRAINER, TRL = "ours.py", "bare.py", "hf_trainer.py", "trl_packing.py"
PEERS = (TRAINER, TRL)
Figures = dict[str, Any]


def programs(device: str, data: str) -> dict[str, list[str]]:
    """What takes turns, by the name that --only knows: a program and its options."""
    grouped, packed, fp32 = ["--batching", "length_grouped"], ["--batching", "packed"], ["--precision", "fp32"]
    found = {
        "ours": [OURS, *packed],
        "bare": [BARE, *packed],
        "trainer": [TRAINER],
        "trl": [TRL],
        "trl-passes": [TRL, "--passes", "8"],
    }
    if data == "short":
        found |= {
            "ours-grouped": [OURS, *grouped],
            "bare-grouped": [BARE, *grouped],
            "trainer-grouped": [TRAINER, "--grouped"],
        }
    if device == "cuda":
        return found | {"trainer-compiled": [TRAINER, "--compile"]}
    found |= {"trainer-fp32": [TRAINER, *fp32], "ours-fp32": [OURS, *packed, *fp32], "trl-fp32": [TRL, *fp32]}
    return found | {"bare-fp32": [BARE, *packed, *fp32]}


def started(command: list[str], threads: int, log: Path) -> str:
    """Run a program of ours to its end; the last line that it printed. Raises CalledProcessError; the log has why."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow/scripts"), str(HERE)]),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with log.open("a", encoding="utf-8") as errors:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def quiet(most: float, patience: float) -> None:
    """Wait until the machine's load of the last minute is below `most`, for `patience` seconds at most."""
    until = time.monotonic() + patience
    while os.getloadavg()[0] >= most and time.monotonic() < until:
        time.sleep(5)


def table(lines: list[Figures]) -> str:
    """Medians of all rounds, and how many times as fast as each program ours are, by pairs of one round.

    `processors`: the fewest that a program had in a round; below the threads, others took them, and the round is void.
    """
    names = list(dict.fromkeys(line["program"] for line in lines))
    by_name = {name: {line["round"]: line for line in lines if line["program"] == name} for name in names}
    ours = [name for name in names if name.startswith("ours")]
    head = [
        "program",
        "precision",
        "tokens/s (lowest to highest)",
        "MFU",
        "peak MB",
        "loss",
        "s",
        "steps",
        "processors",
    ]
    head += [f"{name} is times as fast" for name in ours]
    rows = [head, ["---"] * len(head)]
    for name in names:
        of = list(by_name[name].values())
        middle = {
            key: median(line[key] for line in of) for key in ("mfu", "peak_memory_mb", "loss", "seconds", "steps")
        }
        speeds = sorted(line["tokens_per_second"] for line in of)
        row = [f"{of[0]['name']} ({name})", of[0]["precision"]]
        row += [f"{median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})", f"{middle['mfu']:.1%}"]
        row += [f"{middle['peak_memory_mb']:,.0f}", f"{middle['loss']:.3f}"]
        row += [f"{middle['seconds']:.1f}", f"{middle['steps']:g}"]
        row.append(f"{min(line['processor_seconds'] / line['seconds'] for line in of):.2f}")
        rows.append(row + [ratio(by_name[reference], by_name[name]) for reference in ours])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def ratio(ours: dict[int, Figures], other: dict[int, Figures]) -> str:
    """The median, lowest and highest quotient of speeds in the rounds that have both."""
    both = sorted(
        ours[number]["tokens_per_second"] / other[number]["tokens_per_second"] for number in ours.keys() & other.keys()
    )
    return f"{median(both):.2f} ({both[0]:.2f} to {both[-1]:.2f})" if both else ""


def main() -> None:
    """Prepare, run every program in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default=str(ROOT / "resources/tiny-gpt"), help="a folder, or gpt2-random")
    parser.add_argument("--data", choices=("short", "full"), default="short")
    parser.add_argument("--tokens", default=str(ROOT / "results/aclsum/tokens"), help="made by `make run`")
    parser.add_argument("--peers-python", help="a Python with requirements-peers.txt; without it no peer runs")
    parser.add_argument("--only", help="programs by name, with commas: " + ", ".join(programs("cpu", "short")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--warm-up", type=int, help="steps; 4 on a CPU, 20 on a GPU")
    parser.add_argument("--steps", type=int, help="on the clock; 24 on a CPU, 200 on a GPU")
    parser.add_argument("--until", type=float, help="measure the time to this validation loss, --steps at most")
    parser.add_argument("--quiet", type=float, default=0.0, help="seconds to wait, at most, for a load below 1")
    given = parser.parse_args()
    work, cuda = given.work.resolve(), given.device == "cuda"
    work.mkdir(parents=True, exist_ok=True)
    offered = programs(given.device, given.data)
    chosen = given.only.split(",") if given.only else list(offered)
    if unknown := set(chosen) - set(offered):
        parser.error(f"there is no {', '.join(unknown)} here; there is {', '.join(offered)}")
    if not given.peers_python:
        chosen = [name for name in chosen if offered[name][0] not in PEERS]
    log = work / "log.txt"
    options = {
        "device": given.device,
        "model": given.model,
        "data": given.data,
        "tokens": given.tokens,
        "threads": given.threads,
        "learning-rate": given.learning_rate or (3e-4 if given.model == "gpt2-random" else 1e-3),
        "warm-up": given.warm_up or (20 if cuda else 4),
        "steps": given.steps or (200 if cuda else 24),
    }
    options |= {} if given.until is None else {"until": given.until}
    command = [sys.executable, str(HERE / "prepare.py"), str(work)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    if given.repeats:
        quiet(1.0, given.quiet)
        started([*command, "--precisions", "bf16", *["fp32"] * (not cuda)], given.threads, log)
    results = work / "results.jsonl"
    lines: list[Figures] = []
    if results.exists():
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    first = 1 + max((line["round"] for line in lines), default=-1)
    for number in range(first, first + given.repeats):
        for name in chosen:
            script, *own = offered[name]
            python = given.peers_python if script in PEERS else sys.executable
            before = {"program": name, "round": number, "load_before": os.getloadavg()[0]}
            found = json.loads(started([python, str(HERE / script), str(work), *own], given.threads, log))
            lines.append(before | found)
            print(json.dumps(lines[-1]), flush=True)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
