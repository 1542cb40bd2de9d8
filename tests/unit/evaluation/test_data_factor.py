import math

import numpy as np
import pytest

from tove.evaluation.data_factor import factor_in_data

SIZES = np.array([125.0, 500.0, 2000.0, 8000.0])


def line(sizes: np.ndarray, shift: float = 1.0) -> np.ndarray:
    """A score that rises with log n, as if there were `shift` times as much data."""
    return 0.5 + 0.04 * np.log(shift * sizes)


@pytest.mark.parametrize("factor", [1.0, 3.0, 16.0, 64.0])
def test_the_factor_of_two_log_linear_curves_is_their_shift(factor: float):
    low, high = factor_in_data(SIZES, line(SIZES, factor), SIZES, line(SIZES))
    assert low == pytest.approx(factor)
    assert high == (math.inf if factor == 64.0 else pytest.approx(factor))


def test_curves_may_have_points_of_their_own():
    few, many = SIZES[:2], SIZES[1:]
    assert factor_in_data(few, line(few, 40.0), many, line(many))[0] == pytest.approx(40.0)


def test_where_the_curves_do_not_meet_there_is_a_bound():
    above = factor_in_data(SIZES, line(SIZES, 1000.0), SIZES, line(SIZES))
    below = factor_in_data(SIZES, line(SIZES), SIZES, line(SIZES, 5.0))
    assert above == (64.0, math.inf)
    assert below == (0.0, 1.0)


def test_a_dip_does_not_move_the_place_where_a_score_is_reached_first():
    ours = np.array([0.6, 0.8, 0.7, 0.9])
    theirs = np.array([0.5, 0.6, 0.8, 0.7])
    assert factor_in_data(SIZES, ours, SIZES, theirs)[0] == pytest.approx(4.0)
