"""One trial in a process of its own: the plan, the preflight and the training of one configuration.

    python -m snaketune.tune.child order.json result.json

It is a process of its own because a configuration may end it: where the memory is full, the system kills it, and the
search goes on. What a trial comes to is a function of its configuration, as in a run; the training stands in the store
under the fingerprint that a run has, so a search that was cut off goes on, and the best run finds its model there.

The job that waits needs `Order` alone: nothing heavy is imported before the work.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snaketune.job import StageError, speak_through
from snaketune.work import StoppedError, Work

TOLD_TO_STOP = 75  # exit code (EX_TEMPFAIL of sysexits.h): a signal came, and the same order goes on
MOST_SAID = 1000  # characters of a reason
SCRIPTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Order:
    """A trial: what it reads and where it stands."""

    run: str
    settings: dict[str, dict[str, Any]]  # of the stages plan, preflight and train
    bounds: list[float | None]  # the largest validation loss at each evaluation with which it goes on
    tokens: dict[str, str]  # the folders "train" and "validation"
    manifests: dict[str, str]  # of the same
    base: str  # the folder of the base model
    base_files: list[str]
    store: str
    folder: str  # for the plan, which no other trial reads
    events: str  # the folder of the logs
    gpus: int
    threads: int


def tried(order: Order) -> dict[str, Any]:
    """Train the configuration, or take it from the store; what came of it, as trial.json has it.

    A configuration that cannot be trained is a result, too. Raises StoppedError where a signal ended the training.
    """
    from train import trained

    work = None
    try:
        work = _work(order)
        with trained(work) as (done, _):
            summary, history = _read(done / "summary.json"), _lines(done / "history.jsonl")
    except StoppedError:
        raise
    except StageError as error:
        print(error, file=sys.stderr, flush=True)
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    else:
        state = "pruned" if summary["stopped"] == "pruned" else "complete"
        best = {"loss": summary["best_eval_loss"], "step": summary["best_step"], "reason": None}
        return {"state": state} | best | course(history)
    named = reason.replace(f"{order.folder}{os.sep}", "")  # its name is drawn anew each time
    return failed(named, _lines(Path(work.folder) / "history.jsonl") if work else ())


def failed(reason: str, history: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The result of a trial that found no model: why, in a line."""
    said = " ".join(reason.split())[:MOST_SAID]
    return {"state": "failed", "loss": None, "step": None, "reason": said} | course(history)


def course(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How far a training came: its validation losses (nats) in order, without that of the base, and its amounts."""
    steps = [line for line in history if "loss" in line]
    return {
        "curve": [line["eval_loss"] for line in history if "eval_loss" in line and line["step"]],
        "steps": len(steps),
        "epochs": steps[-1]["epoch"] if steps else 0,
        "tokens": sum(line["tokens"] for line in steps),
    }


def _work(order: Order) -> Work:
    """Plan and check the training."""
    from plan import plan
    from snaketune.dag import code_of
    from snaketune.reuse import reused
    from train import folder_of

    folder, settings = Path(order.folder), order.settings
    ways, about, found = (str(folder / name) for name in ("plan.arrow", "plan.json", "preflight.json"))
    print(plan(order.tokens, order.manifests, ways, about, settings["plan"]), flush=True)
    hashes = {name: _read(path)["sha256"] for name, path in order.manifests.items()}

    def check(out: str) -> str:
        from preflight import preflight  # torch

        read = (order.tokens["train"], ways, about, order.base)
        return preflight(*read, out, settings["preflight"], gpus=order.gpus, threads=order.threads)

    parts = {"settings": settings["preflight"], "tokens": hashes, "gpus": order.gpus}
    files = [*order.base_files, ways, *map(str, code_of(SCRIPTS / "preflight.py"))]
    # Many trials differ in what the preflight does not read, such as the learning rate: it is done once for them.
    print(reused("preflight", parts, files, found, check, run=order.run, store=Path(order.store)), flush=True)
    how = _read(found)["how"]
    learning = settings["train"] | ({"bounds": order.bounds} if order.bounds else {})
    files = [*order.base_files, ways, *map(str, code_of(SCRIPTS / "train.py"))]
    return Work(
        run=order.run,
        tokens=order.tokens,
        plan=ways,
        base=order.base,
        folder=str(folder_of(order.store, learning, hashes, how, files)),
        events=order.events,
        settings=learning,
        how=how,
        facts={"plan": _read(about), "preflight": _read(found)},
        gpus=order.gpus,
        threads=order.threads,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _read(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def main(order: str, result: str) -> None:
    """Do what an order says. What the trial says to a person goes to standard output, all else to standard error."""
    speak_through(os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace"))
    os.dup2(2, 1)
    try:
        found = tried(Order(**_read(order)))
    except StoppedError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(TOLD_TO_STOP)
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
