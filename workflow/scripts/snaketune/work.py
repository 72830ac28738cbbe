"""What a training needs to know, as it travels from the job to the processes that train. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snaketune.job import StageError

KINDS = ("history", "speed", "samples")  # the files of a training's course
FAILURE = "failure.txt"  # in the store: why the processes ended, in a sentence for the user
STOPPED = "stopped by a signal"  # how the sentence of such an end begins


class StoppedError(StageError):
    """A training that was told to end, and kept a checkpoint: no fault of what it trained."""


@dataclass(frozen=True)
class Work:
    """A training: what it reads, where it stands, how it is computed."""

    run: str
    tokens: dict[str, str]  # the folders "train" and "validation"
    plan: str
    base: str
    folder: str  # the store of this training
    events: str  # the folder of the logs; TensorBoard's files go to a folder in it
    settings: dict[str, Any]
    how: dict[str, Any]  # what the preflight chose: the fields of model.loop.How
    facts: dict[str, Any]  # what plan and preflight found, for the summary
    gpus: int
    threads: int
