"""The live line and the measured speed, with a clock that the test turns."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch

from snaketune.job import _Terminal
from snaketune.model import watch
from snaketune.model.watch import Watch, peak_memory

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """What a person sees, on a terminal or in a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    shown = Screen(terminal=False)
    monkeypatch.setattr(_Terminal, "stream", shown)
    return shown


def train(look: Watch, clock: Clock, steps: range, seconds: float, **given: Any) -> list[dict[str, Any]]:
    """Some steps of so many seconds each; the lines of speed.jsonl."""
    lines = []
    for step in steps:
        clock.now += seconds
        lines.append(look.steps_done(step, **({"losses": [2.0], "tokens": 100, "flops": 5e9} | given)))
    return [line for line in lines if line]


def evaluate(look: Watch, clock: Clock, step: int, seconds: float, loss: float) -> None:
    look.pause("evaluates")
    clock.now += seconds
    look.resume()
    look.evaluated(step, loss)


def test_speed_is_that_of_the_last_ten_seconds(screen: Screen) -> None:
    clock = Clock()
    look = Watch(100, [], 1e10, CPU, clock=clock)
    slow = train(look, clock, range(1, 11), 2.0)
    assert slow[-1]["tokens_per_second"] == 50
    assert slow[-1]["mfu"] == 0.25
    fast = train(look, clock, range(11, 31), 0.5)
    assert fast[-1]["tokens_per_second"] == 200, "nothing of the slow steps is left in the window"
    assert fast[-1]["mfu"] == 1.0
    assert fast[-1]["step"] <= 30


def test_an_evaluation_does_not_slow_the_measured_training_down(screen: Screen) -> None:
    clock = Clock()
    look = Watch(100, [0, 3, 100], 1e10, CPU, clock=clock)
    evaluate(look, clock, 0, 60.0, 4.0)
    assert train(look, clock, range(1, 4), 1.0)[-1]["tokens_per_second"] == 100
    evaluate(look, clock, 3, 500.0, 3.0)
    last = train(look, clock, range(4, 6), 1.0)[-1]
    assert last["tokens_per_second"] == 100
    assert last["seconds"] == 565, "the clock on the wall goes on"


def test_the_time_left_counts_steps_and_evaluations_to_come(screen: Screen) -> None:
    clock = Clock()
    look = Watch(40, [0, 10, 20, 30, 40], 1e10, CPU, clock=clock)
    assert look.left() is None
    evaluate(look, clock, 0, 20.0, 4.0)
    train(look, clock, range(1, 2), 90.0)  # it compiles
    assert look.left() == 39 * 90 + 4 * 20, "nothing better is known yet"
    train(look, clock, range(2, 11), 3.0)
    assert look.left() == 30 * 3 + 4 * 20, "the evaluation of this step is still to come"
    evaluate(look, clock, 10, 30.0, 3.5)
    assert look.left() == 30 * 3 + 3 * 25


def test_a_resumed_training_goes_on_where_its_clock_and_its_evaluations_stood(screen: Screen) -> None:
    clock = Clock()
    look = Watch(40, [0, 10, 20, 30, 40], 1e10, CPU, done=20, seconds=500.0, clock=clock)
    lines = train(look, clock, range(21, 25), 2.0)
    assert lines[0]["seconds"] == 502
    assert lines[0]["tokens_per_second"] == 50
    assert look.left() == 16 * 2, "what an evaluation takes is not known again yet"
    train(look, clock, range(25, 31), 2.0)
    evaluate(look, clock, 30, 7.0, 3.5)
    assert look.left() == 10 * 2 + 7


def test_a_second_has_one_line_of_speed_at_most_and_the_last_step_always_has_one(screen: Screen) -> None:
    clock = Clock()
    look = Watch(1000, [], 1e10, CPU, clock=clock)
    lines = train(look, clock, range(1, 1001), 0.01)
    assert 9 <= len(lines) <= 12
    assert lines[-1]["step"] == 1000
    assert set(lines[0]) == {"step", "seconds", "tokens_per_second", "mfu", "memory_mb"}


