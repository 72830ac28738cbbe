"""Checkpoints: what was saved comes back as it was, and no kill, damage or full disk shows in what a training makes."""

import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers.optimization import Adafactor

import models
from checkpoint_runs import fill, names, same, weights, writer
from snaketune.job import StageError
from snaketune.model import checkpoints
from snaketune.model.checkpoints import HistoryFile, best, keep_best, last, save

torch.set_num_threads(2)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=0.01, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.01),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
    "adafactor": lambda groups: Adafactor(groups, lr=0.01, relative_step=False, beta1=0.9),
}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the terminal shows."""
    lines: list[str] = []
    monkeypatch.setattr(checkpoints, "say", lines.append)
    return lines


def train_steps(model: Any, optimizer: Any, schedulers: list[Any], batches: list[torch.Tensor]) -> None:
    for ids in batches:
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        schedulers[0].step()
        schedulers[1].step(loss.item())
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_goes_on_from_a_checkpoint_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    def fresh() -> tuple[Any, Any, list[Any]]:
        model = models.build("gpt2", 40, 0, dropout=0.2).train()
        parameters = list(model.parameters())
        optimizer = OPTIMIZERS[name]([{"params": parameters[:3], "weight_decay": 0.1}, {"params": parameters[3:]}])
        rates = [LambdaLR(optimizer, lambda step: 1 / (1 + step)), ReduceLROnPlateau(optimizer, patience=0)]
        return model, optimizer, rates

    draw = torch.Generator().manual_seed(3)
    batches = [torch.randint(40, (2, 9), generator=draw) for _ in range(6)]
    model, optimizer, rates = fresh()
    torch.manual_seed(11)
    random.seed(12)
    train_steps(model, optimizer, rates, batches[:3])
    state = {
        "optimizer": optimizer.state_dict(),
        "schedulers": [rate.state_dict() for rate in rates],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
    }
    save(tmp_path / "c", 3, state, dict(model.named_parameters()))
    train_steps(model, optimizer, rates, batches[3:])
    drawn = random.random()

    again, optimizer, rates = fresh()
    found = last(tmp_path / "c")
    loaded, tensors = found.state(), found.tensors()
    for each, parameter in again.named_parameters():
        parameter.data.copy_(tensors[each])
    optimizer.load_state_dict(loaded["optimizer"])
    for rate, rate_state in zip(rates, loaded["schedulers"], strict=True):
        rate.load_state_dict(rate_state)
    torch.set_rng_state(loaded["torch"])
    random.setstate(loaded["python"])
    train_steps(again, optimizer, rates, batches[3:])
    assert same(model.state_dict(), again.state_dict())
    assert random.random() == drawn


def test_every_plain_value_comes_back_as_it_was_and_a_person_can_read_what_json_holds(tmp_path: Path) -> None:
    state = {
        "text": "ü",
        "none": None,
        "flag": True,
        "rate": 0.1,
        "list": [1, [2.5]],
        "names": {"a": 1},
        "pair": (1, (2, 3)),
        "keys": {0: "a", 1: {2: 3}},
        "worst": math.inf,
        "kind": torch.bfloat16,
        "tensor": {"deep": [torch.arange(3, dtype=torch.int16), torch.tensor(1.5, dtype=torch.bfloat16)]},
    }
    tensors = {"half": torch.ones(2, dtype=torch.bfloat16), "turned": torch.arange(6.0).view(2, 3).T}
    place = save(tmp_path / "c", 7, state | {"unknown": math.nan}, tensors)
    found = last(tmp_path / "c")
    loaded = found.state()
    deep = loaded.pop("tensor")["deep"]
    assert math.isnan(loaded.pop("unknown"))
    assert {name: (type(value), repr(value)) for name, value in loaded.items()} == {
        name: (type(value), repr(value)) for name, value in state.items() if name != "tensor"
    }
    assert all(
        torch.equal(one, other) and one.dtype == other.dtype
        for one, other in zip(deep, state["tensor"]["deep"], strict=True)
    )
    assert same(found.tensors(), tensors)
    assert (found.step, found.best, found.folder) == (7, None, place)
    readable = json.loads((place / "state.json").read_text())["state"]
    assert readable == found.facts == {name: state[name] for name in list(state)[:6]}


def test_a_state_on_the_cpu_stands_in_memory_and_one_for_a_gpu_on_the_mapped_file(tmp_path: Path) -> None:
    save(tmp_path / "c", 1, {"moments": torch.zeros(100_000)}, {})

    def mapped() -> bool:
        return str(tmp_path / "c") in Path("/proc/self/maps").read_text()

    for device, on_file in (("cpu", False), ("cuda", True)):
        state = last(tmp_path / "c").state(device)
        assert state["moments"].device.type == "cpu"
        assert mapped() is on_file
    del state
    assert not mapped()


class Evil:
    """Its pickle calls a function when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


