"""What every script does around its stage: what libraries print goes to the rule's log, and a person sees one line.

A script ends with

    if __name__ == "__main__":
        run(lambda job: clean(job.input.rows, job.output.rows, job.params.settings), snakemake)

The stage is an ordinary function from files to files; it returns the sentence that the terminal shows. What it may
tell a user to mend is raised as a StageError: that sentence is shown, the traceback stays in the log.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, TextIO

from snaketune.kernels import forget_stale

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DISABLE_TELEMETRY": "YES",
}


class _Terminal:
    """Where a person looks; `run` points it past the log. None: standard error, whatever that is by then."""

    stream: TextIO | None = None


class StageError(Exception):
    """A fault that the user can mend: what was wrong, where, and what to do."""


def say(line: str, end: str = "\n") -> None:
    """Show a line to the person at the terminal, past the log."""
    stream = _Terminal.stream or sys.stderr
    stream.write(line + end)
    stream.flush()


def speak_through(stream: TextIO) -> None:
    """Let `say` write to another stream: in a process that the job has started, to the job that passes it on."""
    _Terminal.stream = stream


def interactive() -> bool:
    """Whether a person looks at a terminal that can redraw its last line."""
    return (_Terminal.stream or sys.stderr).isatty()


def run(stage: Callable[[Any], str], job: Any, *, light: bool = False) -> None:
    """Run one stage of a Snakemake job: log, progress line, and failures in words. Exits with 1 on failure.

    light: a stage without pandas and torch, which starts and ends sooner for it.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    log = Path(job.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    _Terminal.stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if light:
        _arrow_without_pandas()
    forget_stale()
    label = f"{job.wildcards.get('run', '')}  {job.rule:<12}"
    started = time.perf_counter()
    try:
        summary = stage(job)
    except StageError as error:
        print(error, file=sys.stderr, flush=True)
        say(f"{label} failed: {error}\n  log: {log}")
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        say(f"{label} failed: {type(error).__name__}: {error}\n  log: {log}")
        sys.exit(1)
    print(f"{summary}\n{_cost()}", flush=True)
    say(f"{label} {summary}  [{time.perf_counter() - started:.1f} s]")
    if light:
        os._exit(0)  # all is written and closed; taking the interpreter apart takes 0.3 s


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("not asked for", name=fullname)


def _arrow_without_pandas() -> None:
    """Arrow imports pandas, at 0.4 s a job, to see whether it is given anything of it; it tries once."""
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow

        pyarrow.array([""])
    finally:
        sys.meta_path.remove(finder)


def _cost() -> str:
    """What the whole process took so far, by the operating system's own account; a line for the log."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere
    return f"processor time {used.ru_utime + used.ru_stime:.2f} s, peak memory {peak / 1e6:.0f} MB"
