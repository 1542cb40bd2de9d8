"""How many times less data one way of learning needs for the score of another.

    factor = n_theirs / n_ours,   n_theirs  where their curve is at its best
                                  n_ours    where ours reaches that score, log n interpolated

A curve's score at n is the best up to n, so that noise does not make it fall. Where the curves do
not meet there is a bound: ours is above from its first point on (the factor is at least that of
the points), or never reaches the score (it is at most that).

Shapes: P points of a curve, by rising n.
"""

import math

import numpy as np

__all__ = ["factor_in_data"]


def factor_in_data(
    ours_n: np.ndarray, ours: np.ndarray, theirs_n: np.ndarray, theirs: np.ndarray
) -> tuple[float, float]:
    """Return the ends between which the factor lies; they are equal where the curves meet.

    Args:
        ours_n: amounts of data [P], rising, above 0.
        ours: scores there [P].
        theirs_n: as `ours_n`, of the other curve.
        theirs: as `ours`.
    """
    best = int(np.argmax(theirs))
    needed, level = float(theirs_n[best]), float(theirs[best])
    risen = np.maximum.accumulate(ours)
    if risen[0] >= level:
        return needed / float(ours_n[0]), math.inf
    if risen[-1] < level:
        return 0.0, needed / float(ours_n[-1])
    after = int(np.argmax(risen >= level))
    share = (level - risen[after - 1]) / (risen[after] - risen[after - 1])
    ends = np.log(ours_n[after - 1 : after + 1])
    factor = needed / math.exp(ends[0] + share * (ends[1] - ends[0]))
    return factor, factor
