from __future__ import annotations

import numpy as np
import pytest

from wardround.aggregation.krum import Krum
from wardround.aggregation.mixing import Mixed, neighbours
from wardround.aggregation.trimmed import TrimmedMean


@pytest.mark.parametrize(("n", "f"), [(4, 1), (7, 2), (9, 3)])
def test_the_numbers_of_byzfl(byzfl, n, f):
    rows = np.random.default_rng(n).normal(size=(n, 20))
    mixed = byzfl.NNM(f)(rows)
    np.testing.assert_allclose([rows[list(near)].mean(0) for near in neighbours(rows, f)], mixed, rtol=1e-12)
    expected = byzfl.TrMean(f)(mixed)
    np.testing.assert_allclose(Mixed(TrimmedMean(f)).combine(rows, np.ones(n)).vector, expected, rtol=1e-11)


def test_by_hand():
    rows = np.array([[0.0], [1], [3], [100]])
    assert neighbours(rows, 1) == [(0, 1, 2), (1, 0, 2), (2, 1, 0), (3, 2, 1)]
    assert Mixed(TrimmedMean(1)).combine(rows, np.ones(4)).vector == pytest.approx([4 / 3])


def test_mixing_brings_unequal_honest_updates_together():
    """What the paper is about: the mixed rows spread a fraction of what the updates do."""
    rows = np.random.default_rng(0).normal(size=(10, 300))
    mixed = np.array([rows[list(near)].mean(0) for near in neighbours(rows, 2)])
    assert mixed.var(axis=0).sum() < 0.1 * rows.var(axis=0).sum()


def test_what_entered_is_said_of_the_updates_that_came():
    rows = np.random.default_rng(0).normal(size=(6, 300))
    rows[3] = 40.0
    combined = Mixed(Krum(1)).combine(rows, np.ones(6))
    assert combined.used == (0, 1, 2, 4, 5)
    assert list(combined.flagged) == [3]


def test_it_needs_what_its_rule_needs():
    assert (Mixed(Krum(1)).f, Mixed(Krum(1)).least_sites) == (1, 5)
    assert Mixed(TrimmedMean(2)).least_sites == 5
