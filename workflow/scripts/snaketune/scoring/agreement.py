"""What people's judgements prove: a rate with its interval, a test, and how far the judges agree.

- The interval of a rate is Wilson's (1927): it stays within 0 and 1, and covers well from a handful of votes on.
- The sign test is exact and two-sided: the chance that a fair coin leans at least as far to either side.
- Krippendorff's alpha (2011) with nominal values is 1 for full agreement and 0 for what chance would give; it allows
  for judges who have not seen every item. It comes from the package `krippendorff`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from statistics import NormalDist

import krippendorff
import numpy as np

TIE = "tie"
Z95 = NormalDist().inv_cdf(0.975)


def wilson(wins: int, n: int, z: float = Z95) -> tuple[float, float]:
    """The 95 % interval of the rate wins / n, for n of at least 1."""
    rate, spread = wins / n, z * z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the interval touches 0 and 1, which the subtraction may miss by a rounding.
    return (0.0 if wins == 0 else middle - half, 1.0 if wins == n else middle + half)


def sign_test(wins: int, losses: int) -> float:
    """p of the two-sided exact binomial test that wins and losses are equally likely; 1 where there are none."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


def majority(votes: Mapping[str, int]) -> str:
    """The choice with the most votes; a tie where several share the most."""
    most = max(votes.values())
    first = [choice for choice, count in votes.items() if count == most]
    return first[0] if len(first) == 1 else TIE


def alpha(ratings: Mapping[str, Mapping[str, str]]) -> tuple[float | None, str | None]:
    """Krippendorff's alpha, nominal, of judge -> item -> value; or None, and why there is none."""
    seen = Counter(item for by_item in ratings.values() for item in by_item)
    shared = {item: row for row, item in enumerate(sorted(item for item, judges in seen.items() if judges > 1))}
    if not shared:
        return None, "no item was judged by two people"
    votes = [(shared[item], value) for by_item in ratings.values() for item, value in by_item.items() if item in shared]
    values = {value: column for column, value in enumerate(sorted({value for _, value in votes}))}
    if len(values) == 1:
        return None, f"all judges chose {next(iter(values))!r} everywhere, so that chance cannot be told from agreement"
    counts = np.zeros((len(shared), len(values)), dtype=np.int64)
    for row, value in votes:
        counts[row, values[value]] += 1
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")), None
