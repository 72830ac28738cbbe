"""When a training ends before its last step: it no longer gets better, others did better, or it has gone wrong.

All remember in numbers and lists alone, so that a resumed training decides as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from snaketune.job import StageError

RISE_OVER_FIRST = 0.5  # nats above the first window of the training loss, and
RISE_OVER_BEST = 1.0  # nats above its best one: diverged
STANDARD_ERRORS = 6.0  # of the difference of two windows; noise below it is no rise
RISE_OVER_START = 4.0  # nats above the loss before anything was learnt, and more than that loss once again, and
MOST_NOISE = 3.0  # times that loss is what its noise may come to: diverged, within the first window even
VALIDATION_RISE = 1.0  # nats of the validation loss above its first value, and
VALIDATIONS = 2  # evaluations in a row above it: diverged


class EarlyStopping:
    """Stops after `patience` evaluations in a row without a better validation loss; None: never.

    min_delta: nats. For the patience, better is lower by more than this than at the last time it was better, so that
    many small steps count together. The best step is that of the lowest loss, whatever `min_delta` says.
    """

    def __init__(self, patience: int | None, min_delta: float) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best_step: int | None = None
        self.best_loss: float | None = None
        self._mark: float | None = None  # the loss at which the patience was last renewed
        self._waited = 0

    def evaluated(self, step: int, loss: float) -> bool:
        """Take in a validation loss (nats); whether it is the lowest so far. One that is not a number never is."""
        if math.isnan(loss):
            self._waited += 1
            return False
        if self._mark is None or loss < self._mark - self.min_delta:
            self._mark, self._waited = loss, 0
        else:
            self._waited += 1
        lowest = self.best_loss is None or loss < self.best_loss
        if lowest:
            self.best_step, self.best_loss = step, loss
        return lowest

    @property
    def stop(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self._waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, fit for JSON."""
        best = {"best_step": self.best_step, "best_loss": self.best_loss}
        return best | {"mark": self._mark, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.best_step, self.best_loss = state["best_step"], state["best_loss"]
        self._mark, self._waited = state["mark"], state["waited"]


class Bounds:
    """Gives up a training of a search whose validation loss is above what others had come to at the same evaluation.

    bounds: the largest loss (nats) at the first evaluation after the base's own, at the second, ...; None: any.
    """

    def __init__(self, bounds: Sequence[float | None]) -> None:
        self.bounds = bounds
        self.exceeded = False
        self._seen = 0

    def evaluated(self, loss: float) -> None:
        """Take in the validation loss (nats) of the next evaluation."""
        bound = self.bounds[self._seen] if self._seen < len(self.bounds) else None
        self._seen += 1
        self.exceeded = self.exceeded or (bound is not None and loss > bound)

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, fit for JSON."""
        return {"seen": self._seen, "exceeded": self.exceeded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._seen, self.exceeded = state["seen"], state["exceeded"]


class Guard:
    """Ends a training that has gone wrong, with a sentence on what to change.

    Wrong is a loss or a gradient norm that is not finite; and divergence, which is

    - the mean training loss of the last `window` steps (20, or 2 % of the training if that is more) lies above that of
      the first window by more than 0.5 nats AND above that of the best window by more than 1 nat, both also by more
      than 6 standard errors of such a difference, so that tiny batches do not pass for it; or
    - it lies above the loss of the first step, and above the validation loss of the base, by more than 4 nats, by more
      than that loss itself, and by more than 6 standard errors or three times that loss: what goes wrong within the
      first window, which is then no measure, and whose losses are as wild as they are high; or
    - the validation loss lies above its first value by more than 1 nat at two evaluations in a row, while the training
      loss has not fallen either. (Where it has, that is overfitting: early stopping's business, and the best weights
      are kept.)

    A training from scratch that falls back, but not to where it began, is not stopped. Rows come in a drawn order; an
    order from easy to hard rows of another kind could pass for a divergence.

    steps: of the whole training; kept: where the last good weights are, once there are any.
    """

    def __init__(self, steps: int, kept: str) -> None:
        self.window = max(20, math.ceil(0.02 * steps))
        self.kept = kept
        self._rate: float | None = None
        self._seen = 0
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=self.window)
        self._best: float | None = None  # the mean of the best window
        self._noise = 0.0  # the sum of the squares of the differences of successive losses
        self._base: float | None = None  # the first validation loss
        self._above = 0

    def step(self, step: int, loss: float, grad_norm: float | None, rate: float) -> None:
        """Take in an optimizer step: its mean loss (nats), its gradient norm and its learning rate.

        grad_norm: None where the step was skipped because fp16 overflowed, which its scaler mends by itself. Raises
        StageError where the training has gone wrong.
        """
        self._rate = rate
        self._finite("the training loss", loss, step)
        if grad_norm is not None:
            self._finite("the gradient norm", grad_norm, step)
        self._seen += 1
        self._noise += (loss - self._last[-1]) ** 2 if self._last else 0.0
        self._last.append(loss)
        if len(self._first) < self.window:
            self._first.append(loss)
        if self._seen < self.window:
            return
        first, mean = fmean(self._first), fmean(self._last)
        best = self._best = min(mean, mean if self._best is None else self._best)
        # Half the mean square of successive differences is the variance without the trend (von Neumann 1941).
        variance = self._noise / (2 * (self._seen - 1))
        noise = STANDARD_ERRORS * math.sqrt(2 * variance / self.window)
        what = f"the training loss diverges: {mean:.2f} nats over the last {self.window} steps"
        if self._base is not None:
            start = self._start()
            rise = max(RISE_OVER_START, start, min(noise, MOST_NOISE * start))
            if mean > start + rise:
                raise self._wrong(f"{what}, after {start:.2f} at the start,", step)
        if mean > first + max(RISE_OVER_FIRST, noise) and mean > best + max(RISE_OVER_BEST, noise):
            raise self._wrong(f"{what}, after {first:.2f} over the first and {best:.2f} at best,", step)

    def evaluated(self, step: int, loss: float) -> None:
        """Take in a validation loss (nats). Raises StageError where the training has gone wrong."""
        self._finite("the validation loss", loss, step)
        if self._base is None:
            self._base = loss
        self._above = self._above + 1 if loss > self._base + VALIDATION_RISE else 0
        if self._above >= VALIDATIONS and self._risen():
            raise self._wrong(f"the validation loss diverges: {loss:.2f} nats, and {self._base:.2f} at first,", step)

    def _risen(self) -> bool:
        """Whether the training loss is no lower than in the beginning, as far as it has been seen."""
        count = min(self.window, self._seen // 2)
        return count == 0 or fmean(list(self._last)[-count:]) >= min(fmean(self._first[:count]), self._start())

    def _start(self) -> float:
        """The loss before anything was learnt: of the first step's rows, or of the validation split if that is more."""
        return max(self._first[0], self._base)

    def _finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise self._wrong(f"{what} is {value}", step)

    def _wrong(self, what: str, step: int) -> StageError:
        rate = "" if self._rate is None else f" (learning rate {self._rate:.2g})"
        kept = f"The last good weights are in {self.kept}" if Path(self.kept).exists() else "No weights were kept yet"
        return StageError(
            f"{what} at step {step:,}{rate}. Lower `train.learning_rate`, lengthen `train.warmup`, or set "
            f"`train.precision: fp32` if it was another. {kept}"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, fit for JSON: two windows of losses and a few numbers."""
        windows = {"first": list(self._first), "last": list(self._last), "best": self._best, "noise": self._noise}
        return windows | {"rate": self._rate, "seen": self._seen, "base": self._base, "above": self._above}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._first, self._last = list(state["first"]), deque(state["last"], maxlen=self.window)
        self._best, self._noise = state["best"], state["noise"]
        self._rate, self._seen = state["rate"], state["seen"]
        self._base, self._above = state["base"], state["above"]
