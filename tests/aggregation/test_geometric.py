from __future__ import annotations

import math

import numpy as np
import pytest

from wardround.aggregation.geometric import GeometricMedian, geometric_median, safe_weights


def nu_of(rows: np.ndarray, smoothing: float) -> float:
    return smoothing * float(np.median(np.linalg.norm(rows - np.median(rows, axis=0), axis=1)))


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_the_numbers_of_byzfl(byzfl, smoothing):
    for n in (3, 4, 9):
        rows = np.random.default_rng(n).normal(size=(n, 20))
        expected = byzfl.GeometricMedian(nu=nu_of(rows, smoothing), T=2000)(rows)
        np.testing.assert_allclose(geometric_median(rows, np.ones(n), smoothing), expected, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 1.0, 2.0])
def test_the_weighted_pulls_on_it_add_up_to_zero(smoothing):
    """The condition of its optimum: sum a_i (x_i - v) / max(nu, |x_i - v|) = 0."""
    rng = np.random.default_rng(1)
    rows, weights = rng.normal(size=(6, 12)) * rng.uniform(0.5, 4, (6, 1)), rng.uniform(1, 3, 6)
    pulls = rows - geometric_median(rows, weights, smoothing)
    lengths = np.maximum(np.linalg.norm(pulls, axis=1), nu_of(rows, smoothing))
    np.testing.assert_allclose((weights / lengths) @ pulls, 0, atol=1e-5)


def test_with_a_wide_nu_it_is_the_weighted_mean():
    rows, weights = np.random.default_rng(0).normal(size=(5, 30)), np.array([1.0, 2, 3, 4, 5])
    found = geometric_median(rows, weights, 10.0)
    np.testing.assert_allclose(found, weights @ rows / 15, atol=1e-12)


def test_of_a_triangle_it_sees_every_side_under_120_degrees():
    """Fermat's point, where all corners are farther than nu."""
    rows = np.array([[0.0, 0], [4, 0], [1, 3]])
    point = geometric_median(rows, np.ones(3), 0.1)
    towards = (rows - point) / np.linalg.norm(rows - point, axis=1, keepdims=True)
    np.testing.assert_allclose(towards.sum(0), 0, atol=1e-5)


def test_a_majority_that_agrees_is_the_median():
    crowd = np.vstack([np.zeros((6, 2)), [[1e6, 0]]])
    np.testing.assert_array_equal(geometric_median(crowd, np.ones(7), 1.0), 0)


@pytest.mark.parametrize("size", [10.0, 1e3, 1e12])
@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 3)])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_the_bound_holds_however_far_the_liars_are(n, f, size, smoothing):
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 15))
    rows[-f:] = size * rng.normal(size=15)
    centre = rows[:-f].mean(0)
    radius, share = np.linalg.norm(rows[:-f] - centre, axis=1).max(), f / n
    point = GeometricMedian(f, smoothing=smoothing).combine(rows, np.ones(n)).vector
    wide = radius + nu_of(rows, smoothing)
    bound = max(wide, radius * (1 - share) / math.sqrt(1 - 2 * share))
    assert np.linalg.norm(point - centre) <= bound


def test_sites_weigh_their_patients_up_to_the_cap():
    rows = np.random.default_rng(0).normal(size=(5, 6))
    weights = np.array([1.0, 2, 3, 4, 9])
    for cap, counted in ((1.0, [1.0, 2, 3, 3, 3]), (2.0, [1.0, 2, 3, 4, 6])):
        found = GeometricMedian(1, weight_cap=cap).combine(rows, weights).vector
        np.testing.assert_array_equal(found, geometric_median(rows, np.array(counted), 0.3))


def test_where_f_sites_would_hold_half_of_the_weight_all_weigh_the_same():
    """Whoever holds half decides alone, and a site that stays away must not end the run."""
    np.testing.assert_array_equal(safe_weights(np.array([20.0, 5, 5]), 1, 2.0), np.ones(3))
    np.testing.assert_array_equal(safe_weights(np.array([20.0, 6, 5, 1]), 1, 2.0), [11, 6, 5, 1])
    np.testing.assert_array_equal(safe_weights(np.array([9.0, 5, 5]), 1, 2.0), [9, 5, 5])
    np.testing.assert_array_equal(safe_weights(np.array([10.0, 5, 5]), 1, 2.0), np.ones(3))