def test_reading_runs_no_code_of_a_file_and_what_would_need_it_cannot_be_saved(tmp_path: Path) -> None:
    save(tmp_path / "c", 1, {}, weights(1))
    with pytest.raises(TypeError, match=r"^moments: tensors and plain values can be kept, and not numpy"):
        save(tmp_path / "c", 2, {"moments": np.zeros(3)}, weights(2))
    found = last(tmp_path / "c")
    assert found.step == 1
    torch.save({"x": Evil()}, found.folder / "optimizer.pt")
    with pytest.raises(pickle.UnpicklingError):
        found.state()


def test_only_the_newest_checkpoint_and_the_best_model_that_it_names_stay(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    keep_best(folder, writer(1), {"step": 1})
    save(folder, 1, {"best_step": 1}, weights(1))
    save(folder, 2, {"best_step": 1}, weights(2))
    assert names(folder) == ["best-00000001", "step-00000002"]
    keep_best(folder, writer(3), {"step": 3})
    keep_best(folder, writer(4), {"step": 4})
    assert names(folder) == ["best-00000001", "best-00000004", "step-00000002"], "the checkpoint still needs the first"
    assert best(folder).step == 4
    save(folder, 4, {"best_step": 4}, weights(4))
    assert names(folder) == ["best-00000004", "step-00000004"]
    with pytest.raises(ValueError, match="no best model of step 5"):
        save(folder, 5, {"best_step": 5}, weights(5))
    assert last(folder).best.step == 4


def test_a_step_that_is_kept_twice_is_there_at_every_instant_and_the_second_counts(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for ended in (False, True, "again"):
        keep_best(folder, writer(2), {"step": 2, "ended": ended})
        save(folder, 2, {"best_step": 2, "ended": ended}, weights(2))
        found = last(folder)
        assert (found.facts["ended"], found.best.facts["ended"]) == (ended, ended)
        assert len(names(folder)) == 2
    assert last(tmp_path / "nowhere") is best(tmp_path / "nowhere") is None


def test_a_best_model_newer_than_the_checkpoint_is_dropped_and_the_one_before_it_is_back(tmp_path: Path) -> None:
    folder = fill(tmp_path / "c", 4, best_step=2)
    keep_best(folder, writer(6), {"step": 6, "loss": 0.1})
    (folder / "best-00000008.part").mkdir()
    (folder / ".trash-step-00000002-0a").mkdir()
    assert best(folder).step == 6
    found = last(folder)
    assert (found.step, found.best.step, found.best.facts) == (4, 2, {"step": 2, "loss": 1.5})
    assert best(folder) == found.best
    assert same(load_file(found.best.folder / "model/model.safetensors"), weights(2))
    assert names(folder) == ["best-00000002", "step-00000004"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "not as it was written": flip,
    "not as it was written|cut off": lambda path: os.truncate(path, path.stat().st_size - 20),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["learnt.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_taken(tmp_path, said, file, damage) -> None:
    folder = fill(tmp_path / "c", 2, 4, best_step=1)
    DAMAGES[damage](folder / "step-00000004" / file)
    found = last(folder)
    assert same(found.tensors(), weights(2))
    assert torch.equal(found.state()["moments"][0], torch.full((2, 3), 2.0))
    (line,) = said
    assert line.startswith(f"  {folder}/step-00000004 cannot be gone on from: step-00000004/{file} is ")
    assert any(words in line for words in damage.split("|"))
    assert names(folder) == ["best-00000001", "step-00000002"]


def test_a_checkpoint_whose_best_model_is_damaged_would_end_with_another_model_and_is_not_used(tmp_path, said) -> None:
    folder = fill(tmp_path / "c", 2, 4, best_step=1)
    flip(folder / "best-00000001/model/model.safetensors")
    assert best(folder) is None
    assert last(folder) is None
    assert len(said) == 3
    assert said[1].endswith("best-00000001/model/model.safetensors is not as it was written")
    assert names(folder) == []
    folder = fill(tmp_path / "d", 2, best_step=1)
    shutil.rmtree(folder / "best-00000001")
    assert last(folder) is None
    assert said[-1].endswith("the best model that it names, of step 1, is missing")


def test_a_history_is_cut_back_to_what_the_checkpoint_knew(tmp_path: Path) -> None:
    history = HistoryFile(tmp_path / "history.jsonl")
    assert history.bytes == 0
    history.cut(0)
    history.append([{"step": 1, "loss": 0.5}, {"step": 2, "text": "ü"}])
    known = history.bytes
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # a kill in the middle of a line
    again = HistoryFile(tmp_path / "history.jsonl")
    again.cut(known)
    again.append([])
    again.append([{"step": 3}])
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert again.bytes == sum(len(line) + 1 for line in lines)
    with pytest.raises(StageError, match=r"history.jsonl has \d+ bytes, and its training's checkpoint knows of 1,000"):
        again.cut(1000)
    again.cut(0)
    assert again.bytes == 0


def test_what_a_checkpoint_records_of_a_history_is_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    history = HistoryFile(tmp_path / "history.jsonl")
    history.append([{"step": 1}])
    synced = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", recorded)
    assert history.bytes == 12
    assert synced == [str(tmp_path / "history.jsonl"), str(tmp_path)]
