"""Hospital-level noise: the bound in exact numbers, the distribution against its closed form, the quorum, the codec."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.keystream import WORD, expand
from wardround.dp import hospital_dp
from wardround.dp.accounting import mu_for
from wardround.dp.hospital_dp import (
    LARGEST_SCALE,
    LEAST_SCALE,
    REACH,
    ROUNDING,
    HospitalDP,
    Released,
    clipped,
    noised,
    privatise,
    signal_to_noise,
)
from wardround.dp.releases import GaussianRelease
from wardround.secagg.fixed_point import Coded, decode, encode, fixed_grid, mean_of
from wardround.secagg.packing import Packing

SEED = bytes(range(32))
LEAST_P = 1e-3  # chosen in advance; the words are fixed, so a test either always passes or never
quick = settings(max_examples=60, deadline=None)
scale = st.floats(LEAST_SCALE, LARGEST_SCALE)


def promise(**changed: Any) -> HospitalDP:
    usual = {
        "max_update_norm": 0.7,
        "noise_multiplier": 1.3,
        "sites": 8,
        "min_clients": 4,
        "colluders": 1,
        "distributed": True,
        "bits": 8,
    }
    return HospitalDP(**{**usual, **changed})


@pytest.fixture
def fixed_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same noise in every run of a test: different words for every call."""
    calls = iter(range(10**6))

    def words(count: int) -> Any:
        return expand(next(calls).to_bytes(4, "big") + SEED[4:], count, WORD)

    monkeypatch.setattr(hospital_dp, "secret_words", words)


def blocks(*values: float) -> dict[str, Any]:
    flat = np.asarray(values, np.float32)
    return {"model:norm": flat[:2], "model:conv": flat[2:].reshape(-1, 2)}


def square(x: Any, step: float) -> Fraction:
    return sum((Fraction(int(value)) ** 2 for value in x), Fraction(0)) * Fraction(step) ** 2


def code(given_: HospitalDP, released: Released, seed: int = 0) -> tuple[Any, Coded]:
    layout = hospital_dp.Layout(tuple(released.update), tuple(block.shape for block in released.update.values()))
    grid = fixed_grid(layout, given_)
    return grid, encode(grid, released.update, None, 1.0, 0, np.random.default_rng(seed))


# what one hospital can do


@quick
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=40), st.floats(1e-6, 1e4), st.floats(0.5, 1e3))
def test_one_hospital_moves_the_sum_by_at_most_the_clip_exactly(u: list[float], clip: float, z: float) -> None:
    given_ = promise(max_update_norm=clip, noise_multiplier=z)
    mine, step = clipped(given_, np.array(u)), given_.fine_step(len(u))
    others = clipped(given_, np.ones((5, len(u)))).sum(axis=0)
    assert square((others + mine) - others, step) <= Fraction(clip) ** 2
    assert given_.step % step == 0


@quick
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), scale), min_size=4, max_size=8).filter(lambda v: len(v) % 2 == 0)
)
def test_any_public_scales_keep_the_bound(pairs: list[tuple[float, float]]) -> None:
    given_ = promise()
    u = np.array([value / s for value, s in pairs])
    assert square(clipped(given_, u), given_.fine_step(len(u))) <= Fraction(given_.max_update_norm) ** 2


def test_the_bound_is_reached_and_the_direction_kept() -> None:
    given_, u = promise(), np.random.default_rng(0).normal(size=(3, 50_000)) * 9
    x = clipped(given_, u) * given_.fine_step(u.shape[-1])
    norms = np.linalg.norm(x, axis=-1)
    assert np.all(norms > given_.max_update_norm * (1 - 4 * ROUNDING))
    assert np.sum(x * u, axis=-1) / norms / np.linalg.norm(u, axis=-1) == pytest.approx(np.ones(3), abs=ROUNDING)


def test_small_updates_are_not_scaled_up_and_zero_stays_zero() -> None:
    given_ = promise()
    u = np.random.default_rng(0).uniform(-0.1, 0.1, 16)
    assert clipped(given_, u) * given_.fine_step(16) == pytest.approx(u, abs=0.5001 * given_.fine_step(16))
    assert not clipped(given_, np.zeros(16)).any()


def test_one_clip_over_all_blocks() -> None:
    given_ = promise(noise_multiplier=1e-1, bits=16, distributed=False)
    out = privatise(given_, blocks(100, 0, 0, 0, 0, 50), {"model:norm": 100.0, "model:conv": 1.0}).update
    # u = (1, 0, 0, 0, 0, 50): the small block's big number leaves almost nothing of the first
    assert out["model:norm"][0] == pytest.approx(0.7 / 50, abs=6 * given_.deviation)
    assert out["model:conv"][1, 1] == pytest.approx(0.7, abs=6 * given_.deviation)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_leave(bad: float) -> None:
    with pytest.raises(ReleaseRefused):
        privatise(promise(), blocks(0, 0, 0, bad), {"model:norm": 1.0, "model:conv": 1.0})


