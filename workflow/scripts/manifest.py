"""The manifest: everything that a result hangs on, as hashes and versions, so that it can be made again or doubted.

In:  the raw inputs, the files of code, the complete settings
Out: manifest.json: sha256 of inputs and code, settings, package versions, Python, the machine, the workflow's commit

This is the one output that tells of the machine; the data files are the same on any.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path
from typing import Any

from snaketune import versions
from snaketune.job import StageError, run

GPU_FACTS = ("name", "memory.total", "driver_version")
PATIENCE = 20  # seconds for a command that only tells facts


def manifest(inputs: list[str], code: list[str], output: str, settings: dict[str, Any]) -> str:
    """Write the manifest; a folder among the inputs stands for all its files. Raises StageError for a missing file."""
    facts = {
        "inputs": hashes(inputs),
        "config": settings,
        "code": hashes(code),
        "packages": versions.installed(),
        "python": platform.python_version(),
        "hardware": hardware(),
        "commit": commit(Path(__file__).parent),
    }
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False)
    Path(output).write_text(text + "\n", encoding="utf-8", errors="replace")
    return f"hashes of {len(facts['inputs']):,} inputs and {len(facts['code']):,} files of code"


def hashes(paths: Iterable[str]) -> dict[str, str]:
    """sha256 by path, relative to the working directory where the file lies below it."""
    found = {}
    for given in paths:
        top = Path(given)
        if not top.exists():
            raise StageError(f"{given} is an input of this run, but is not there any more")
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file():
                with file.open("rb") as stream:
                    found[_name(file)] = file_digest(stream, "sha256").hexdigest()
    return found


def hardware() -> dict[str, Any]:
    """The machine: processor, cores that this process may use, memory, graphics cards. Never its name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": _processor(), "cores": cores, "memory_gib": _memory(), "gpus": _gpus(), "system": platform.system()}


def commit(folder: Path) -> str | None:
    """The commit of the workflow, if git tracks it there; "+" behind it says that tracked files were changed since."""
    if _output(["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name]) is None:
        return None
    head = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return head and head + ("+" if changed else "")


def _name(file: Path) -> str:
    path, here = file.absolute(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[dict[str, str]]:
    text = _output(["nvidia-smi", f"--query-gpu={','.join(GPU_FACTS)}", "--format=csv,noheader"])
    return [
        dict(zip(GPU_FACTS, (value.strip() for value in line.split(",")), strict=False))
        for line in (text or "").splitlines()
    ]


def _output(command: list[str]) -> str | None:
    """What a command prints; None where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    run(
        lambda job: manifest(list(job.input.raw), list(job.input.code), job.output.manifest, job.params.settings),
        snakemake,
    )
