"""The numbers of a training for a tracker: TensorBoard, Weights & Biases, MLflow, Trackio.

Trackers look on and decide nothing. One that cannot be started stops the training before it begins; one that fails
later is reported once and left out from then on, whatever its error is: four libraries over a network share no class
of errors, and no chart is worth the hours of a training. Each gets the numbers of a step, the settings of the section
`train`, and nothing of the environment: no host, no command line, no packages, no commit, no output of the process.

A resumed training repeats the steps since its checkpoint. TensorBoard is told to forget them (purge_step). The others
cannot be, so a bookmark beside the logs says how far each has got; it is moved before numbers are sent, so that a crash
between the two loses a few numbers of a chart and doubles none. That the repeated steps have the same numbers is what
the training promises.

The classes of accelerate.tracking are not used: they need PartialState(), which opens a process group where
torchrun's variables are set and there is none yet, and takes every process of a gloo group for the main one.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from snaketune.job import StageError, say

PROJECT = "snaketune"
EVERY = 5.0  # seconds between two deliveries, so that no step waits for a server


@dataclass(frozen=True)
class Entry:
    """Numbers of one kind ("train", "validation", "speed") at one step; `at` is the time of day in seconds."""

    kind: str
    step: int
    values: dict[str, float]
    at: float

    @property
    def named(self) -> dict[str, float]:
        return {f"{self.kind}/{name}": value for name, value in self.values.items()}


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a training. `id` is another one for each training, the same after a resume."""

    name: str
    id: str
    folder: Path
    settings: dict[str, Any]
    resumed_at: int


