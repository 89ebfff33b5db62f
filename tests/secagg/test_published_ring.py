"""What the ring of PPPML-HMI shows its own members: sums about right, single updates plain to two neighbours together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ts = pytest.importorskip("tenseal")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import published_ring  # noqa: E402
from published_ring import MASK_SCALE, PublishedRing, Run, ckks_error, correlation, neighbour_difference  # noqa: E402

SIZE = 2000
SITES = 5
UNIT = 2.0**-24  # float32 has 24 bits: rounding moves a number by at most this part of itself
SIGMAS = 20  # of the ciphertexts' error, which has the tails of a Laplace distribution: beyond lies one value in 2e12


@pytest.fixture(scope="module")
def rings() -> dict[int, PublishedRing]:
    return {sites: PublishedRing.open(sites) for sites in (2, SITES)}


def updates(sites: int, scale: float) -> list[np.ndarray]:
    rng = np.random.default_rng(sites)
    return [rng.normal(0, scale, SIZE).astype(np.float32) for _ in range(sites)]


def mask(scale: float) -> np.ndarray:
    return published_ring.gaussian_mask(SIZE, scale, np.random.default_rng(99))


def exact(vectors: list[np.ndarray]) -> np.ndarray:
    return np.sum(vectors, axis=0, dtype=np.float64)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.fixture(scope="module")
def run(rings: dict[int, PublishedRing]) -> Run:
    return rings[SITES].run(updates(SITES, 0.01), mask(MASK_SCALE))


@pytest.mark.parametrize("initiator", [0, 3])
def test_the_sum_is_right_up_to_float32_and_ckks(rings: dict[int, PublishedRing], initiator: int) -> None:
    given, hidden = updates(SITES, 0.01), mask(MASK_SCALE)
    found = rings[SITES].run(given, hidden, initiator)
    assert [hop.sender for hop in found.hops] == [(initiator + step) % SITES for step in range(SITES)]
    rounding = UNIT * np.abs(given[initiator] + hidden.astype(np.float64))
    assert np.all(np.abs(found.total - exact(given)) <= rounding + SIGMAS * ckks_error(SITES + 1))


def test_the_error_of_ckks_is_as_derived(rings: dict[int, PublishedRing]) -> None:
    # without a mask nothing else is left: one ciphertext per site and one for the zeros that are subtracted
    given = updates(SITES, 0.01)
    assert rms(rings[SITES].run(given, mask(0.0)).total - exact(given)) == pytest.approx(
        ckks_error(SITES + 1), rel=0.15
    )


@pytest.mark.parametrize("site", [1, 2, 3, 4])
def test_two_neighbours_read_the_update_between_them(run: Run, site: int) -> None:
    learned = neighbour_difference(run.received(site), run.sent(site))
    own = updates(SITES, 0.01)[site]
    assert correlation(learned, own) > 0.9999
    assert np.all(np.abs(learned - own) <= SIGMAS * ckks_error(1))


def test_the_mask_does_not_save_the_initiator(run: Run) -> None:
    # what it received less what it sent is everybody else's sum; everybody also gets the total
    learned = run.total + neighbour_difference(run.received(0), run.sent(0))
    assert correlation(learned, updates(SITES, 0.01)[0]) > 0.999


def test_one_neighbour_alone_sees_the_mask_only(run: Run) -> None:
    for site in range(SITES):
        assert abs(correlation(run.sent(site), updates(SITES, 0.01)[site])) < 5 / np.sqrt(SIZE)


def test_somebody_without_the_key_reads_nothing(rings: dict[int, PublishedRing], run: Run) -> None:
    public = ts.context_from(rings[SITES].context.serialize(save_secret_key=False))
    with pytest.raises(ValueError, match="secret_key"):
        ts.ckks_vector_from(public, run.hops[0].ciphertext).decrypt()


@pytest.mark.parametrize("scale", [MASK_SCALE, 1e5, 1e6])
def test_the_error_grows_with_the_mask(rings: dict[int, PublishedRing], scale: float) -> None:
    # updates far above the spacing of float32 at the mask, so that rounding is uniform in it
    given, hidden = updates(SITES, 1.0), mask(scale)
    expected = np.hypot(rms(np.spacing(hidden)) / np.sqrt(12), ckks_error(SITES + 1))
    assert rms(rings[SITES].run(given, hidden).total - exact(given)) == pytest.approx(expected, rel=0.1)
    assert scale * UNIT <= rms(np.spacing(hidden)) * 1.05
    assert rms(np.spacing(hidden)) <= 2 * scale * UNIT * 1.05


def test_a_small_aggregate_is_lost_more_and_more(rings: dict[int, PublishedRing]) -> None:
    given = updates(2, 3e-4)
    found = [rms(rings[2].run(given, mask(scale)).total - exact(given)) for scale in (0.0, MASK_SCALE, 1e6)]
    relative = np.array(found) / rms(exact(given))
    assert list(relative) == sorted(relative)
    assert relative[0] < 0.1 < 0.4 < relative[1]


def test_an_update_below_the_spacing_of_the_mask_is_lost_whole(rings: dict[int, PublishedRing]) -> None:
    given, hidden = updates(SITES, 1e-3), mask(1e7)
    lost = np.abs(given[0]) < np.abs(hidden) * UNIT / 2
    assert lost.mean() > 0.9
    total = rings[SITES].run(given, hidden).total
    assert rms((total - exact(given[1:]))[lost]) == pytest.approx(ckks_error(SITES + 1), rel=0.15)


@pytest.mark.parametrize("site", [0, 1])
def test_of_two_sites_each_reads_the_other(rings: dict[int, PublishedRing], site: int) -> None:
    given, hidden = updates(2, 0.1), mask(MASK_SCALE)
    found = rings[2].run(given, hidden)
    learned, other = found.total - given[site], given[1 - site]
    assert correlation(learned, other) > 0.9999
    rounding = UNIT * np.abs(given[0] + hidden.astype(np.float64))
    assert np.all(np.abs(learned - other) <= rounding + SIGMAS * ckks_error(3))


def test_of_two_sites_the_initiator_does_not_even_need_the_sum(rings: dict[int, PublishedRing]) -> None:
    given = updates(2, 0.1)
    found = rings[2].run(given, mask(MASK_SCALE))
    learned = neighbour_difference(found.sent(0), found.received(0))
    assert np.all(np.abs(learned - given[1]) <= SIGMAS * ckks_error(1))


def test_one_site_is_no_ring() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        PublishedRing.open(1)


@pytest.mark.parametrize("size", [SIZE - 1, published_ring.SLOTS + 1])
def test_updates_must_fit(rings: dict[int, PublishedRing], size: int) -> None:
    with pytest.raises(ValueError, match="2 updates for 2 sites"):
        rings[2].run([np.zeros(size, np.float32)] * 2, mask(1.0) if size < SIZE else np.zeros(size, np.float32))


@pytest.mark.parametrize("bits", [8, 38, 64])
def test_the_difference_of_words_wraps(bits: int) -> None:
    rng = np.random.default_rng(bits)
    before = rng.integers(0, 2**bits, SIZE, np.uint64, endpoint=False)
    step = rng.integers(-100, 100, SIZE)
    after = (before + step.astype(np.uint64)) & np.uint64(2**bits - 1)
    np.testing.assert_array_equal(neighbour_difference(before, after, bits), step)


def test_correlation() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20, 10))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert correlation(a, 1 - 3 * a.ravel()) == pytest.approx(-1)
    assert correlation(a, np.ones(200)) == 0
    with pytest.raises(ValueError, match="200 values beside 199"):
        correlation(a, np.ones(199))
