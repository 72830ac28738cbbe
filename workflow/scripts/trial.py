"""One configuration of a search: planned, checked and trained, and what came of it written down.

In:  tune/generation-<gg>.json (which values, and the bounds of pruning), tokens/{train,validation}/, the base model
Out: trial.json

    run, number, generation, values   which trial, and what it tries: {dotted key: value}
    state                             complete, pruned (its loss was above a bound) or failed
    loss, step                        the best validation loss (nats per token) and its step; null where it failed
    curve                             the validation loss at each evaluation, in order; that of the base is not in it
    steps, epochs, tokens             how far the training came
    reason                            why it failed, in a line; else null

A configuration that cannot be trained is a result like any other, and the job succeeds: the training runs in a process
of its own (snaketune/tune/child.py), so that one that crashes or is killed for its memory is written down as well. A
signal to the job is no result: it is passed on to that process, the job fails, and the next call goes on from the
checkpoint.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from snaketune.job import StageError, run, say
from snaketune.tune.child import SCRIPTS, TOLD_TO_STOP, Order, failed
from snaketune.work import STOPPED

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAST_LINES = 20  # lines of its standard error that are kept, to tell why a process crashed


def trial(order: Order, identity: dict[str, Any], out: str) -> str:
    """Try a configuration; identity: number, generation and values. Raises StageError where a signal ended it."""
    with TemporaryDirectory(prefix="snaketune-trial-") as folder:
        found = _apart(order, Path(folder))
    about = {"run": order.run} | identity | found
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    values = ", ".join(f"{key} {value}" for key, value in identity["values"].items())
    if found["state"] == "failed":
        return f"failed with {values}: {found['reason']}"
    end = f"{found['state']} after {found['steps']:,} steps with {values}"
    return f"validation loss {found['loss']:.4f} at step {found['step']:,}, {end}"


def _apart(order: Order, folder: Path) -> dict[str, Any]:
    """Have a process of its own follow the order; what it found, or how it ended."""
    paths = {name: folder / f"{name}.json" for name in ("order", "result")}
    paths["order"].write_text(json.dumps(asdict(order) | {"folder": str(folder)}), encoding="utf-8")
    # -P: no file of the user's folder stands for a module. A session of its own: the signals of a terminal go to this
    # job alone, which passes them on once.
    command = [sys.executable, "-P", "-m", "snaketune.tune.child", *map(str, paths.values())]
    known = os.getenv("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(SCRIPTS), known]))}
    words: deque[str] = deque(maxlen=LAST_LINES)
    with _signals() as told:
        child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        told.to(child)
        log = threading.Thread(target=_pass_on, args=(child, words))
        log.start()
        for line in child.stdout:  # what it says to the person at the terminal
            say(line, end="")
        code = child.wait()
        log.join()  # and so for the processes that it had started, which end with it
    found = json.loads(paths["result"].read_text(encoding="utf-8")) if code == 0 else None
    if found and not (told.heard and found["state"] == "failed"):
        return found
    if told.heard or code == TOLD_TO_STOP or -code in ENDING:
        raise StageError(f"{STOPPED}; the same command goes on from the last checkpoint, if there is one")
    return failed(_death(code, list(words)))


class _Told:
    """What signals have come, and the process that they are passed on to."""

    def __init__(self) -> None:
        self.heard = False
        self._child: subprocess.Popen[str] | None = None

    def to(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        if self.heard:
            child.terminate()

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        if self._child:
            self._child.terminate()


@contextmanager
def _signals() -> Iterator[_Told]:
    """Signals that end a job are passed on inside."""
    told = _Told()
    before = {number: signal.signal(number, told.hear) for number in ENDING}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(child: Any, words: deque[str]) -> None:
    """Copy the standard error of a process to this one's, and keep its last lines."""
    for line in child.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        words.append(line)


def _death(code: int, words: list[str]) -> str:
    """How a process ended that had no time to say so itself."""
    if code == -signal.SIGKILL:
        end = f"the process was killed by SIGKILL (exit code {code}), as a system does whose memory is full"
    elif code < 0:
        end = f"the process was ended by {signal.Signals(-code).name} (exit code {code})"
    else:
        end = f"the process ended with exit code {code}"
    last = next((line.strip() for line in reversed(words) if line.strip()), "")
    return f"{end}; its last line: {last}" if last else end


def _from_job(job: Any) -> str:
    settings = job.params.settings
    generation = json.loads(Path(job.input.generation).read_text(encoding="utf-8"))
    number = settings["number"]
    values = next(tried["values"] for tried in generation["trials"] if tried["number"] == number)
    splits = ("train", "validation")
    order = Order(
        run=job.wildcards.run,
        settings={stage: settings[stage] for stage in ("plan", "preflight", "train")},
        bounds=generation["bounds"],
        tokens={name: str(Path(state).parent) for name, state in zip(splits, job.input.states, strict=True)},
        manifests={name: job.input[name] for name in splits},
        base=job.params.base,
        base_files=list(job.input.base),
        store=job.params.store,
        folder="",
        events=str(Path(job.log[0]).parent),
        gpus=job.resources.get("gpu", 0),
        threads=job.threads,
    )
    identity = {"number": number, "generation": settings["generation"], "values": values}
    return trial(order, identity, job.output.trial)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
