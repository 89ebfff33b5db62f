"""What every robust rule owes: symmetry, a bound under attack, refusals, sound flags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.geometric import GeometricMedian
from wardround.aggregation.krum import Krum
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.mixing import Mixed
from wardround.aggregation.trimmed import TrimmedMean
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import ADDITIVE, READABLE, Traits, require_fit

RULES = (
    ClippedMean(1),
    CoordinateMedian(1),
    TrimmedMean(1),
    Krum(1),
    Krum(1, keep=4),
    GeometricMedian(1),
    Mixed(TrimmedMean(1)),
    Mixed(GeometricMedian(1)),
)
BY_NAME = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
N, F = 7, 1
EQUAL = np.ones(N)


def honest(seed: int = 0, n: int = N, d: int = 8) -> np.ndarray:
    """Return n updates of unequal hospitals: a common part, and a part of their own."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=d) + 0.7 * rng.normal(size=(n, d))


@BY_NAME
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_sites_does_not_matter(rule, seed):
    rng = np.random.default_rng(seed)
    rows, weights, order = honest(seed), rng.uniform(1, 9, N), rng.permutation(N)
    there, here = rule.combine(rows[order], weights[order]), rule.combine(rows, weights)
    np.testing.assert_allclose(there.vector, here.vector, rtol=1e-5, atol=1e-6)
    assert sorted(int(order[row]) for row in there.used) == list(here.used)


@BY_NAME
def test_equal_updates_are_their_own_aggregate_and_nobody_is_flagged(rule):
    row = honest(n=1)[0]
    combined = rule.combine(np.tile(row, (N, 1)), np.arange(1.0, N + 1))
    np.testing.assert_allclose(combined.vector, row, rtol=1e-12)
    assert not combined.flagged


@pytest.mark.parametrize("rule", [rule for rule in RULES if not isinstance(rule, ClippedMean)], ids=lambda r: r.name)
def test_a_translation_of_all_updates_is_one_of_the_aggregate(rule):
    """Not so for the clipped mean: it measures from zero."""
    rows, shift = honest(), np.linspace(-5, 5, 8)
    moved, still = rule.combine(rows + shift, EQUAL), rule.combine(rows, EQUAL)
    np.testing.assert_allclose(moved.vector, still.vector + shift, atol=1e-5)


@BY_NAME
def test_scaling_all_updates_scales_the_aggregate(rule):
    rows = honest()
    np.testing.assert_allclose(rule.combine(8 * rows, EQUAL).vector, 8 * rule.combine(rows, EQUAL).vector, atol=1e-4)


@BY_NAME
@pytest.mark.parametrize("size", [1e3, 1e30, 1e200])
def test_one_site_at_infinity_moves_the_aggregate_by_a_bounded_amount(rule, size):
    """It stays within reach of the honest ones, and the site is flagged; a plain mean follows it."""
    rows = honest(3)
    rows[2] = size * np.array([1, -1, 1, 1, 0, -1, 1, 0])
    rest = np.delete(rows, 2, axis=0)
    combined = rule.combine(rows, EQUAL)
    reach = np.linalg.norm(rest - rest.mean(0), axis=1).max()
    assert np.linalg.norm(combined.vector - rest.mean(0)) < 1.5 * reach
    assert list(combined.flagged) == [2]
    assert np.abs(rows.mean(0)).max() > 30 * reach


@BY_NAME
def test_a_liar_cannot_buy_weight(rule):
    """A hostile site with a million patients, as it says, moves the aggregate as one with 18 does."""
    rows, weights = honest(4), np.array([5.0, 6, 7, 8, 9, 10, 11])
    rows[0] = -rows[1:].mean(0)
    far, near = weights.copy(), weights.copy()
    far[0], near[0] = 1e6, 18.0  # both beyond any cap: twice the median is 18
    found, bounded = rule.combine(rows, far), rule.combine(rows, near)
    np.testing.assert_allclose(found.vector, bounded.vector, atol=1e-12)


