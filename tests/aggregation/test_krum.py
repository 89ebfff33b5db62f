from __future__ import annotations

import numpy as np
import pytest

from wardround.aggregation.krum import Krum, scores


@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 2), (9, 2), (9, 3)])
def test_the_numbers_of_byzfl(byzfl, n, f):
    """ByzFL sums over n - f - 1 neighbours, the paper over n - f - 2: its f + 1 is our f."""
    for seed in range(10):
        rows = np.random.default_rng(seed).normal(size=(n, 20))
        found = Krum(f).combine(rows, np.ones(n))
        np.testing.assert_allclose(found.vector, byzfl.Krum(f + 1)(rows), rtol=1e-14)
        several = Krum(f, keep=n - f - 1).combine(rows, np.ones(n))
        np.testing.assert_allclose(several.vector, byzfl.MultiKrum(f + 1)(rows), rtol=1e-12, atol=1e-14)


def test_scores_by_hand():
    """Points 0, 1, 3, 6, 20 on a line, f = 1: the two nearest squared distances of each."""
    rows = np.array([[0.0], [1], [3], [6], [20]])
    np.testing.assert_array_equal(scores(rows, 1), [1 + 9, 1 + 4, 4 + 9, 9 + 25, 14**2 + 17**2])
    assert Krum(1).combine(rows, np.ones(5)).used == (1,)
    several = Krum(1, keep=3).combine(rows, np.ones(5))
    assert several.used == (0, 1, 2)
    assert several.vector == pytest.approx([4 / 3])


def test_not_being_kept_is_no_flag():
    rows = np.random.default_rng(0).normal(size=(7, 200))
    assert not Krum(2).combine(rows, np.ones(7)).flagged


def test_liars_that_agree_are_not_chosen():
    """Two that send the very same update have distance 0, but too few neighbours to win."""
    rows = np.random.default_rng(1).normal(size=(7, 50))
    rows[5:] = -3.0
    assert not {5, 6} & set(Krum(2, keep=5).combine(rows, np.ones(7)).used)


def test_keep_and_f_must_fit_into_the_round():
    assert Krum(1, keep=2).least_sites == 5
    assert Krum(1, keep=6).least_sites == 7