@pytest.mark.parametrize(
    "scales",
    [{}, {"model:norm": 1.0}, {"model:norm": 1.0, "model:conv": 0.0}, {"model:norm": 1.0, "model:conv": math.nan}],
)
def test_scales_that_do_not_fit(scales: dict[str, float]) -> None:
    with pytest.raises(ConfigRefused):
        privatise(promise(), blocks(0, 0, 0, 0), scales)


def test_what_leaves_is_what_the_audit_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital_dp, "secret_words", lambda count: expand(SEED, count, WORD))
    given_, s = promise(), {"model:norm": 0.5, "model:conv": 4.0}
    out = privatise(given_, blocks(1, 2, 3, 4), s).update
    q = noised(given_, clipped(given_, np.array([2.0, 4.0, 0.75, 1.0])))
    assert np.array_equal(np.concatenate([block.ravel() for block in out.values()]), q * given_.step)


def test_an_empty_update() -> None:
    with pytest.raises(ConfigRefused):
        privatise(promise(), {}, {})


# the noise


@pytest.mark.parametrize("offset", [0.0, 0.31])
def test_noise_of_one_site_is_the_rounded_gaussian(fixed_words: None, offset: float) -> None:
    given_, runs = promise(), 200_000
    fine, sigma = given_.fine_step(1), given_.deviation / given_.step
    x = np.full((runs, 1), round(offset * given_.step / fine), np.int64)
    q, mean = noised(given_, x)[:, 0], float(x[0, 0]) * fine / given_.step
    edge = math.ceil(3.5 * sigma)
    cuts = np.arange(-edge, edge + 1) + 0.5
    masses = np.diff(np.concatenate([[0.0], stats.norm.cdf((cuts - mean) / sigma), [1.0]]))
    counts = np.bincount(np.searchsorted(cuts, q), minlength=len(masses))
    assert stats.chisquare(counts, masses * runs).pvalue > LEAST_P
    assert q.mean() == pytest.approx(mean, abs=4 * sigma / math.sqrt(runs))
    assert q.var() == pytest.approx(sigma**2 + 1 / 12, rel=4 * math.sqrt(2 / runs))


@pytest.mark.parametrize(("distributed", "colluders", "shares"), [(True, 0, 3), (True, 1, 2), (False, 0, 1)])
def test_what_a_reader_does_not_know_is_the_whole_noise(
    fixed_words: None, distributed: bool, colluders: int, shares: int
) -> None:
    given_, runs = promise(distributed=distributed, colluders=colluders), 100_000
    assert given_.shares == shares
    total = sum(noised(given_, np.zeros((runs, 1), np.int64)) for _ in range(shares))[:, 0] * given_.step
    whole = given_.noise_multiplier * given_.max_update_norm
    assert total.std() == pytest.approx(whole, rel=4 / math.sqrt(2 * runs) + given_.step**2 * shares / 24 / whole**2)
    normed = (total + given_.step * (np.random.default_rng(0).random(runs) - 0.5)) / math.hypot(
        whole, given_.step * math.sqrt((shares + 1) / 12)
    )
    assert stats.kstest(normed, "norm").pvalue > LEAST_P


def test_values_and_sites_have_noise_of_their_own(fixed_words: None) -> None:
    given_ = promise()
    a, b = (noised(given_, np.zeros((50_000, 2), np.int64)) for _ in range(2))
    table = np.corrcoef(np.concatenate([a, b], axis=1).T) - np.eye(4)
    assert np.abs(table).max() < 5 / math.sqrt(50_000)


def test_nobody_can_choose_the_noise() -> None:
    for function in (noised, privatise):
        assert not {"seed", "rng", "generator"} & set(inspect.signature(function).parameters)
    np.random.seed(0)
    first = noised(promise(), np.zeros(64, np.int64))
    np.random.seed(0)
    assert (first != noised(promise(), np.zeros(64, np.int64))).any()


# the quorum


@pytest.mark.parametrize(("least", "colluders"), [(3, 0), (4, 1), (8, 2)])
def test_a_dropout_cannot_lower_the_noise_below_the_claim(least: int, colluders: int) -> None:
    given_ = promise(sites=12, min_clients=least, colluders=colluders)
    claimed = (given_.noise_multiplier * given_.max_update_norm) ** 2
    unknown = [(counted - 1 - colluders) * given_.deviation**2 for counted in range(least, 13)]
    assert unknown[0] == pytest.approx(claimed, rel=1e-12)
    assert all(noise >= claimed * (1 - 1e-12) for noise in unknown)


