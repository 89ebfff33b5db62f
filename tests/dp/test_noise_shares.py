"""The sum of rounded shares against its ideal, by convolution; and what that costs in delta."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wardround.core.errors import ConfigRefused
from wardround.dp import noise_shares
from wardround.dp.accounting import delta_of, epsilon_of
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.noise_shares import RESERVED, aliasing, distance, epsilon, extra_delta
from wardround.dp.releases import GaussianRelease


def promise(**changed: Any) -> HospitalDP:
    usual = {
        "max_update_norm": 1.0,
        "noise_multiplier": 2.0,
        "sites": 8,
        "min_clients": 3,
        "colluders": 0,
        "distributed": True,
        "bits": 8,
    }
    return HospitalDP(**{**usual, **changed})


def shares_summed(offsets: list[float], sigma: float, reach: int) -> Any:
    """Return the probabilities of -reach .. reach for a sum of rounded Gaussians, by convolution."""
    k, mass = np.arange(-60, 61), np.array([1.0])
    for x in offsets:
        one = stats.norm.cdf((k + 0.5 - x) / sigma) - stats.norm.cdf((k - 0.5 - x) / sigma)
        mass = np.convolve(mass, one)
    middle = len(mass) // 2
    return mass[middle - reach : middle + reach + 1]


def ideal(offset: float, sigma: float, m: int, reach: int) -> Any:
    """Return the same of round(X + N(0, m sigma^2) + m - 1 uniforms), by inverting its characteristic function."""
    t = np.arange(-40, 40, 1e-3)
    shape = np.exp(-m * sigma**2 * t**2 / 2) * np.sinc(t / (2 * np.pi)) ** m
    k = np.arange(-reach, reach + 1)
    return np.cos(np.outer(k - offset, t)) @ shape * 1e-3 / (2 * np.pi)


@pytest.mark.parametrize("sigma", [1.0, 1.1, 1.3])
@pytest.mark.parametrize("offsets", [[0.0, 0.0], [0.5, 0.5], [0.2, 0.7], [0.3, 0.9, 0.4], [0.1] * 5])
def test_the_bound_holds_and_is_not_vacuous(sigma: float, offsets: list[float]) -> None:
    m = len(offsets)
    off = np.abs(shares_summed(offsets, sigma, 12) - ideal(sum(offsets), sigma, m, 12)).max()
    bound = aliasing(sigma, m)
    assert 1e-14 < off < bound < 0.01


@pytest.mark.parametrize("m", [2, 3, 5])
def test_the_bound_is_not_a_wild_guess(m: int) -> None:
    off = max(
        np.abs(shares_summed([x] + [0.0] * (m - 1), 1.0, 12) - ideal(x, 1.0, m, 12)).max() for x in (0, 0.25, 0.5)
    )
    assert off > aliasing(1.0, m) / 1000


def test_one_share_is_the_ideal() -> None:
    assert aliasing(1.0, 1) == 0.0
    assert np.abs(shares_summed([0.3], 1.0, 9) - ideal(0.3, 1.0, 1, 9)).max() < 1e-12


def test_the_figure_in_the_text() -> None:
    assert 0.3e-26 < aliasing(2.5, 2) < 3e-26


@pytest.mark.parametrize("bits", [8, 16])
def test_what_a_usual_job_pays_is_nothing(bits: int) -> None:
    given_ = promise(bits=bits)
    assert extra_delta(given_, 1000, 100, 8.0) < 1e-8
    assert distance(given_) > 0


def test_more_sites_never_look_cheaper() -> None:
    assert distance(promise(sites=50)) >= distance(promise(sites=8)) >= distance(promise(sites=3))


@pytest.mark.parametrize("bought", [[], [GaussianRelease("hospital", 10.0, 2)]])
def test_epsilon_holds_everything_inside_delta(bought: list[GaussianRelease]) -> None:
    given_, rounds, delta = promise(noise_multiplier=6.0), 30, 1e-5
    found = epsilon(given_, 300, rounds, bought, delta)
    mu = math.sqrt(rounds / 36 + sum(one.count / one.noise_multiplier**2 for one in bought))
    assert delta_of(found, mu) + extra_delta(given_, 300, rounds, found) <= delta
    assert epsilon_of(mu, delta) < found < epsilon_of(mu, delta) * (1 + RESERVED)


def test_refuses_what_the_64th_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_shares, "TAIL", 1e-10)
    with pytest.raises(ConfigRefused, match="64th"):
        epsilon(promise(), 1000, 10, [], 1e-5)


@pytest.mark.parametrize(("deviation", "m"), [(0.99, 2), (math.nan, 2), (3.0, 0)])
def test_refuses_where_nothing_is_proved(deviation: float, m: int) -> None:
    with pytest.raises(ConfigRefused):
        aliasing(deviation, m)
