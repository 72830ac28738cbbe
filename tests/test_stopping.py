"""When a training ends early: patience, numbers that are not finite, and divergence, which noise must not pass for."""

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import models
from snaketune.job import StageError
from snaketune.model.stopping import EarlyStopping, Guard

# Patience


def patient(losses: Iterable[float], patience: int | None, min_delta: float = 0.0) -> tuple[EarlyStopping, int]:
    """Evaluate at steps 10, 20, ... until it stops; how many evaluations there were."""
    stopping = EarlyStopping(patience, min_delta)
    for count, loss in enumerate(losses, start=1):
        stopping.evaluated(10 * count, loss)
        if stopping.stop:
            break
    return stopping, count


def test_it_stops_after_so_many_evaluations_in_a_row_without_a_better_loss() -> None:
    stopping, count = patient([3, 2, 2.5, 1.9, 2, 2.1, 1.9, 1.0], patience=3)
    assert (count, stopping.best_step, stopping.best_loss) == (7, 40, 1.9)


def test_without_patience_it_never_stops() -> None:
    assert patient([1, 2, 3, 4, 5, 6], patience=None)[1] == 6


def test_only_a_lower_loss_is_an_improvement() -> None:
    stopping = EarlyStopping(3, 0.0)
    assert [stopping.evaluated(step, loss) for step, loss in enumerate([2, 2, 1, 3, math.nan, 0.5])] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


def test_an_improvement_below_the_delta_is_the_best_but_renews_no_patience() -> None:
    stopping, count = patient([2.0, 1.95, 1.94, 1.93, 1.0], patience=3, min_delta=0.1)
    assert (count, stopping.best_step, stopping.best_loss) == (4, 40, 1.93)


def test_many_small_improvements_count_together() -> None:
    assert patient([2.0 - 0.04 * number for number in range(30)], patience=4, min_delta=0.1)[1] == 30


def test_a_first_loss_that_is_not_a_number_is_not_the_best() -> None:
    stopping = EarlyStopping(3, 0.0)
    assert [stopping.evaluated(step, loss) for step, loss in enumerate([math.nan, 2.0, 1.0])] == [False, True, True]


def test_losses_that_are_not_numbers_use_up_the_patience() -> None:
    assert patient([2.0, math.nan, math.nan, 1.0], patience=2)[1] == 3


@pytest.mark.parametrize("cut", range(1, 7))
def test_patience_survives_a_resume(cut: int) -> None:
    losses = [3, 2, 1.99, 1.9, 2, 1.95, 2.1, 1.0]
    whole, count = patient(losses, patience=3, min_delta=0.05)
    first, _ = patient(losses[:cut], patience=3, min_delta=0.05)
    resumed = EarlyStopping(3, 0.05)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    for number, loss in enumerate(losses[cut:], start=cut + 1):
        resumed.evaluated(10 * number, loss)
        if resumed.stop:
            break
    assert (number, resumed.state_dict()) == (count, whole.state_dict())


# Numbers that are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("feed", "what"),
    [
        (lambda guard, value: guard.step(12, value, 1.0, 3e-3), "the training loss"),
        (lambda guard, value: guard.step(12, 2.0, value, 3e-3), "the gradient norm"),
        (lambda guard, value: guard.evaluated(12, value), "the validation loss"),
    ],
)
def test_what_is_not_finite_ends_the_training_with_what_to_change(
    feed: Callable[[Guard, float], None], what: str, value: float, tmp_path: Path
) -> None:
    guard = Guard(100, str(tmp_path))
    guard.step(11, 2.0, 1.0, 3e-3)
    with pytest.raises(StageError) as ended:
        feed(guard, value)
    for part in (
        f"{what} is {value} at step 12 (learning rate 0.003)",
        "`train.learning_rate`",
        "`train.warmup`",
        "`train.precision: fp32`",
        f"The last good weights are in {tmp_path}",
    ):
        assert part in str(ended.value)


def test_where_nothing_was_kept_the_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="No weights were kept yet"):
        Guard(100, str(tmp_path / "best")).step(1, math.nan, None, 1e-3)


def test_a_step_that_fp16_skipped_is_none_of_its_business() -> None:
    Guard(100, "best").step(1, 2.0, None, 1e-3)


