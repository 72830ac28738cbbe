"""Faults of a trial beside its training: texts that cannot be tokenized are a result, and a full disk is none."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import micro
import models
import training_runs
import trial as stage
from snaketune.job import StageError
from snaketune.model.kept import room
from snaketune.tune import child
from test_tune_trial import IDENTITY, Trial

made = training_runs.made  # a fixture
BEST = "results/micro/tune/best.json"


def read(path: Path | str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_trial_that_cannot_be_tokenized_is_written_down_and_stops_no_other(workspace: Callable[[], Path]) -> None:
    """Of 8 tokens no answer has so few; what 48 tokens come to is what the rules make of them, for the best run."""
    folder = workspace()
    space = {"tokenize.max_length": [8, 48]}
    micro.write_config(folder, micro.CONFIG | {"tune": {"method": "grid", "space": space, "generation": 2}})
    micro.snakemake(folder, BEST)
    short, long = (read(folder / f"results/micro-trial-{number:03d}/trial.json") for number in range(2))
    assert (short["state"], short["values"]) == ("failed", {"tokenize.max_length": 8})
    assert short["reason"].startswith("no row of the train split is left; `tokenize.overlong_*` dropped them all at 8")
    assert (short["loss"], short["curve"], short["steps"]) == (None, [], 0)
    assert long["state"] == "complete"
    assert read(folder / BEST)["values"] == {"tokenize.max_length": 48}
    assert sorted(path.name for path in folder.glob("results/micro-trial-*/*")) == ["trial.json"] * 2
    said = micro.snakemake(folder, "results/micro-best/train/summary.json").stdout
    (trained,) = [line for line in said.splitlines() if line.startswith("micro-best  train")]
    assert "from the store" in trained, "the trial has trained on the same tokens"


@pytest.fixture
def given(made: dict[str, Any], tmp_path: Path) -> tuple[Trial, stage.Texts]:
    """A trial, and the texts of its tokens."""
    rows = {name: f"{made[name]}.parquet" for name in ("train", "validation")}
    return Trial(made, tmp_path), stage.Texts(rows, models.TOKENIZE)


def test_trials_that_tokenize_alike_do_it_once_and_as_the_rules_do(made, given) -> None:
    trial, texts = given
    order, found = stage._tokenized(replace(trial.order, tokens={}, manifests={}), texts)
    assert found is None
    for name, path in order.manifests.items():
        assert read(path)["sha256"] == models.manifest(made[name])["sha256"]
        assert Path(order.tokens[name], "state.json").exists()
    times = {path: path.stat().st_mtime_ns for path in Path(order.tokens["train"]).iterdir()}
    again, _ = stage._tokenized(replace(trial.order, run="demo-trial-004"), texts)
    assert (again.tokens, again.manifests) == (order.tokens, order.manifests)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    several, _ = stage._tokenized(trial.order, replace(texts, settings=texts.settings | {"shards": 2}))
    assert read(several.manifests["train"])["sha256"] == models.manifest(made["train"])["sha256"]
    shorter, _ = stage._tokenized(trial.order, replace(texts, settings=texts.settings | {"max_length": 12}))
    assert read(shorter.manifests["train"])["sha256"] != models.manifest(made["train"])["sha256"]


def test_whatever_a_tokenizer_does_is_a_result_and_the_next_trial_tries_anew(made, given, tmp_path: Path) -> None:
    trial, texts = given
    long = replace(texts, settings=texts.settings | {"max_length": models.POSITIONS + 1})
    said = stage.trial(trial.order, IDENTITY, str(trial.out), long)
    assert said.endswith("`tokenize.max_length` is 49, but the model has 48 positions")
    assert (trial.found["state"], trial.found["steps"]) == ("failed", 0)
    broken = replace(texts, settings={key: value for key, value in texts.settings.items() if key != "separator"})
    _, found = stage._tokenized(trial.order, broken)
    assert (found["state"], found["reason"]) == ("failed", "KeyError: 'separator'")
    assert stage._tokenized(trial.order, texts)[1] is None


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """A limit of the system on the size of files (bytes) stands for the end of the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_of_tokens_fails_the_job_and_is_no_result(given, tmp_path: Path) -> None:
    trial, texts = given
    many = models.split(models.pairs(20_000), tmp_path / "train.parquet")
    large = replace(texts, rows=texts.rows | {"train": many})
    with small_disk(500_000), pytest.raises(OSError, match="too large") as raised:
        stage.trial(trial.order, IDENTITY, str(trial.out), large)
    assert raised.value.errno == errno.EFBIG
    assert not trial.out.exists()


def test_a_disk_that_is_full_in_a_training_fails_the_job_and_is_no_result(given, tmp_path: Path) -> None:
    trial, _ = given
    plan = tmp_path / "plan"
    plan.mkdir()
    child._work(replace(trial.order, folder=str(plan)))  # what comes before the training has its room
    largest = max(path.stat().st_size for path in [*plan.iterdir(), *trial.folder.glob("store/*/*")])
    with small_disk(2 * largest), pytest.raises(StageError, match=r"File too large.*the same command goes on from"):
        trial()
    assert not trial.out.exists()
    trial()
    assert trial.found["state"] == "complete"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_the_last_words_of_a_process_that_could_not_write_its_result(number: int) -> None:
    words = [
        "Traceback (most recent call last):\n",
        f"OSError: [Errno {number}] {os.strerror(number)}: 'result.json'\n",
    ]
    with pytest.raises(StageError, match="the process ended with exit code 1; its last line: OSError"):
        stage._refuse_full(child.failed(stage._death(1, words)))
    stage._refuse_full(child.failed(stage._death(1, ["OSError: [Errno 5] Input/output error\n"])))
    stage._refuse_full({"state": "complete", "reason": None})


@pytest.mark.parametrize("need", [0, 1 << 60])
def test_the_words_of_a_training_that_finds_the_disk_full_are_known(tmp_path: Path, need: int) -> None:
    """The training looks before it writes, and says what it finds in a sentence."""
    with pytest.raises(StageError) as raised, room(tmp_path, "step 4", need):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StageError, match="Make room"):
        stage._refuse_full(child.failed(str(raised.value)))
