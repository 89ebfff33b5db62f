"""The codec against exact fractions, closed forms of stochastic rounding, and its own published bound."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.arrays import Layout
from wardround.core.errors import ReleaseRefused, RoundRefused
from wardround.secagg.fixed_point import (
    FIRST_RANGE,
    MARGIN,
    WEIGHT_DIGITS,
    WIDE,
    WIDE_RANGE,
    Grid,
    decode,
    encode,
    first_grid,
    longest_error,
    mean_of,
    next_grid,
)

NARROW = WIDE + 8  # more values than a wide block may have: one digit each
LAYOUT = Layout(("conv", "bias"), ((NARROW,), (2, 3)))
LOWEST, HIGHEST = -60, 20
SIGMAS = 5  # of a binomial: one draw in two million lies beyond; all seeds here are fixed
quick = settings(max_examples=25, deadline=None)


class Always:
    """A generator that draws one number for ever."""

    def __init__(self, u):
        self.u = u

    def random(self, size, dtype):
        return np.full(size, self.u, dtype)


def grid_of(bits=8, exponents=(-6, -6), weighted=False):
    return Grid(LAYOUT, bits, exponents, weighted)


def blocks(vector):
    return LAYOUT.unflatten(np.asarray(vector, np.float32))


def exactly(values):
    return [Fraction(float(value)) for value in values]


def code(grid, vector, residual=None, weight=1.0, patients=1, seed=0):
    return encode(grid, blocks(vector), residual, weight, patients, np.random.default_rng(seed))


def q_of(grid, coded):
    return decode(grid, coded.fields.astype(np.int64))[0]


# --- the layout of the integers


def test_levels_base_fields_and_limits_by_hand():
    grid = grid_of(bits=4, weighted=True)
    assert (grid.levels, grid.base, grid.wide) == (7, 15, (False, True))
    assert grid.fields == NARROW + 2 * 6 + WEIGHT_DIGITS
    assert grid_of(bits=4).fields == NARROW + 2 * 6
    assert list(grid.limits()) == [7] * NARROW + [7 * 16] * 6
    assert list(grid.steps()) == [2.0**-6] * LAYOUT.total


def test_a_block_is_wide_up_to_the_stated_size():
    layout = Layout(("a", "b"), ((WIDE,), (WIDE + 1,)))
    assert Grid(layout, 8, (0, 0), False).wide == (True, False)


@pytest.mark.parametrize(
    "other",
    [
        {"bits": 9},
        {"exponents": (-6, -7)},
        {"weighted": True},
        {"layout": replace(LAYOUT, names=("conv", "other"))},
        {"layout": replace(LAYOUT, shapes=((NARROW,), (3, 2)))},
    ],
)
def test_the_digest_tells_grids_apart(other):
    assert grid_of().digest == grid_of().digest
    assert replace(grid_of(), **other).digest != grid_of().digest


# --- rounding


@quick
@given(bits=st.integers(4, 16), exponents=st.tuples(*[st.integers(-30, 5)] * 2), seed=st.integers(0, 2**32))
def test_every_value_in_range_is_within_the_published_bound(bits, exponents, seed):
    grid = grid_of(bits, exponents)
    reach = grid.limits() * grid.steps()
    vector = (np.random.default_rng(seed).uniform(-1, 1, LAYOUT.total) * reach).astype(np.float32)
    vector[:3], vector[-3:] = (reach[0], -reach[0], 0), (reach[-1], -reach[-1], 0)
    vector = np.clip(vector, -reach, reach).astype(np.float32)
    vector = np.where(np.abs(vector) > reach, 0, vector)  # float32 rounds the range of a wide block of 16 bits up
    coded = code(grid, vector, seed=seed)
    assert coded.clipped == 0
    assert np.all(np.abs(q_of(grid, coded) * grid.steps() - vector) < grid.error())
    assert np.all(np.abs(coded.fields) <= grid.levels)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-24])
def test_whole_numbers_of_steps_stay_even_where_a_sum_in_float64_would_round_up(u):
    grid = grid_of(bits=16, exponents=(0, 0))
    vector = np.zeros(LAYOUT.total)
    vector[-3:] = [2.0**30, -(2.0**30), 2.0**29]
    coded = encode(grid, blocks(vector), None, 1.0, 1, Always(u))
    assert q_of(grid, coded).tolist() == vector.tolist()


@quick
@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6),
    leftover=st.floats(-1, 1, width=32),
    weight=st.sampled_from([1.0, 0.25, 1 / 3, 2.7]),
    seed=st.integers(0, 1000),
)
def test_the_integers_are_the_formula_in_exact_fractions(values, leftover, weight, seed):
    """q = floor(v / step + u), clipped; u as drawn. |v| < 2**29 steps here, so that float64 holds the sum whole."""
    grid = grid_of(4, (-3, -3))
    vector = np.concatenate([np.resize(np.array(values, np.float32), NARROW), np.array(values, np.float32)])
    residual = np.full(LAYOUT.total, leftover, np.float32)
    draws = exactly(np.random.default_rng(seed).random(LAYOUT.total, np.float32))
    wish = exactly(vector.astype(np.float64) * weight + residual)
    expected = [
        max(-limit, min(limit, (v * 8 + u).__floor__()))
        for v, u, limit in zip(wish, draws, grid.limits().tolist(), strict=True)
    ]
    coded = code(grid, vector, residual, weight, seed=seed)
    found = q_of(grid, coded)
    # a v so small that v + u is no float64 may fall to either side of a whole number: those are equal up to one
    off = [i for i in range(len(found)) if found[i] != expected[i]]
    assert all(0 < abs(wish[i]) < Fraction(1, 2**40) and abs(found[i] - expected[i]) == 1 for i in off)
    left = [v - Fraction(int(q), 8) for v, q in zip(wish, found, strict=True)]
    np.testing.assert_array_equal(coded.residual, np.array([float(value) for value in left], np.float32))


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.5, 0.93])
@pytest.mark.parametrize("whole", [0, 5, -5])
def test_rounding_is_unbiased(p, whole):
    """floor(w + p + u) is w + 1 with probability p: the count of those is binomial."""
    size = 40_000
    grid = Grid(Layout(("conv",), ((size,),)), 8, (-6,), False)
    p = float(np.float32(whole + p)) - whole
    update = {"conv": np.full(size, (whole + p) / 64, np.float32)}
    coded = encode(grid, update, None, 1.0, 1, np.random.default_rng(3))
    ups = int(np.count_nonzero(coded.fields == whole + 1))
    assert ups + int(np.count_nonzero(coded.fields == whole)) == size
    assert abs(ups - p * size) <= SIGMAS * np.sqrt(p * (1 - p) * size)


def test_the_spread_of_a_mean_is_the_published_one():
    """Half way between two integers is the worst case: the mean of k has the deviation error / (2 sqrt(k)) exactly."""
    size, sites = 20_000, 4
    grid = Grid(Layout(("conv",), ((size,),)), 8, (-6,), False)
    update = {"conv": np.full(size, 2.5 / 64, np.float32)}
    sums = sum(encode(grid, update, None, 1.0, 1, np.random.default_rng(n)).fields.astype(np.int64) for n in range(4))
    found = mean_of(grid, sums, sites)["conv"].std(dtype=np.float64)
    expected = 2.0**-6 / (2 * np.sqrt(sites))
    assert abs(found / expected - 1) <= SIGMAS / np.sqrt(2 * size)


def test_values_out_of_range_are_clipped_counted_and_kept_for_later():
    grid, vector = grid_of(4, (0, 0)), np.zeros(LAYOUT.total)
    vector[0], vector[-1] = 100, -1000
    coded = encode(grid, blocks(vector), None, 1.0, 1, Always(0.0))
    assert (q_of(grid, coded)[0], q_of(grid, coded)[-1], coded.clipped) == (7, -112, 2)
    assert (coded.residual[0], coded.residual[-1]) == (93, -888)
    assert not coded.residual[1:-1].any()


def test_the_same_draws_give_the_same_integers():
    vector = np.random.default_rng(1).normal(size=LAYOUT.total)
    one, same, other = (code(grid_of(), vector, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.fields, same.fields)
    np.testing.assert_array_equal(one.residual, same.residual)
    assert np.any(one.fields != other.fields)


# --- error feedback


def feedback(updates, num_rounds):
    """Return (sum of updates, sum of what was decoded, last residual) in float64, the grid renewed every round."""
    grid, residual = grid_of(6, (-7, -7)), None
    given_, told = np.zeros(LAYOUT.total), np.zeros(LAYOUT.total)
    for round_ in range(num_rounds):
        coded = code(grid, updates[round_], residual, seed=round_)
        q, residual = q_of(grid, coded), coded.residual
        given_ += updates[round_]
        told += q * grid.steps()
        grid = next_grid(grid, q, 1, 1.0)
    return given_, told, residual.astype(np.float64)


def test_feedback_telescopes_exactly():
    """Multiples of 2**-14 below 2**9: every number on the way is a float32. One value is clipped in each round."""
    rng = np.random.default_rng(0)
    updates = (rng.integers(-(2**12), 2**12, (6, LAYOUT.total)) / 2**14).astype(np.float32)
    updates[:, 0] = 64
    given_, told, residual = feedback(updates, 6)
    np.testing.assert_array_equal(told, given_ - residual)
    assert np.any(residual != 0)
    assert residual[0] > 1


def test_feedback_of_any_floats_telescopes_up_to_the_rounding_of_the_residual():
    updates = np.random.default_rng(1).normal(0, 0.1, (6, LAYOUT.total)).astype(np.float32)
    given_, told, residual = feedback(updates, 6)
    # a residual is at most the largest update so far and is kept to 24 bits, once in each round
    assert np.all(np.abs(given_ - residual - told) <= 6 * 2.0**-24 * np.abs(updates).max())


# --- two digits, and the patients


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_all_integers_of_a_wide_block_come_back_from_two_digits(bits):
    grid = grid_of(bits, (0, 0))
    limit = int(grid.limits()[-1])
    for start in (-limit, -grid.base // 2 - 3, -3, grid.base // 2 - 3, limit - 5):
        vector = np.zeros(LAYOUT.total)
        vector[-6:] = np.arange(start, start + 6)
        if np.any(np.float32(vector) != vector):
            continue  # beyond 24 bits
        coded = encode(grid, blocks(vector), None, 1.0, 1, Always(0.0))
        assert q_of(grid, coded).tolist() == vector.tolist()
        assert int(np.abs(coded.fields).max()) <= grid.levels


@quick
@given(bits=st.integers(4, 16), sites=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_sums_of_fields_decode_to_sums_of_values_and_of_patients(bits, sites, seed):
    rng, grid = np.random.default_rng(seed), grid_of(bits, (-4, -8), weighted=True)
    patients = [int(rng.integers(1, (grid.levels + 1) ** WEIGHT_DIGITS)) for _ in range(sites)]
    coded = [code(grid, rng.normal(0, 3, LAYOUT.total), patients=n, seed=n) for n in patients]
    q, found = decode(grid, sum(one.fields.astype(np.int64) for one in coded))
    assert found == sum(patients)
    np.testing.assert_array_equal(q, sum(q_of(grid, one) for one in coded))


def test_equal_weights_tell_no_patients():
    grid = grid_of()
    coded = code(grid, np.ones(LAYOUT.total), patients=77)
    assert len(coded.fields) == grid.fields
    assert decode(grid, coded.fields.astype(np.int64))[1] == 0


@pytest.mark.parametrize("change", [-1, 1])
def test_a_sum_of_another_length_is_refused(change):
    with pytest.raises(RoundRefused, match="numbers"):
        decode(grid_of(), np.zeros(grid_of().fields + change, np.int64))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_is_the_weighted_mean_within_the_bound(weighted):
    grid, rng = grid_of(8, (-8, -12), weighted=weighted), np.random.default_rng(5)
    patients, updates = [3, 17, 40, 8], rng.normal(0, 0.05, (4, LAYOUT.total)).astype(np.float32)
    weights = [n / 16 if weighted else 1.0 for n in patients]
    coded = [code(grid, x, None, w, n, seed=n) for x, w, n in zip(updates, weights, patients, strict=True)]
    assert not any(one.clipped for one in coded)
    totals, told = decode(grid, sum(one.fields.astype(np.int64) for one in coded))
    denominator = told / 16 if weighted else 4.0
    assert denominator == sum(weights)
    expected = np.average(updates.astype(np.float64), axis=0, weights=weights)
    found = LAYOUT.flatten(mean_of(grid, totals, denominator))
    bound = grid.error() * 4 / denominator + 2.0**-24 * (np.abs(expected) + grid.error() * 4 / denominator)
    assert np.all(np.abs(found - expected) < bound)
    assert np.any(np.abs(found - expected) > 0)


# --- refusals


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["update", "residual"])
def test_what_is_not_finite_is_refused_by_the_name_of_its_block(bad, where):
    vector, residual = np.ones(LAYOUT.total, np.float32), np.zeros(LAYOUT.total, np.float32)
    (vector if where == "update" else residual)[-1] = bad
    with pytest.raises(ReleaseRefused, match="NaN or inf in block 'bias'"):
        code(grid_of(), vector, residual)


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"conv": np.zeros(NARROW)},
        {"conv": np.zeros(NARROW), "bias": np.zeros((2, 3)), "more": np.zeros(1)},
        {"conv": np.zeros(NARROW), "other": np.zeros((2, 3))},
        {"conv": np.zeros(NARROW), "bias": np.zeros((3, 2))},
    ],
)
def test_other_blocks_are_refused(update):
    with pytest.raises(ReleaseRefused, match="2 blocks of this round's grid"):
        encode(grid_of(), update, None, 1.0, 1, np.random.default_rng(0))


def test_patients_must_fit_their_digits():
    grid = grid_of(bits=4, weighted=True)
    assert decode(grid, code(grid, np.zeros(LAYOUT.total), patients=511).fields.astype(np.int64))[1] == 511
    for patients in (0, -1, 512):
        with pytest.raises(ReleaseRefused, match="1 to 511"):
            code(grid, np.zeros(LAYOUT.total), patients=patients)


# --- the steps


def whole(grid, block):
    """Return the largest integer of a block: the first value's limit."""
    return int(grid.limits()[sum(grid.layout.sizes[:block])])


