"""The learning rate of every step: transformers' numbers, from the step alone."""

import json
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from snaketune.job import StageError
from snaketune.model.schedules import Schedule, warmup_steps

PLATEAU = {"factor": 0.5, "patience": 1, "threshold": 1e-4}
SETTINGS: dict[str, Any] = {
    "scheduler": "linear",
    "warmup": 0.1,
    "min_learning_rate": 0.0,
    "decay": 0.2,
    "power": 1.0,
    "plateau": PLATEAU,
}
NAMES = ["linear", "cosine", "constant", "polynomial", "inverse_sqrt", "warmup_stable_decay", "reduce_on_plateau"]
PEAK = 3e-4


def optimizer_of(*rates: float) -> torch.optim.Optimizer:
    """One group for each learning rate."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates or (PEAK,)]
    return torch.optim.SGD(groups)


def schedule_of(steps: int, optimizer: torch.optim.Optimizer | None = None, **settings: Any) -> Schedule:
    return Schedule(optimizer or optimizer_of(), SETTINGS | settings, steps)


def course(schedule: Schedule, first: int, last: int) -> list[float]:
    """The learning rates of some steps, both ends included."""
    rates = []
    for step in range(first, last + 1):
        schedule.before_step(step)
        rates.append(schedule.rate)
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 7, 0.1, 0.33])
@pytest.mark.parametrize(
    ("name", "own", "theirs"),
    [
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("constant", {}, {}),
        ("polynomial", {"power": 2.5}, {"power": 2.5, "lr_end": 0.0}),
        ("inverse_sqrt", {}, {}),
        ("warmup_stable_decay", {"decay": 0.25}, {"num_decay_steps": 10}),
    ],
)
def test_every_step_has_the_rate_that_transformers_gives_it(
    name: str, own: dict[str, Any], theirs: dict[str, Any], warmup: float
) -> None:
    reference_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=PEAK)
    hf_name = "constant_with_warmup" if name == "constant" else name
    steps = {0: 0, 1: 1, 7: 7, 0.1: 4, 0.33: 14}[warmup]  # of 40: rounded up
    reference = get_scheduler(hf_name, reference_optimizer, steps, 40, theirs)
    expected = []
    for _ in range(40):
        expected.append(reference_optimizer.param_groups[0]["lr"])
        reference_optimizer.step()
        reference.step()
    assert course(schedule_of(40, scheduler=name, warmup=warmup, **own), 1, 40) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_of_a_warm_up_does_nothing_and_the_step_after_it_has_the_peak(name: str) -> None:
    rates = course(schedule_of(100, scheduler=name, warmup=10), 1, 11)
    assert rates == pytest.approx([PEAK * number / 10 for number in range(11)])


@pytest.mark.parametrize("name", NAMES)
def test_without_a_warm_up_the_first_step_has_the_peak(name: str) -> None:
    assert course(schedule_of(100, scheduler=name, warmup=0), 1, 1) == [pytest.approx(PEAK)]


@pytest.mark.parametrize(
    ("name", "half"),
    # half way through the decay: the mean of the peak and the floor, but for polynomial: 0.1 + 0.9 / 4
    [("linear", 0.55), ("cosine", 0.55), ("polynomial", 0.325), ("warmup_stable_decay", 0.55)],
)
def test_a_course_ends_at_the_least_rate(name: str, half: float) -> None:
    schedule = schedule_of(100, scheduler=name, warmup=20, min_learning_rate=0.1, power=2, decay=0.8)
    assert schedule.factor(61) == pytest.approx(half)
    assert schedule.factor(101) == pytest.approx(0.1)
    assert schedule.factor(2) == pytest.approx(1 / 20)  # a warm-up begins at 0 all the same


def test_inverse_sqrt_does_not_fall_below_the_least_rate() -> None:
    schedule = schedule_of(1000, scheduler="inverse_sqrt", warmup=10, min_learning_rate=0.2)
    assert schedule.factor(41) == pytest.approx((10 / 40) ** 0.5)
    assert schedule.factor(900) == pytest.approx(0.2)


def test_each_group_keeps_its_own_peak() -> None:
    optimizer = optimizer_of(1e-3, 1e-5)
    schedule_of(100, optimizer, warmup=0).before_step(51)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-6])


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    optimizer = optimizer_of()
    held = torch.tensor(PEAK)
    optimizer.param_groups[0]["lr"] = held
    schedule_of(100, optimizer, warmup=0).before_step(51)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == pytest.approx(PEAK / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_course_is_the_same_without_a_replay(name: str) -> None:
    losses = {20: 3.0, 30: 3.1, 40: 3.2, 60: 3.3, 80: 3.4}  # a plateau is found at step 40, and at 80
    whole = schedule_of(100, scheduler=name)
    expected: list[float] = []
    for step in range(1, 101):
        expected += course(whole, step, step)
        if step in losses:
            whole.evaluated(losses[step])
        if step == 50:
            state = json.loads(json.dumps(whole.state_dict()))
            saved = whole._optimizer.state_dict()  # it carries the rate of step 50
    optimizer = optimizer_of()
    optimizer.load_state_dict(saved)
    resumed = schedule_of(100, optimizer, scheduler=name)
    resumed.load_state_dict(state)
    rest: list[float] = []
    for step in range(51, 101):
        rest += course(resumed, step, step)
        if step in losses:
            resumed.evaluated(losses[step])
    assert rest == expected[50:]


def test_a_plateau_halves_the_rate_after_more_than_its_patience() -> None:
    schedule = schedule_of(1000, scheduler="reduce_on_plateau", warmup=0)
    rates = []
    for step, loss in enumerate([3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 1.0], start=1):
        schedule.before_step(step)
        rates.append(schedule.rate / PEAK)
        schedule.evaluated(loss)
    assert rates == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.25])  # 2.1 and 2.2 are two in a row


def test_a_plateau_reduces_even_a_tiny_rate_and_stops_at_the_least() -> None:
    schedule = schedule_of(
        1000, optimizer_of(1e-8), scheduler="reduce_on_plateau", warmup=0, min_learning_rate=0.3, plateau=PLATEAU
    )
    for _ in range(20):
        schedule.evaluated(2.0)
    schedule.before_step(5)
    assert schedule.rate == pytest.approx(0.3e-8)


def test_the_warm_up_lies_over_the_plateau() -> None:
    schedule = schedule_of(1000, scheduler="reduce_on_plateau", warmup=10)
    assert course(schedule, 6, 6) == [pytest.approx(PEAK / 2)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_training_has_a_course(name: str, steps: int) -> None:
    assert len(course(schedule_of(steps, scheduler=name), 1, steps)) == steps


def test_shares_that_fill_the_training_fit_in_spite_of_rounding() -> None:
    schedule = schedule_of(7, scheduler="warmup_stable_decay", warmup=0.5, decay=0.5)
    assert [schedule.factor(step) for step in (1, 5, 8)] == pytest.approx([0, 1, 0])


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(StageError, match=r"`train\.warmup` is 200 steps, and the training has 100"):
        schedule_of(100, warmup=200)
    with pytest.raises(StageError, match=r"`train\.warmup` .* and `train\.decay`"):
        schedule_of(100, scheduler="warmup_stable_decay", warmup=50, decay=0.6)


def test_a_warm_up_below_one_is_a_share_rounded_up() -> None:
    assert [warmup_steps(share, 30) for share in (0, 0.05, 0.5, 1, 3.0)] == [0, 2, 15, 1, 3]
