"""Confidence intervals: what a score on a finite test set is worth.

Wilson (1927), for a share p = k / n:
    (p + z^2/2n  +-  z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
Percentile bootstrap over items for means, and over paired differences for two arms that answered
the same items: the spread that both share (hard and easy images) then cancels.

Shapes: n items, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "bootstrap_interval", "paired_interval", "wilson_interval"]

_Z95 = 1.959963984540054
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A score, its 95 % interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(num_correct: int, n: int) -> Interval:
    """Return the share of correct answers with Wilson's 95 % interval; [0, 1] for no item."""
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    p, shrink = num_correct / n, 1 + _Z95**2 / n
    centre = (p + _Z95**2 / (2 * n)) / shrink
    half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n)) / shrink
    low = 0.0 if num_correct == 0 else centre - half
    high = 1.0 if num_correct == n else centre + half
    return Interval(p, low, high, n)


def bootstrap_interval(
    values: Sequence[float], num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of per-item values with a percentile-bootstrap 95 % interval.

    Args:
        values: one score per item.
        num_resamples: R; the interval's ends are the 2.5 % and 97.5 % points of R means.
        seed: of the resampling, fixed so that equal scores have equal intervals.
    """
    items = np.asarray(values, dtype=np.float64)
    n = len(items)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    random = np.random.default_rng(seed)
    rows = max(1, _NUMBERS_AT_ONCE // n)
    means = np.concatenate(
        [
            items[random.integers(n, size=(min(rows, num_resamples - done), n))].mean(axis=1)
            for done in range(0, num_resamples, rows)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(items.mean()), float(low), float(high), n)


def paired_interval(
    ours: Mapping[str, float],
    baseline: Mapping[str, float],
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean gain of `ours` over `baseline` on the same items, with its interval.

    Args:
        ours: score of each item by its id, such as a metric's `item_scores`.
        baseline: the other arm's scores of the same items.
        num_resamples: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: the two did not answer the same items.
    """
    if ours.keys() != baseline.keys():
        common = len(ours.keys() & baseline.keys())
        raise ValueError(
            f"The two arms answered different items ({len(ours)} and {len(baseline)}, {common} in "
            "common), so they cannot be compared pairwise; evaluate both on the same data set."
        )
    gains = [ours[item] - baseline[item] for item in sorted(ours)]
    return bootstrap_interval(gains, num_resamples, seed)
