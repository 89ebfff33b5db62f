from __future__ import annotations

import math

import numpy as np
import pytest

from wardround.aggregation.geometric import GeometricMedian, geometric_median, safe_weights


def test_the_numbers_of_byzfl(byzfl):
    for n in (3, 4, 9):
        rows = np.random.default_rng(n).normal(size=(n, 20))
        expected = byzfl.GeometricMedian(nu=1e-6, T=2000)(rows)
        np.testing.assert_allclose(geometric_median(rows, np.ones(n), 1e-6), expected, atol=1e-5)


def test_on_a_line_it_is_the_weighted_median():
    rows = np.array([[0.0], [1], [2], [10], [11]])
    assert geometric_median(rows, np.ones(5), 1e-9) == pytest.approx([2], abs=1e-4)
    assert geometric_median(rows, np.array([1.0, 5, 1, 1, 1]), 1e-9) == pytest.approx([1], abs=1e-4)


def test_of_a_triangle_it_sees_every_side_under_120_degrees():
    """Fermat's point: the unit vectors to the corners add up to zero."""
    rows = np.array([[0.0, 0], [4, 0], [1, 3]])
    point = geometric_median(rows, np.ones(3), 1e-9)
    towards = (rows - point) / np.linalg.norm(rows - point, axis=1, keepdims=True)
    np.testing.assert_allclose(towards.sum(0), 0, atol=1e-5)


def test_an_update_that_is_the_median_itself_divides_by_nothing():
    rows = np.array([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    np.testing.assert_allclose(geometric_median(rows, np.ones(5), 1e-6), 0, atol=1e-5)


def test_a_liar_at_the_start_of_the_iteration_does_not_hold_it_there():
    """An update that is the coordinate-wise median would stop the paper's iteration at once."""
    rows = np.array([[0.0, 0, 9], [4, 0, 9], [1, 3, 9], [1, 0, 9], [1, 0, 9.0]])
    alone = geometric_median(rows, np.array([1.0, 1, 1, 1e-9, 1e-9]), 1e-9)
    np.testing.assert_allclose(alone, geometric_median(rows[:3], np.ones(3), 1e-9), atol=1e-4)
    crowd = np.vstack([np.zeros((6, 2)), [[1e6, 0]]])
    np.testing.assert_array_equal(geometric_median(crowd, np.ones(7), 1e-6), 0)


@pytest.mark.parametrize("size", [10.0, 1e3, 1e12])
@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 3)])
def test_the_bound_of_minsker_holds_however_far_the_liars_are(n, f, size):
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 15))
    rows[-f:] = size * rng.normal(size=15)
    centre = rows[:-f].mean(0)
    radius, share = np.linalg.norm(rows[:-f] - centre, axis=1).max(), f / n
    point = GeometricMedian(f).combine(rows, np.ones(n)).vector
    assert np.linalg.norm(point - centre) <= radius * (1 - share) / math.sqrt(1 - 2 * share)


def test_sites_weigh_their_patients_up_to_the_cap():
    rows = np.random.default_rng(0).normal(size=(5, 6))
    weights = np.array([1.0, 2, 3, 4, 9])
    free = geometric_median(rows, np.array([1.0, 2, 3, 4, 6]), 1e-6)
    np.testing.assert_array_equal(GeometricMedian(1).combine(rows, weights).vector, free)


def test_where_f_sites_would_hold_half_of_the_weight_all_weigh_the_same():
    """Whoever holds half decides alone, and a site that stays away must not be able to end the run."""
    np.testing.assert_array_equal(safe_weights(np.array([20.0, 5, 5]), 1, 2.0), np.ones(3))
    np.testing.assert_array_equal(safe_weights(np.array([20.0, 6, 5, 1]), 1, 2.0), [11, 6, 5, 1])
    np.testing.assert_array_equal(safe_weights(np.array([9.0, 5, 5]), 1, 2.0), [9, 5, 5])
    np.testing.assert_array_equal(safe_weights(np.array([10.0, 5, 5]), 1, 2.0), np.ones(3))