def test_every_update_says_what_it_costs() -> None:
    out = privatise(promise(), blocks(0, 0, 0, 0), {"model:norm": 1.0, "model:conv": 1.0})
    assert out.release == GaussianRelease("hospital", 1.3, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_update_norm": 0.0},
        {"max_update_norm": math.nan},
        {"max_update_norm": None},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"min_clients": 2, "colluders": 0},
        {"min_clients": 9},
        {"min_clients": 4.0},
        {"colluders": -1},
        {"colluders": 3},
        {"distributed": None},
        {"bits": 3},
        {"bits": 17},
        {"bits": 4},
        {"max_update_norm": 1e6, "noise_multiplier": 1e4},
    ],
)
def test_promises_that_cannot_be_kept(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        promise(**changed)


def test_no_defaults() -> None:
    with pytest.raises(TypeError):
        HospitalDP(1.0, 1.0)  # type: ignore[call-arg]


# the codec


@quick
@given(
    st.floats(1e-3, 1e3),
    st.floats(0.3, 1e3),
    st.integers(8, 16),
    st.integers(0, 2),
    st.sampled_from([0, 1, 2, 3, 2**64 - 1, 2**64 - 2, 2**63, 2**63 - 1]),
)
def test_overflow_is_impossible_whatever_is_drawn(clip: float, z: float, bits: int, colluders: int, word: int) -> None:
    given_ = promise(max_update_norm=clip, noise_multiplier=z, bits=bits, colluders=colluders)
    for sign in (-1, 1):
        x = clipped(given_, np.array([sign * 9.0 * clip]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hospital_dp, "secret_words", lambda count: np.full(count, word, np.uint64))
            q = noised(given_, x)
        assert abs(int(q[0])) <= given_.levels


def test_the_largest_number_that_can_be_drawn() -> None:
    drawn = hospital_dp.normal(np.array([0, 1], np.uint64))
    assert 9.1 < np.abs(drawn).max() < REACH


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("size", [4, 600])
def test_the_codec_keeps_every_bit(bits: int, size: int) -> None:
    given_, rng = promise(bits=bits), np.random.default_rng(bits)
    scales = {"model:norm": 0.3, "model:conv": 2.0}
    site = [privatise(given_, blocks(*rng.normal(0, 1, size)), scales) for _ in range(5)]
    grid, first = code(given_, site[0])
    assert np.array_equal(code(given_, site[0], seed=1)[1].fields, first.fields)  # the codec's own dice change nothing
    packing = Packing(grid.levels, given_.sites, WORD)
    words = np.zeros(packing.words(grid.fields), np.uint64)
    for one in site:
        coded = code(given_, one)[1]
        assert coded.clipped == 0
        assert not coded.residual.any()  # no error feedback: nothing is left over for the next round
        words += packing.pack(coded.fields)
    totals, _ = decode(grid, packing.unpack(words, grid.fields, len(site)))
    exact = sum(np.concatenate([block.ravel() for block in one.update.values()]).astype(np.float64) for one in site)
    assert np.array_equal(totals * given_.step, exact)
    mean = mean_of(grid, totals, len(site))
    assert np.array_equal(mean["model:norm"], (exact[:2] / len(site)).astype(np.float32))


# what it costs


@pytest.mark.parametrize(("sites", "values"), [(3, 24), (4, 44), (10, 277), (20, 1110)])
def test_published_sizes_at_which_signal_equals_noise(sites: int, values: int) -> None:
    """design/privacy.md, epsilon 8; there the noise of the whole sum is z C, which is shares = n here."""
    rounds = 30
    z = math.sqrt(rounds) / mu_for(8, 1e-5)
    given_ = promise(noise_multiplier=z, sites=sites, min_clients=sites, colluders=0)
    law = signal_to_noise(given_, sites, values, rounds) * math.sqrt(sites / given_.shares)
    assert law == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("distributed", [True, False])
def test_signal_to_noise_by_simulation(fixed_words: None, distributed: bool) -> None:
    values, rounds, counted = 400, 20, 6
    given_ = promise(distributed=distributed, noise_multiplier=2.0)
    x = np.broadcast_to(clipped(given_, np.full(values, 1.0)), (rounds * counted, values))
    total = noised(given_, x).sum(axis=0) * given_.step
    signal = x.sum(axis=0) * given_.fine_step(values)
    found = np.linalg.norm(signal) / np.linalg.norm(total - signal)
    # the norm of 400 normal numbers varies by 1 / sqrt(800) = 3.5 %
    assert found == pytest.approx(signal_to_noise(given_, counted, values, rounds), rel=4 / math.sqrt(2 * values))


def test_fewer_colluders_or_a_larger_quorum_need_less_noise() -> None:
    base = promise()
    assert replace(base, colluders=0).deviation < base.deviation < replace(base, distributed=False).deviation
    assert replace(base, min_clients=6).deviation < base.deviation