@BY_NAME
def test_a_round_refuses_what_is_not_finite_and_goes_on_without_it(rule, play, update, flat):
    rows = honest(5, 8)
    replies = {f"site-{k}": update(row) for k, row in enumerate(rows)}
    replies["site-3"].params["bias"][1] = np.nan
    aggregate, missing = play(rule, replies)
    assert list(missing) == ["site-3"]
    assert "NaN" in missing["site-3"]
    expected = rule.combine(np.delete(rows, 3, axis=0).astype(np.float32), EQUAL).vector
    np.testing.assert_allclose(flat(aggregate), expected, rtol=1e-6)
    assert "site-3" not in aggregate.sites


@BY_NAME
def test_a_round_does_not_depend_on_who_is_first(rule, play, update, flat):
    replies = {f"site-{k}": update(row, k + 1.0) for k, row in enumerate(honest(6))}
    one, two = (play(rule, dict(order))[0] for order in (replies.items(), reversed(replies.items())))
    np.testing.assert_array_equal(flat(one), flat(two))
    assert one.sites == two.sites


@BY_NAME
def test_too_few_sites_are_refused_before_and_after_the_question(rule, play, update, context):
    least = 5 if rule.name in ("Krum", "Multi-Krum") else 3
    assert rule.least_sites == least
    with pytest.raises(ConfigRefused, match=f"min_clients {least} or more"):
        next(rule.round(context(need=least - 1)))
    with pytest.raises(RoundRefused, match=f"{least - 1} updates"):
        play(rule, {f"site-{k}": update(row) for k, row in enumerate(honest(0, least - 1))})
    play(rule, {f"site-{k}": update(row) for k, row in enumerate(honest(0, least))}, context(need=least))


@BY_NAME
def test_more_flagged_sites_than_f_stop_the_round(rule, play, update):
    replies = {f"site-{k}": update(row) for k, row in enumerate(honest(7))}
    replies["site-1"] = update(1e4 * np.ones(8))
    aggregate, _ = play(rule, replies)
    assert list(aggregate.flagged) == ["site-1"]
    replies["site-4"] = update([3e4, -3e4] * 4)
    with pytest.raises(RoundRefused, match=r"2 flagged sites .*site-1: .*site-4: ") as refused:
        play(rule, replies)
    assert "at most 1 (f in the job)" in refused.value.expected


@BY_NAME
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_honest_sites_of_high_dimension_are_not_flagged(rule, seed):
    """In many dimensions distances hardly differ; false flags would cost the federation its round."""
    rng = np.random.default_rng(seed)
    own = rng.uniform(0.5, 1.5, (N, 1))
    assert not rule.combine(rng.normal(size=500) + own * rng.normal(size=(N, 500)), EQUAL).flagged


@BY_NAME
def test_a_site_with_other_blocks_is_refused(rule, play, update):
    replies = {f"site-{k}": update(row) for k, row in enumerate(honest(8))}
    del replies["site-6"].params["bias"]
    _, missing = play(rule, replies)
    assert list(missing) == ["site-6"]


@BY_NAME
def test_updates_that_nobody_can_read_are_refused_when_the_job_is_made(rule):
    require_fit([], rule)

    class Mask:
        name = "mask"
        traits = Traits(needs=frozenset({ADDITIVE}), breaks=frozenset({READABLE}))

    with pytest.raises(ConfigRefused, match="nobody opens one by one"):
        require_fit([Mask()], rule)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CoordinateMedian(-1),
        lambda: TrimmedMean(True),
        lambda: Krum(1, keep=0),
        lambda: CoordinateMedian(1, far=1.0),
        lambda: CoordinateMedian(1, far=float("nan")),
        lambda: GeometricMedian(1, weight_cap=0.5),
        lambda: GeometricMedian(1, smoothing=0.0),
        lambda: ClippedMean(1, factor=0.2, far=5.0),
        lambda: Mixed("median"),
        lambda: Mixed(Mixed(TrimmedMean(1))),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(make):
    with pytest.raises(ConfigRefused):
        make()
