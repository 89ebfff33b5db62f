import math

import numpy as np
import pytest

from wardround.core.rng import stream
from wardround.core.rounding import HIGHEST, LOWEST, least_exponents, round_to_steps


def test_rounding_has_no_bias_and_loses_nothing():
    draws = 40_000
    values = np.full(draws, 0.3)
    q, left, clipped = round_to_steps(values, 0.25, 127.0, stream(0, "test"))
    assert set(q) == {1.0, 2.0}
    assert clipped == 0
    # 0.3 is rounded up with probability 0.2: five standard deviations of the mean of so many draws.
    assert abs(q.mean() - 1.2) < 5 * math.sqrt(0.2 * 0.8 / draws)
    np.testing.assert_array_equal(q * 0.25 + left, np.full(draws, 0.3))


def test_what_is_clipped_is_left_over_whole():
    q, left, clipped = round_to_steps(np.array([9.0, -9.0, 1.0]), 1.0, 4.0, stream(0, "test"))
    assert q.tolist() == [4.0, -4.0, 1.0]
    assert left.tolist() == [5.0, -5.0, 0.0]
    assert clipped == 2


@pytest.mark.parametrize("levels", [7, 127])
def test_the_exponent_is_the_least_that_fits(levels):
    reach = np.abs(stream(1, "reach").normal(size=500)) * 10.0 ** np.arange(-5, 5).repeat(50)
    found = least_exponents(np.append(reach, levels * 0.5), levels)
    assert found[-1] == -1
    assert (levels * np.ldexp(1.0, found[:-1]) >= reach).all()
    assert (levels * np.ldexp(1.0, found[:-1] - 1) < reach).all()
    assert least_exponents(0.0, levels) == 0
    assert least_exponents([1e30, 1e-30], levels).tolist() == [HIGHEST, LOWEST]