def fits_just(reach, limit, exponent):
    return limit * Fraction(2) ** exponent >= reach > limit * Fraction(2) ** (exponent - 1)


@pytest.mark.parametrize("bits", [4, 8, 12, 13, 16])
def test_first_steps_hold_four_times_the_spread_of_the_weights(bits):
    spare = 2 ** max(0, bits - 12)
    weights = {
        "small": np.full(3, 100, np.float32),
        "zero": np.zeros(NARROW, np.float32),
        "conv": np.resize(np.array([0.3, -0.3], np.float32), NARROW),
        "empty": np.zeros((0, 3), np.float32),
    }
    grid = first_grid(weights, bits, weighted=True)
    assert grid.layout.names == tuple(weights)
    assert grid.layout.shapes == ((3,), (NARROW,), (NARROW,), (0, 3))
    assert (grid.bits, grid.weighted) == (bits, True)
    one, two = grid.levels, grid.levels * (grid.base + 1)
    assert fits_just(WIDE_RANGE * spare, two, grid.exponents[0])
    assert fits_just(FIRST_RANGE * spare, one, grid.exponents[1])
    assert fits_just(Fraction(float(np.float32(0.3))) * 4 * spare, one, grid.exponents[2])
    assert fits_just(WIDE_RANGE * spare, two, grid.exponents[3])


