from __future__ import annotations

import numpy as np
import pytest

from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.mean import WeightedMean
from wardround.core.arrays import norm
from wardround.core.errors import RoundRefused

UNIT = np.eye(8)


def test_by_hand(play, update, flat):
    """Norms 1, 2, 3: the bound of the first round is 2. Weights 10, 20, 30 and a cap of 2 x 20."""
    replies = {"a": update(UNIT[0], 10), "b": update(2 * UNIT[1], 20), "c": update(3 * UNIT[2], 30)}
    aggregate, _ = play(ClippedMean(1), replies)
    np.testing.assert_allclose(flat(aggregate)[:3], np.array([10 * 1, 20 * 2, 30 * 2]) / 60, rtol=1e-6)


def test_the_bound_is_the_median_norm_of_the_round_before(play, update, flat, context):
    kept = context()
    play(ClippedMean(1), {s: update(k * UNIT[0], 8) for s, k in zip("abc", (1, 2, 3), strict=True)}, kept)
    assert kept.memory == {"median_norm": 2.0, "median_weight": 8.0}
    replies = {"a": update(5 * UNIT[0], 8), "b": update(UNIT[1], 8), "c": update(1.5 * UNIT[2], 100)}
    aggregate, _ = play(ClippedMean(1), replies, kept)
    np.testing.assert_allclose(flat(aggregate)[:3], np.array([8 * 2, 8 * 1, 16 * 1.5]) / 32, rtol=1e-6)
    assert kept.memory == {"median_norm": 1.5, "median_weight": 8.0}


def test_folding_is_the_matrix_rule(play, update, flat, context):
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    weights = np.array([3.0, 4, 5, 6, 30])
    replies = {f"site-{k}": update(row, weights[k]) for k, row in enumerate(rows)}
    bounds = {"median_norm": float(np.median(np.linalg.norm(rows, axis=1))), "median_weight": 5.0}
    aggregate, _ = play(ClippedMean(1), replies, context(memory=dict(bounds)))
    np.testing.assert_allclose(flat(aggregate), ClippedMean(1).combine(rows, weights).vector, rtol=2e-6)


def test_within_the_bounds_it_is_the_weighted_mean_bit_for_bit(play, update, flat, context):
    rows = np.random.default_rng(1).normal(size=(4, 8))
    replies = {f"site-{k}": update(row, 7.0 + k) for k, row in enumerate(rows)}
    wide = context(memory={"median_norm": 100.0, "median_weight": 8.0})
    np.testing.assert_array_equal(flat(play(ClippedMean(1), replies, wide)[0]), flat(play(WeightedMean(), replies)[0]))


def test_what_is_far_beyond_the_bound_is_left_out_and_flagged(play, update, flat, context):
    kept = context(memory={"median_norm": 1.0, "median_weight": 1.0})
    replies = {"a": update(UNIT[0]), "b": update(UNIT[1]), "c": update(4.1 * UNIT[2])}
    aggregate, _ = play(ClippedMean(1), replies, kept)
    np.testing.assert_allclose(flat(aggregate)[:3], [0.5, 0.5, 0])
    assert aggregate.sites == ("a", "b")
    assert "4.1 times as long as the bound" in aggregate.flagged["c"]
    replies["c"] = update(3.9 * UNIT[2])
    aggregate, _ = play(ClippedMean(1), replies, kept)
    np.testing.assert_allclose(flat(aggregate)[:3], [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    assert not aggregate.flagged


def test_one_site_moves_the_mean_by_its_share_of_the_bound(play, update, context):
    bounds = {"median_norm": 2.0, "median_weight": 1.0}
    quiet = {"a": update(UNIT[0]), "b": update(UNIT[1]), "c": update(np.zeros(8))}
    loud = quiet | {"c": update(-7.9 * UNIT[3])}
    one, two = (play(ClippedMean(1), replies, context(memory=dict(bounds)))[0] for replies in (quiet, loud))
    moved = norm({name: two.params[name] - one.params[name] for name in one.params})
    assert moved == pytest.approx(2.0 / 3, rel=1e-6)


def test_a_liar_moves_the_next_bound_only_within_the_honest_norms(play, update, context):
    honest = {"a": update(UNIT[0]), "b": update(1.2 * UNIT[1])}
    for size in (0.0, 1e-9, 1e30):
        kept = context()
        play(ClippedMean(1), honest | {"c": update(size * UNIT[2])}, kept)
        assert 1.0 <= kept.memory["median_norm"] <= 1.2 + 1e-6


def test_a_round_that_is_refused_leaves_the_bound_alone(play, update, context):
    kept = context(memory={"median_norm": 1.0, "median_weight": 1.0})
    with pytest.raises(RoundRefused, match="flagged"):
        play(ClippedMean(1), {s: update(9 * UNIT[0]) for s in "abc"}, kept)
    assert kept.memory["median_norm"] == 1.0


def test_sites_that_learn_nothing_do_not_freeze_the_federation(play, update, context):
    zeros = {"a": update(np.zeros(8)), "b": update(np.zeros(8)), "c": update(UNIT[0])}
    for kept in (context(), context(memory={"median_norm": 1.0, "median_weight": 1.0})):
        with pytest.raises(RoundRefused, match="half or more are zero"):
            play(ClippedMean(1), zeros, kept)
