"""Student's t: how far the mean of a few numbers may be from what they are drawn around."""

from __future__ import annotations

import functools
import math

LEVEL = 0.95


@functools.cache
def quantile(freedom: int) -> float:
    """The t that LEVEL of Student's distribution stays within, on both sides of 0: by halving, to 12 digits."""
    low, high = 0.0, 64.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) < LEVEL else (low, middle)
    return high


def student(t: float, freedom: int) -> float:
    """P(|T| <= t) for Student's T of a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) ** odd
    for step in range(2 + odd, freedom - 1, 2):
        term *= square * (step - 1) / step
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