def test_several_steps_may_be_told_at_once(screen: Screen) -> None:
    clock = Clock()
    one, many = Watch(40, [], 1e10, CPU, clock=clock), Watch(40, [], 1e10, CPU, clock=clock)
    for step in range(8, 41, 8):
        for part in range(step - 7, step + 1):
            clock.now += 0.5
            one.steps_done(part, [part / 10], 10, 1e9)
        many.steps_done(step, [part / 10 for part in range(step - 7, step + 1)], 80, 8e9)
    assert many.line() == one.line()


def test_the_line_says_what_a_person_waits_for(screen: Screen) -> None:
    clock = Clock()
    look = Watch(2000, [0, 1000, 2000], 1e10, CPU, clock=clock)
    evaluate(look, clock, 0, 10.0, 4.25)
    assert "validation 4.250" in look.line()
    train(look, clock, range(1, 1001), 2.0, losses=[math.log(20)])
    evaluate(look, clock, 1000, 10.0, 3.5)
    line = look.line()
    for part in (
        "step 1,000/2,000",
        "loss 2.996 (perplexity 20.0)",
        "validation 3.500 (base 4.250)",
        "33:30 left",  # 1,000 steps of 2 s, one evaluation of 10 s
        "50 tokens/s",
        "25\u00a0% of peak",
        " GB",
    ):
        assert part in line


def test_the_loss_that_is_shown_is_a_mean_of_the_last_steps(screen: Screen) -> None:
    clock = Clock()
    look = Watch(200, [], 1e10, CPU, clock=clock)
    for step in range(1, 151):
        clock.now += 1
        look.steps_done(step, [9.0 if step <= 100 else 1.0 + step % 2], 10, 1e9)
    assert "loss 1.500" in look.line()


def test_a_loss_beyond_all_numbers_breaks_no_line(screen: Screen) -> None:
    clock = Clock()
    look = Watch(20, [], 1e10, CPU, clock=clock)
    train(look, clock, range(1, 2), 1.0, losses=[1e6])
    assert "e+304" in look.line()
    train(look, clock, range(2, 3), 1.0, losses=[math.nan])
    assert "loss nan" in look.line()


def test_in_a_file_a_line_comes_every_quarter_of_a_minute(screen: Screen) -> None:
    clock = Clock()
    look = Watch(1000, [], 1e10, CPU, clock=clock)
    train(look, clock, range(1, 61), 1.0)
    look.pause("evaluates")
    look.resume()
    look.close()
    lines = screen.getvalue().splitlines()
    assert len(lines) == 4
    assert "\033" not in screen.getvalue()


def test_a_terminal_has_one_line_that_is_redrawn_once_a_second(screen: Screen) -> None:
    screen.terminal = True
    clock = Clock()
    look = Watch(1000, [], 1e10, CPU, clock=clock)
    train(look, clock, range(1, 101), 0.1)
    assert "\n" not in screen.getvalue()
    assert 9 <= screen.getvalue().count("\r\033[K") <= 11
    assert screen.getvalue().count("\033[?7l") == screen.getvalue().count("\033[?7h")
    look.pause("evaluates")
    assert "step 100/1,000  evaluates \u2026" in screen.getvalue()
    look.tell("  sample")
    assert screen.getvalue().endswith("\r\033[K  sample\n")
    look.close()
    assert screen.getvalue().endswith("\r\033[K")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0:00"), (59.6, "1:00"), (3599.7, "1:00:00"), (90061, "25:01:01")]
)
def test_durations_are_read_as_a_clock(seconds: float, words: str) -> None:
    assert watch._duration(seconds) == words


def test_peak_memory_grows_with_what_the_process_holds_and_never_falls() -> None:
    before = peak_memory(CPU)
    held = torch.ones(60_000_000)  # 240 MB
    during = peak_memory(CPU)
    del held
    assert during > 150e6
    assert peak_memory(CPU) >= during >= before