@pytest.mark.parametrize(("size", "expected"), [(1e-30, LOWEST), (1e30, HIGHEST)])
def test_steps_have_a_range(size, expected):
    assert first_grid({"w": np.full(NARROW, size, np.float32)}, 8, weighted=False).exponents == (expected,)


@quick
@given(
    bits=st.integers(4, 16),
    exponents=st.tuples(*[st.integers(-20, 0)] * 2),
    sites=st.integers(1, 64),
    ratio=st.floats(0.01, 2),
    seed=st.integers(0, 2**32),
)
def test_next_steps_hold_the_spread_of_the_mean_and_the_old_leftover(bits, exponents, sites, ratio, seed):
    grid = grid_of(bits, exponents)
    rng = np.random.default_rng(seed)
    # below 2**20, where no bits are dropped; wide blocks move more
    totals = np.clip(grid.limits() * sites * rng.uniform(-1, 1, LAYOUT.total), -(2**20) + 1, 2**20 - 1).astype(np.int64)
    found, start = next_grid(grid, totals, sites, ratio), 0
    for block, size in enumerate(LAYOUT.sizes):
        square = sum(int(q) ** 2 for q in totals[start : start + size])
        start += size
        old, limit = Fraction(2) ** exponents[block], whole(grid, block)
        new = Fraction(2) ** found.exponents[block]
        if not square:
            assert new == old / 2
            continue
        # compare squares: reach is rms + one old step, and float64 rounds it in a few places
        rms_up, rms_down = ((limit * new * s - old) / (MARGIN * max(1, 2 ** (bits - 12))) for s in (1, Fraction(1, 2)))
        true, slack = Fraction(square, size) * (Fraction(ratio) / sites * old) ** 2, Fraction(1, 2**45)
        assert rms_up >= 0
        assert rms_up**2 >= true * (1 - slack)
        halved = LAYOUT.sizes[block] <= WIDE and new == old / 2  # a wide block's step shrinks no faster
        assert halved or rms_down < 0 or rms_down**2 < true * (1 + slack)
        assert limit * new >= old  # a residual of the old grid is below one old step
    assert (found.layout, found.bits, found.weighted) == (grid.layout, grid.bits, grid.weighted)