# Divergence of the training loss


def ended_by(feed: Callable[[], None]) -> str:
    """What the guard says, or nothing."""
    try:
        feed()
    except StageError as error:
        return str(error)
    return ""


def ends(losses: Iterable[float], steps: int | None = None, base: float | None = None) -> int | None:
    """The step at which a course of training losses is ended, or None. base: the validation loss before it."""
    losses = list(losses)
    guard = Guard(steps or len(losses), "best")
    if base is not None:
        guard.evaluated(0, base)
    return end_of(guard, losses)


def end_of(guard: Guard, losses: list[float], past: int = 0) -> int | None:
    for step, loss in enumerate(losses[past:], start=past + 1):
        if said := ended_by(lambda: guard.step(step, loss, 1.0, 1e-3)):  # noqa: B023 - it is called at once
            return step if "the training loss diverges" in said else None
    return None


def noise(seed: int, kind: str, steps: int) -> list[float]:
    """Honest courses whose single losses are as noisy as those of one short document a step."""
    draw = random.Random(seed)
    single = {
        "flat": lambda share: draw.gauss(3, 1.5),
        "falling": lambda share: draw.gauss(4 - 2 * share, 1.5),
        "exponential": lambda share: draw.expovariate(1 / 3),
        "easy and hard rows": lambda share: draw.choice([0.3, 0.3, 0.3, 5.0]) + draw.gauss(0, 0.2),
        "from scratch": lambda share: 4 + 7 * math.exp(-10 * share) + draw.gauss(0, 1),
        "overfitting": lambda share: max(0.0, 3 * math.exp(-5 * share) + draw.gauss(0, 0.1)),
    }[kind]
    return [single(step / steps) for step in range(steps)]


@pytest.mark.parametrize(
    "kind", ["flat", "falling", "exponential", "easy and hard rows", "from scratch", "overfitting"]
)
def test_noise_passes_for_no_divergence(kind: str) -> None:
    base = noise(0, kind, 1000)
    for seed in range(30):
        assert ends(noise(seed, kind, 60), base=sum(base[:30]) / 30) is None
        assert ends(noise(seed, kind, 400), base=sum(base[:30]) / 30) is None
    assert ends(noise(99, kind, 3000)) is None


def test_a_spike_that_passes_is_let_pass() -> None:
    losses = noise(1, "falling", 500)
    losses[300:303] = [12.0, 14.0, 9.0]
    assert ends(losses) is None


def test_a_loss_that_climbs_for_good_is_ended_soon() -> None:
    losses = [loss + (4 if step > 200 else 0) for step, loss in enumerate(noise(2, "flat", 600))]
    assert 200 < ends(losses) <= 240


def test_a_climb_to_what_the_first_window_had_is_not_ended() -> None:
    assert ends([6.0] * 30 + [2.0] * 100 + [6.2] * 300) is None
    assert ends([6.0] * 30 + [2.0] * 100 + [6.8] * 300) is not None


def test_a_climb_of_less_than_a_nat_over_the_best_is_not_ended() -> None:
    assert ends([2.0] * 100 + [2.9] * 300) is None
    assert ends([2.0] * 100 + [3.3] * 300) is not None


def test_what_goes_wrong_within_the_first_window_is_ended_at_its_end() -> None:
    wrong = [4.0] + [30.0 + 20 * (step % 3) for step in range(99)]
    assert ends(wrong, base=4.0) == 20
    assert ends([4.0] + [1.0, 60.0] * 50, base=4.0) == 20  # wild as it is
    assert (
        ends([0.5] + [6.5] * 99, base=3.5) is None
    )  # train rows that are harder than validation's, the first by chance not
    assert ends([9.0] + [6.5] * 99, base=3.0) is None


def test_the_window_grows_with_the_training() -> None:
    assert [Guard(steps, "best").window for steps in (1, 100, 1000, 1001, 50_000)] == [20, 20, 20, 21, 1000]


