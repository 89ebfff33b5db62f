from __future__ import annotations

import numpy as np

from wardround.aggregation import rows as module
from wardround.aggregation.rows import distances, norms, pairwise, weighted_mean


def test_slices_of_columns_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    rows, point, weights = rng.normal(size=(5, 17)), rng.normal(size=17), rng.uniform(1, 2, 5)
    for chunk in (4, 17, 100):
        monkeypatch.setattr(module, "CHUNK", chunk)
        np.testing.assert_allclose(distances(rows, point), np.linalg.norm(rows - point, axis=1), rtol=1e-14)
        np.testing.assert_allclose(norms(rows), np.linalg.norm(rows, axis=1), rtol=1e-14)
        full = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(pairwise(rows), full, rtol=1e-13)
        np.testing.assert_allclose(weighted_mean(rows, weights), np.average(rows, 0, weights), rtol=1e-13)


def test_the_distance_of_two_long_rows_is_not_lost():
    """Through scalar products in float32 it would be 0: seven digits of their squares agree."""
    rows = np.full((2, 100), 1e4, np.float32)
    rows[1, 0] += 1
    assert pairwise(rows)[0, 1] == 1


def test_squares_beyond_float64_are_infinite_not_nan():
    rows = np.array([[1e200, 0.0], [-1e200, 0.0], [0.0, 1.0]])
    assert np.isinf(pairwise(rows)[0, 1])
    assert not np.isnan(pairwise(rows)).any()
    np.testing.assert_array_equal(norms(rows), [np.inf, np.inf, 1.0])