def test_a_block_that_did_not_move_gets_half_its_step_and_the_leftover_still_fits():
    grid = grid_of(4, (-6, LOWEST))
    assert next_grid(grid, np.zeros(LAYOUT.total, np.int64), 4, 1.0).exponents == (-7, LOWEST)
    assert whole(grid, 0) * 2.0**-7 >= 2.0**-6


def test_without_a_learning_rate_steps_are_halved():
    assert next_grid(grid_of(), np.ones(LAYOUT.total, np.int64), 4, 0.0).exponents == (-7, -7)


def test_the_mean_of_a_wide_block_near_zero_by_chance_halves_its_step_at_most():
    totals = np.zeros(LAYOUT.total, np.int64)
    totals[[0, -1]] = 1
    narrow, wide = next_grid(grid_of(8, (0, 0)), totals, 64, 1.0).exponents
    reach = 1 + MARGIN / (64 * np.sqrt(NARROW))
    assert 127 * 2.0**-7 < reach <= 127 * 2.0**-6
    assert (narrow, wide) == (-6, -1)  # two digits would hold 1 + MARGIN / (64 sqrt(6)) with 2**-14


def test_large_sums_keep_twenty_bits_of_the_spread():
    """256 sites at the limit of 16 bits: squares of 2**39 would overflow 64 bits; the spread is a constant's, known."""
    grid = grid_of(16, (-20, -30))
    totals = 256 * grid.limits()
    totals[::2] *= -1
    found = next_grid(grid, totals, 256, 1.0)
    for block, old in enumerate(grid.exponents):
        limit = whole(grid, block)
        reach = MARGIN * 16 * limit * Fraction(2) ** old + Fraction(2) ** old
        assert fits_just(reach, limit, found.exponents[block])