@pytest.mark.parametrize("cut", [5, 20, 21, 150, 205])
def test_a_resumed_guard_ends_at_the_same_step(cut: int) -> None:
    losses = [loss + (6 if step > 200 else 0) for step, loss in enumerate(noise(3, "falling", 600))]
    guard = Guard(600, "best")
    for step, loss in enumerate(losses[:cut], start=1):
        guard.step(step, loss, 1.0, 1e-3)
    state = json.loads(json.dumps(guard.state_dict(), allow_nan=False))
    resumed = Guard(600, "best")
    resumed.load_state_dict(state)
    end = ends(losses)
    assert end is not None
    assert end_of(resumed, losses, past=cut) == end


# Divergence of the validation loss


def validated(validations: list[float], training: Callable[[int], float], resume_at: int | None = None) -> int | None:
    """One evaluation at step 0 and after every 10 steps; the step at which the training is ended, or None."""
    guard = Guard(200, "best")
    guard.evaluated(0, validations[0])
    for number, loss in enumerate(validations[1:], start=1):
        for step in range(10 * number - 9, 10 * number + 1):
            guard.step(step, training(step), 1.0, 1e-3)
        if number == resume_at:
            state = json.loads(json.dumps(guard.state_dict(), allow_nan=False))
            guard = Guard(200, "best")
            guard.load_state_dict(state)
        if said := ended_by(lambda: guard.evaluated(10 * number, loss)):  # noqa: B023 - it is called at once
            return 10 * number if "the validation loss diverges" in said else None
    return None


def test_a_validation_loss_a_nat_above_the_bases_twice_in_a_row_is_ended() -> None:
    assert validated([3.0, 2.9, 4.1, 4.2, 4.3], lambda step: 3.4) == 30
    assert validated([3.0, 2.9, 4.1, 4.2, 4.3], lambda step: 3.4, resume_at=3) == 30


def test_one_bad_evaluation_or_a_rise_of_less_is_let_pass() -> None:
    assert validated([3.0, 4.5, 3.5, 4.5, 3.5, 4.5], lambda step: 3.4) is None
    assert validated([3.0, 3.9, 3.9, 3.9, 3.9], lambda step: 3.4) is None


def test_overfitting_is_no_divergence() -> None:
    assert validated([3.0, 2.5, 3.5, 4.5, 5.0, 5.5, 6.0], lambda step: 3 * math.exp(-step / 20)) is None


def test_a_validation_loss_that_diverged_with_the_first_steps_is_ended() -> None:
    assert validated([4.0, 7.5, 7.2, 7.1], lambda step: 4.0 if step == 1 else 7.9 - step / 20) == 20


def test_evaluations_before_any_step_end_nothing_but_in_a_row() -> None:
    guard = Guard(100, "best")
    guard.evaluated(0, 3.0)
    guard.evaluated(1, 4.5)
    with pytest.raises(StageError, match="diverges"):
        guard.evaluated(2, 4.5)


# Real trainings


def real(rate: float, steps: int) -> tuple[list[float], int | None]:
    """Train a small GPT-2 on one short text a step; the losses, and the step that the guard ended."""
    torch.manual_seed(0)
    tokenizer = models.tokenizer_of()
    model = models.build("gpt2", len(tokenizer), tokenizer.eos_token_id, dropout=0.1)
    texts = [torch.tensor(tokenizer(text)["input_ids"][:48]) for _, text in models.texts(200, low=2, high=12)]

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids[None], use_cache=False).logits[0, :-1], ids[1:])

    guard, losses, draw = Guard(steps, "best"), [], random.Random(0)
    with torch.no_grad():
        guard.evaluated(0, sum(loss_of(ids).item() for ids in texts[:20]) / 20)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=rate)
    for step in range(1, steps + 1):
        loss = loss_of(draw.choice(texts[20:]))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        losses.append(loss.item())
        if ended_by(lambda: guard.step(step, loss.item(), norm.item(), rate)):  # noqa: B023 - it is called at once
            return losses, step
        optimizer.step()
    return losses, None


def test_a_real_training_at_a_far_too_high_rate_is_ended() -> None:
    assert real(rate=3.0, steps=25)[1] == 20


def test_a_real_training_on_one_short_text_a_step_runs_to_its_end() -> None:
    losses, ended = real(rate=5e-3, steps=100)
    assert ended is None
    assert sum(losses[-20:]) < sum(losses[:20]) - 20, "it learns"
    assert max(losses[-40:]) - min(losses[-40:]) > 1, "its losses are noisy"
