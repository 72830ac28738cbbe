"""Averages of the weights: their numbers against plain sums, and that they leave the training alone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from snaketune.model.averaging import Average

NONE = {"kind": "none", "decay": 0.9, "start": 0.5}
EMA = NONE | {"kind": "ema"}
SWA = NONE | {"kind": "swa"}


@pytest.fixture
def layer() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3)


def walk(layer: torch.nn.Module, steps: range) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Steps in which the weights move as their number says; gives a copy of them in double precision."""
    for step in steps:
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        yield step, [parameter.detach().double().clone() for parameter in layer.parameters()]


def inside(average: Average, layer: torch.nn.Module) -> list[torch.Tensor]:
    with average.swapped():
        return [parameter.detach().clone() for parameter in layer.parameters()]


def test_ema_is_the_recurrence_with_a_decay_that_warms_up(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), EMA, 40)
    expected = [parameter.detach().double().clone() for parameter in layer.parameters()]
    for step, weights in walk(layer, range(1, 41)):
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [decay * mean + (1 - decay) * weight for mean, weight in zip(expected, weights, strict=True)]
    for own, mean in zip(inside(average, layer), expected, strict=True):
        assert torch.allclose(own.double(), mean, atol=1e-5)


def test_ema_soon_forgets_the_weights_before_the_training(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), EMA | {"decay": 0.9999}, 60)
    with torch.no_grad():
        layer.weight.fill_(1000.0)
    average = Average(layer.parameters(), EMA | {"decay": 0.9999}, 60)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    for step in range(1, 61):
        average.update(step)
    assert inside(average, layer)[0].max() < 0.01  # with a decay of 0.9999 all along it would be 994


def test_swa_is_the_mean_of_the_weights_after_each_step_of_the_last_part(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), SWA | {"start": 0.75}, 40)
    seen = []
    for step, weights in walk(layer, range(1, 41)):
        average.update(step)
        assert average.active(step) == (step > 30)
        seen += [weights] if step > 30 else []
    for own, *weights in zip(inside(average, layer), *seen, strict=True):
        assert torch.allclose(own.double(), torch.stack(weights).mean(0), atol=1e-5)


def test_before_swa_begins_the_weights_stand_for_themselves(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), SWA, 40)
    average.update(20)
    assert not average.active(20)
    assert torch.equal(inside(average, layer)[0], layer.weight)
    average.update(21)
    assert average.active(21)


def test_swa_of_the_shortest_training_has_its_last_step(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), SWA | {"start": 0.999}, 2)
    assert [average.active(step) for step in (1, 2)] == [False, True]


@pytest.mark.parametrize("settings", [EMA, SWA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_come_back_bit_for_bit(
    layer: torch.nn.Module, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    layer.to(dtype)
    average = Average(layer.parameters(), settings, 4)
    for step, _ in walk(layer, range(1, 5)):
        average.update(step)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    identity = [id(parameter) for parameter in layer.parameters()]
    with average.swapped():
        assert not torch.equal(layer.weight, before[0])
    with pytest.raises(KeyError), average.swapped():
        raise KeyError  # an evaluation that fails
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), before, strict=True))
    assert [id(parameter) for parameter in layer.parameters()] == identity
    first, second = inside(average, layer), inside(average, layer)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_average_of_16_bit_weights_is_kept_in_32(layer: torch.nn.Module) -> None:
    layer.to(torch.bfloat16)
    average = Average(layer.parameters(), EMA | {"decay": 0.999}, 20_000)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for step in range(10_000, 13_000):  # each step moves the average by less than bf16 can tell
        average.update(step)
    assert (inside(average, layer)[0].float() - 1).abs().max() < 0.1


def test_none_averages_nothing(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), NONE, 10)
    for step, _ in walk(layer, range(1, 11)):
        average.update(step)
        assert not average.active(step)
    assert average.state_dict() == {"mean": []}
    assert torch.equal(inside(average, layer)[0], layer.weight)


@pytest.mark.parametrize("settings", [NONE, EMA, SWA])
@pytest.mark.parametrize("cut", [3, 7])
def test_a_resumed_average_goes_on_bit_for_bit(layer: torch.nn.Module, settings: dict[str, Any], cut: int) -> None:
    average = Average(layer.parameters(), settings, 10)
    for step, _ in walk(layer, range(1, 11)):
        average.update(step)
        if step == cut:
            saved = io.BytesIO()
            torch.save([average.state_dict(), layer.state_dict()], saved)
    again = torch.nn.Linear(5, 3)
    resumed = Average(again.parameters(), settings, 10)
    state, weights = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    for step, _ in walk(again, range(cut + 1, 11)):
        resumed.update(step)
    assert all(torch.equal(a, b) for a, b in zip(inside(resumed, again), inside(average, layer), strict=True))


def test_the_state_of_other_weights_is_refused(layer: torch.nn.Module) -> None:
    state = Average(torch.nn.Linear(4, 3).parameters(), EMA, 10).state_dict()
    with pytest.raises(ValueError, match="not one of these weights"):
        Average(layer.parameters(), EMA, 10).load_state_dict(state)


def test_swapped_weights_are_not_averaged_again(layer: torch.nn.Module) -> None:
    average = Average(layer.parameters(), EMA, 10)
    with average.swapped(), pytest.raises(RuntimeError, match="swapped"):
        average.update(1)


def test_sharded_weights_have_the_same_average(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_sharded, (str(tmp_path),), nprocs=2)
    for settings in (EMA, SWA):
        plain = _three_steps(torch.nn.Linear(5, 3), settings)
        for averaged in torch.load(tmp_path / f"{settings['kind']}.pt"):
            assert all(torch.equal(a, b) for a, b in zip(averaged, plain, strict=True))


def _three_steps(layer: torch.nn.Module, settings: dict[str, Any], cut: bool = False) -> list[torch.Tensor]:
    """What the average after three steps saves; cut: it is saved and loaded before the third."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    average = Average(layer.parameters(), settings, 4)
    for step in (1, 2, 3):
        if step == 3 and cut:
            state = average.state_dict()
            average = Average(layer.parameters(), settings, 4)
            average.load_state_dict(state)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(1.3).add_(0.1)
        average.update(step)
    return average.state_dict()["mean"]


def _sharded(rank: int, folder: str) -> None:
    """One of two processes that share the weights; saves averages, and what stands in the weights inside."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for settings in (EMA, SWA):
        means = [_three_steps(fully_shard(torch.nn.Linear(5, 3), mesh=mesh), settings, cut) for cut in (False, True)]
        if rank == 0:
            torch.save(means, f"{folder}/{settings['kind']}.pt")
    torch.distributed.destroy_process_group()