class Trackers:
    """The trackers of a training. Made by the one process that speaks to the user.

    names: of `train.trackers`; folder: where event files, local databases and the bookmark go; run: its name for
    people; identity: the fingerprint of the training; resumed_at: the step of the checkpoint that it goes on from, 0
    for none. Raises StageError for a tracker that is not installed or cannot be started.
    """

    def __init__(
        self,
        names: list[str],
        folder: str | Path,
        run: str,
        settings: Mapping[str, Any],
        identity: str,
        *,
        resumed_at: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.clock, self.delivered = Path(folder), clock, clock()
        self.waiting: list[Entry] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        found = _read(self.folder / "trackers.json") if resumed_at else {}
        same = found.get("identity") == identity
        ident = found["id"] if same else f"{run}-{uuid4().hex[:8]}"
        self.sent: dict[str, dict[str, int]] = {name: found["sent"].get(name, {}) if same else {} for name in names}
        self.bookmark = {"identity": identity, "id": ident, "sent": self.sent}
        self.already = {name: dict(steps) for name, steps in self.sent.items()}
        facts = Run(run, ident, self.folder, _flat(settings), resumed_at)
        self.trackers: dict[str, Any] = {}
        for name in names:
            try:
                self.trackers[name] = STARTED[name](facts)
            except ModuleNotFoundError as error:
                raise StageError(
                    f"`train.trackers` names {name}, which is not installed: `pip install {name}`, "
                    "or remove it from `train.trackers`"
                ) from error
            except Exception as error:
                raise StageError(
                    f"the tracker {name} could not be started ({_safe(error)}): mend it, or remove it from "
                    "`train.trackers`"
                ) from error

    def log(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """Take in the numbers of a step; `kind` becomes their group, as in train/loss. None is left out."""
        numbers = {name: value for name, value in values.items() if value is not None}
        self.waiting.append(Entry(kind, step, numbers, time.time()))
        if self.clock() - self.delivered >= EVERY:
            self.deliver()

    def deliver(self) -> None:
        """Send what waits."""
        waiting, self.waiting, self.delivered = self.waiting, [], self.clock()
        for name, tracker in list(self.trackers.items()):
            already = {} if name == "tensorboard" else self.already[name]
            entries = [entry for entry in waiting if entry.step > already.get(entry.kind, -1)]
            if not entries:
                continue
            self._try(name, partial(self._send, name, tracker, entries))

    def close(self) -> None:
        """Send the rest and end the runs of all trackers."""
        self.deliver()
        for name, tracker in list(self.trackers.items()):
            self._try(name, tracker.close)
        self.trackers = {}

    def _send(self, name: str, tracker: Any, entries: list[Entry]) -> None:
        self.sent[name] |= {entry.kind: entry.step for entry in entries}
        _write(self.folder / "trackers.json", self.bookmark)
        tracker.send(entries)

    def _try(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # see above: whatever it is, the training goes on
            del self.trackers[name]
            print(_safe(traceback.format_exc()), file=sys.stderr)
            say(f"  the tracker {name} failed and gets nothing more ({_safe(error)}); the training goes on")


class _TensorBoard:
    """Event files in <folder>/tensorboard; those of another training there are removed."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder, suffix = run.folder / "tensorboard", f".{run.id}"
        for old in folder.glob("events.out.tfevents.*"):
            if not (run.resumed_at and old.name.endswith(suffix)):
                old.unlink()
        purged = run.resumed_at + 1 if run.resumed_at else None
        self.writer = SummaryWriter(str(folder), purge_step=purged, filename_suffix=suffix)
        if not run.resumed_at:
            table = "".join(f"| {name} | {value} |\n" for name, value in run.settings.items())
            self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{table}", 0)

    def send(self, entries: list[Entry]) -> None:
        for entry in entries:
            for name, value in entry.named.items():
                self.writer.add_scalar(name, value, entry.step, walltime=entry.at)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in <folder>/wandb."""

    def __init__(self, run: Run) -> None:
        import wandb

        quiet: dict[str, Any] = {"console": "off", "disable_git": True, "disable_code": True, "save_code": False}
        quiet |= {f"x_disable_{name}": True for name in ("meta", "machine_info", "stats")}
        quiet |= {"x_save_requirements": False, "host": ""}
        known = {name: value for name, value in quiet.items() if name in wandb.Settings.model_fields}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=run.settings,
            settings=wandb.Settings(**known),
        )

    def send(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.run.log(entry.named, step=entry.step)

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or else in <folder>/mlflow.db."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a dead server may not hold up the steps for
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # the many minutes that are MLflow's own default
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        where = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.folder.resolve()}/mlflow.db")
        # The client, not mlflow.start_run: that would add user, script and commit.
        self.client = MlflowClient(tracking_uri=where)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        found = self.client.search_runs([number], filter_string=f"tags.training = '{run.id}'", max_results=1)
        if found:
            self.run = found[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
        else:
            self.run = self.client.create_run(number, run_name=run.name, tags={"training": run.id}).info.run_id
            self.client.log_batch(self.run, params=[Param(key, str(value)) for key, value in run.settings.items()])

    def send(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(k, v, int(e.at * 1000), e.step) for e in entries for k, v in e.named.items()]
        for start in range(0, len(metrics), 1000):  # the most that the server takes at once
            self.client.log_batch(self.run, metrics=metrics[start : start + 1000])

    def close(self) -> None:
        self.client.set_terminated(self.run)


class _Trackio:
    """A run of Trackio, in TRACKIO_DIR or Trackio's own folder."""

    def __init__(self, run: Run) -> None:
        import trackio

        options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        known = inspect.signature(trackio.init).parameters
        self.trackio = trackio
        trackio.init(
            project=PROJECT,
            name=run.id,
            config=run.settings,
            resume="allow",
            **{name: value for name, value in options.items() if name in known},
        )

    def send(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.trackio.log(entry.named, step=entry.step)

    def close(self) -> None:
        self.trackio.finish()


STARTED: dict[str, Callable[[Run], Any]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"lora": {"rank": 8}} as {"lora.rank": 8}; lists as JSON, because trackers take plain values only."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def _safe(text: object) -> str:
    """An error without the user and password that an address in it may have."""
    return re.sub(r"//[^/@\s]+@", "//\u2026@", str(text))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
