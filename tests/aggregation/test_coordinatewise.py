"""The coordinate-wise median and the trimmed mean: ByzFL's numbers, and the honest interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround.aggregation.median import CoordinateMedian, median
from wardround.aggregation.trimmed import TrimmedMean, trimmed_mean


@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_the_numbers_of_byzfl(byzfl, n):
    rows = np.random.default_rng(n).normal(size=(n, 30))
    np.testing.assert_allclose(median(rows), byzfl.Median()(rows), rtol=1e-14)
    for f in range((n - 1) // 2 + 1):
        np.testing.assert_allclose(trimmed_mean(rows, f), byzfl.TrMean(f)(rows), rtol=1e-12, atol=1e-15)


def test_nobody_trimmed_is_the_mean():
    rows = np.random.default_rng(0).normal(size=(4, 9))
    np.testing.assert_allclose(trimmed_mean(rows, 0), rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(trimmed_mean(rows[:3], 1), np.median(rows[:3], axis=0))


@settings(max_examples=80, deadline=None)
@given(rows=arrays(np.float64, (7, 3), elements=st.floats(-1e30, 1e30)), f=st.integers(0, 3))
def test_every_value_lies_between_honest_ones_whoever_the_liars_are(rows, f):
    """The liars are any f rows: the last ones here, and the values are any."""
    low, high = rows[: 7 - f].min(0), rows[: 7 - f].max(0)
    slack = 1e-12 * np.abs(rows).max()
    for rule in (CoordinateMedian(f), TrimmedMean(f)):
        vector = rule.combine(rows, np.ones(7)).vector
        assert ((low - slack <= vector) & (vector <= high + slack)).all()
