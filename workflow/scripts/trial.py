"""One configuration of a search: planned, checked and trained, and what came of it written down.

In:  tune/generation-<gg>.json (which values, and the bounds of pruning), the base model, tokens/{train,validation}/, or
     the rows of these splits where the trial tokenizes otherwise
Out: trial.json

    run, number, generation, values   which trial, and what it tries: {dotted key: value}
    state                             complete, pruned (its loss was above a bound) or failed
    loss, step                        the best validation loss (nats per token) and its step; null where it failed
    curve                             the validation loss at each evaluation, in order; that of the base is not in it
    steps, epochs, tokens             how far the training came
    reason                            why it failed, in a line; else null

A configuration that cannot be trained is a result like any other, and the job succeeds: the training runs in a process
of its own (snaketune/tune/child.py), so that one that crashes or is killed for its memory is written down as well.
Rows that cannot be tokenized are such a result, too, so a trial tokenizes them itself; trials that do it alike find
them in the store. The price: its GPU waits meanwhile, once for all trials that tokenize alike.

Two ends are no result: a signal to the job, which is passed on to that process, and a full disk. The job fails, and the
next call goes on from the checkpoint.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from snaketune.job import StageError, run, say
from snaketune.store import claim, fingerprint, publish
from snaketune.tune.child import SCRIPTS, TOLD_TO_STOP, Order, failed
from snaketune.work import STOPPED

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SPLITS = ("train", "validation")
LAST_LINES = 20  # lines of its standard error that are kept, to tell why a process crashed
# A disk or a quota that is full, in the words of the system, which libraries put into errors of their own, and in those
# of a training that looks before it writes (snaketune/model/kept.py).
FULL = (*map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), "the disk is too full")


@dataclass(frozen=True)
class Texts:
    """What a trial tokenizes itself."""

    rows: dict[str, str]  # the tables "train" and "validation"
    settings: dict[str, Any]  # of the stage tokens


def trial(order: Order, identity: dict[str, Any], out: str, texts: Texts | None = None) -> str:
    """Try a configuration; identity: number, generation and values; texts: where its tokens are not made yet.

    Raises StageError where a signal ended it, or a full disk.
    """
    found = None
    if texts:
        order, found = _tokenized(order, texts)
    if not found:
        with TemporaryDirectory(prefix="snaketune-trial-") as folder:
            found = _apart(order, Path(folder))
        _refuse_full(found)
    about = {"run": order.run} | identity | found
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    values = ", ".join(f"{key} {value}" for key, value in identity["values"].items())
    if found["state"] == "failed":
        return f"failed with {values}: {found['reason']}"
    end = f"{found['state']} after {found['steps']:,} steps with {values}"
    return f"validation loss {found['loss']:.4f} at step {found['step']:,}, {end}"


def _refuse_full(found: dict[str, Any]) -> None:
    """Raise StageError where the disk ended a trial: on another one it may come to something."""
    if (reason := found["reason"]) and any(words in reason for words in FULL):
        raise StageError(f"{reason}. Make room: the same command goes on from the last checkpoint, if there is one")


def _tokenized(order: Order, texts: Texts) -> tuple[Order, dict[str, Any] | None]:
    """The order with the tokens of its texts, from the store or made now; and its result, where they cannot be made.

    Raises OSError where the disk is at fault.
    """
    from snaketune.dag import code_of

    code = {path for script in ("encode.py", "gather.py") for path in code_of(SCRIPTS / script)}
    files = [*texts.rows.values(), *order.base_files, *map(str, code)]
    folder = Path(order.store) / f"tokens-{fingerprint({'settings': texts.settings}, files)}"
    try:
        with claim(folder, order.run):
            if not (folder / "done").exists():
                _tokenize(order, texts, folder / "part")
                publish(folder / "part", folder / "done")
    except OSError:  # of the disk; a tokenizer that cannot be read is a StageError
        raise
    except Exception as error:
        traceback.print_exc()
        return order, failed(str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}")
    made = {name: str(folder / "done" / name) for name in texts.rows}
    return replace(order, tokens=made, manifests={name: f"{path}.json" for name, path in made.items()}), None


def _tokenize(order: Order, texts: Texts, folder: Path) -> None:
    """Make <split>/ and <split>.json of each split, as the rules tokenize and tokens do."""
    from encode import encode
    from gather import gather

    shutil.rmtree(folder, ignore_errors=True)  # of a job that was cut off
    for name, rows in texts.rows.items():
        parts: dict[str, list[str]] = {"tokens": [], "about": [], "notes": []}
        for part in range(texts.settings["shards"]):
            names = (f"{name}/data-{part:05d}.arrow", f"{name}-{part:05d}.json", f"{name}-{part:05d}.notes.parquet")
            outputs = {use: str(folder / path) for use, path in zip(parts, names, strict=True)}
            print(encode(rows, order.base, outputs, texts.settings, part=part, threads=order.threads), flush=True)
            for use, path in outputs.items():
                parts[use].append(path)
        names = {"state": f"{name}/state.json", "info": f"{name}/dataset_info.json", "manifest": f"{name}.json"}
        outputs = {use: str(folder / path) for use, path in (names | {"notes": f"{name}.notes.parquet"}).items()}
        print(gather(parts["tokens"], parts["about"], parts["notes"], outputs), flush=True)


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
    # The tokens of another run, or none: then the rows of both splits are given, to tokenize them here.
    shared = dict(zip(SPLITS, job.input.states, strict=True)) if job.input.get("states") else {}
    texts = [] if shared else [Texts(dict(zip(SPLITS, job.input.rows, strict=True)), settings["tokens"])]
    order = Order(
        run=job.wildcards.run,
        settings={stage: settings[stage] for stage in ("plan", "preflight", "train")},
        bounds=generation["bounds"],
        tokens={name: str(Path(state).parent) for name, state in shared.items()},
        manifests={name: job.input[name] for name in shared},
        base=job.params.base,
        base_files=list(job.input.base),
        store=job.params.store,
        folder="",
        events=str(Path(job.log[0]).parent),
        gpus=job.resources.get("gpu", 0),
        threads=job.threads,
    )
    identity = {"number": number, "generation": settings["generation"], "values": values}
    return trial(order, identity, job.output.trial, *texts)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