def test_the_next_steps_do_not_depend_on_the_order_of_addition():
    totals = np.random.default_rng(0).integers(-(2**30), 2**30, LAYOUT.total)
    shuffled = np.concatenate([totals[:NARROW][::-1], totals[NARROW:][::-1]])
    grid = grid_of(16)
    assert next_grid(grid, totals, 5, 0.9) == next_grid(grid, shuffled, 5, 0.9)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_coding_adds_to_a_mean_is_never_longer_than_the_published_bound(weighted):
    """Two rounds with error feedback, the second one on a finer grid; unequal weights."""
    coarse, fine = grid_of(exponents=(-5, -6), weighted=weighted), grid_of(exponents=(-7, -8), weighted=weighted)
    patients = (3, 40, 7)
    weights = [n / 16 if weighted else 1.0 for n in patients]
    rng, residuals = np.random.default_rng(3), [None] * 3
    for grid, before in ((coarse, None), (fine, coarse)):
        vectors = [rng.normal(0, 0.02, LAYOUT.total).astype(np.float32) for _ in patients]
        coded = [
            code(grid, *one, seed=n) for n, one in enumerate(zip(vectors, residuals, weights, patients, strict=True))
        ]
        assert [one.clipped for one in coded] == [0, 0, 0]
        residuals = [one.residual for one in coded]
        totals, _ = decode(grid, sum(one.fields.astype(np.int64) for one in coded))
        mean = LAYOUT.flatten(mean_of(grid, totals, sum(weights)))
        exact = np.average(np.array(vectors, np.float64), axis=0, weights=weights)
        assert 0 < np.linalg.norm(mean - exact) < longest_error(grid, before, 3, sum(weights))
