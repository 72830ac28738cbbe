"""What a person sees while a model trains: one line, and the same numbers for train/speed.jsonl.

The line says how far the training is, whether it learns, how fast it goes and when it ends. Speed counts useful tokens
(no padding) over the last ten seconds of training; evaluations stand aside, but the time left has those to come in it.
These numbers come from a clock: they differ from run to run, and nothing that must not differ is made of them.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from snaketune.job import interactive, say

RECENT = 10.0  # seconds over which speed is measured
SMOOTHED = 50  # steps over which the shown loss is averaged
REDRAWN, REPEATED = 1.0, 15.0  # seconds between two lines: in a terminal, and in a file or a cluster's log


class Watch:
    """The live line of a training, and its lines of speed.jsonl.

    Call `steps_done` after each step or each few (whenever losses have been brought to the CPU), `pause` and `resume`
    around everything that is no training (evaluation, samples, checkpoint), `evaluated` with its result, and
    `close` at the end. Only the process that speaks to the user needs one.

    steps: of the whole training; evaluations: the steps after which one is planned (0 is the base model's); peak: FLOPs
    per second of all devices together; done, seconds: the step and the seconds at which a resumed training goes on.
    """

    def __init__(
        self,
        steps: int,
        evaluations: Sequence[int],
        peak: float,
        device: torch.device,
        *,
        done: int = 0,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.steps, self.planned, self.peak, self.device = steps, sorted(evaluations), peak, device
        self.step, self.first_step, self.seconds_before, self.clock = done, done, seconds, clock
        self.started = clock()
        self.shown = self.written = -math.inf
        self.paused_at: float | None = None
        self.paused = 0.0  # seconds of all pauses so far
        self.evaluations = 0  # how many those pauses had
        self.evaluated_at = -1  # the step of the last one; after a resume none counts until the first
        self.losses: deque[float] = deque(maxlen=SMOOTHED)
        self.validation = self.base = math.nan
        # (seconds of training, tokens, FLOPs) after each call; the first entry is where the window begins.
        self.recent: deque[tuple[float, int, float]] = deque([(0.0, 0, 0.0)])
        self.warm: tuple[float, int] | None = None  # seconds of training and step after the first call: it compiles

    def steps_done(self, step: int, losses: Sequence[float], tokens: int, flops: float) -> dict[str, Any] | None:
        """Take in one or several steps; `step` is the number of the last.

        losses: nats per trained token, of each of these steps; tokens: non-padding tokens of all of them, on all
        devices; flops: useful FLOPs of the same (snaketune.model.flops). Returns a line for speed.jsonl, one a
        second at most, else None.
        """
        self.step = step
        self.losses.extend(losses)
        now = self._trained()
        if self.warm is None:
            self.warm = (now, step)
        self.recent.append((now, tokens, flops))
        while len(self.recent) > 2 and self.recent[1][0] <= now - RECENT:
            self.recent.popleft()
        self._show()
        if self.clock() - self.written < REDRAWN and step < self.steps:
            return None
        self.written = self.clock()
        return {
            "step": step,
            "seconds": round(self.seconds_before + self.clock() - self.started, 3),
            "tokens_per_second": round(self._rate(1), 1),
            "mfu": round(self._rate(2) / self.peak, 4),
            "memory_mb": round(peak_memory(self.device) / 1e6, 1),
        }

    def evaluated(self, step: int, loss: float) -> None:
        """The result of an evaluation: the validation loss in nats per trained token. Step 0 is the base model."""
        self.validation, self.evaluated_at = loss, step
        self.evaluations += 1
        if step == 0:
            self.base = loss

    def pause(self, why: str = "") -> None:
        """Stop the clock of the training; `why` is shown in a terminal, as in "evaluates"."""
        self.paused_at = self.clock()
        if why and interactive():
            self._draw(f"{self._progress()}  {why} \u2026")

    def resume(self) -> None:
        """Let the clock of the training go on."""
        if self.paused_at is not None:
            self.paused += self.clock() - self.paused_at
            self.paused_at = None

    def tell(self, words: str) -> None:
        """Show lines that stay, above the one that is redrawn."""
        say(f"\r\033[K{words}" if interactive() else words)

    def close(self) -> None:
        """Clear the line of a terminal."""
        if interactive():
            say("\r\033[K", end="")

    def left(self) -> float | None:
        """Seconds until the end: the steps and the evaluations that are to come. None before the first step.

        The first call is left out of the pace once there are others, because it compiles and warms up. What an
        evaluation takes is the mean of those so far; before the first one (only after a resume) none is counted.
        """
        if self.warm is None:
            return None
        start, step = self.warm if self.step > self.warm[1] else (0.0, self.first_step)
        pace = (self.recent[-1][0] - start) / (self.step - step)
        to_come = sum(at > self.evaluated_at for at in self.planned)
        each = self.paused / self.evaluations if self.evaluations else 0.0
        return pace * (self.steps - self.step) + each * to_come

    def line(self) -> str:
        """The line as it stands."""
        parts = [self._progress()]
        if self.losses:
            loss = sum(self.losses) / len(self.losses)
            parts.append(f"loss {loss:.3f} (perplexity {_short(math.exp(min(loss, 700)))})")
        if math.isfinite(self.validation):
            base = f" (base {self.base:.3f})" if math.isfinite(self.base) and self.evaluated_at > 0 else ""
            parts.append(f"validation {self.validation:.3f}{base}")
        if (left := self.left()) is not None:
            parts.append(f"{_duration(left)} left")
            parts.append(f"{self._rate(1):,.0f} tokens/s")
            parts.append(f"{100 * self._rate(2) / self.peak:.0f}\u00a0% of peak")
        parts.append(f"{peak_memory(self.device) / 1e9:.1f} GB")
        return "  ".join(parts)

    def _progress(self) -> str:
        return f"  step {self.step:,}/{self.steps:,}"

    def _trained(self) -> float:
        """Seconds of training in this session, pauses left out."""
        return self.clock() - self.started - self.paused

    def _rate(self, what: int) -> float:
        """Tokens (1) or FLOPs (2) per second over the last seconds of training."""
        seconds = self.recent[-1][0] - self.recent[0][0]
        return sum(entry[what] for entry in list(self.recent)[1:]) / seconds if seconds > 0 else 0.0

    def _show(self) -> None:
        now = self.clock()
        if now - self.shown < (REDRAWN if interactive() else REPEATED):
            return
        self.shown = now
        self._draw(self.line())

    def _draw(self, line: str) -> None:
        # Without line wrap (DECAWM): a line that is too long for the window is cut there, and stays one line to redraw.
        say(f"\r\033[K\033[?7l{line}\033[?7h" if interactive() else line, end="" if interactive() else "\n")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that PyTorch held on a GPU so far, or the most that this process held in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
