"""The audit at reduced size: the mechanism stands, every control is refuted, and the statistics agree with closed forms."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import canary

RUNS = 2_000


def test_the_mechanism_stands_and_the_attack_is_strong() -> None:
    """Noise is fresh every time. A sound claim is refuted with a chance of at most 1e-6; .65 is 5 standard errors away."""
    found = canary.audit(
        canary.World(canary.PROMISE, canary.PROMISE.min_clients).statistic,
        canary.claimed_mu(canary.PROMISE, canary.ROUNDS),
        RUNS,
    )
    assert not found.flagged
    assert found.lower > 0.65 * found.claimed


@pytest.mark.parametrize("name", list(canary.controls()))
def test_every_control_is_refuted(name: str) -> None:
    statistic, claimed = canary.controls()[name]
    assert canary.audit(statistic, claimed, RUNS).flagged


def test_a_third_less_noise_is_found() -> None:
    world = canary.World(canary.PROMISE, canary.PROMISE.min_clients, canary.weaker(0.6))
    assert canary.audit(world.statistic, canary.claimed_mu(canary.PROMISE, canary.ROUNDS), 5_000).flagged


def test_more_sites_than_the_quorum_only_hide_better() -> None:
    world = canary.World(canary.PROMISE, canary.PROMISE.sites)
    values = world.statistic(True, 4_000) - world.statistic(False, 4_000).mean()
    shares = canary.PROMISE.sites - 1
    expected = canary.claimed_mu(canary.PROMISE, canary.ROUNDS) * np.sqrt(canary.PROMISE.shares / shares)
    assert values.mean() / values.std() == pytest.approx(expected, rel=0.1)


def test_the_canary_fills_the_clip_and_is_gone_without() -> None:
    world, fine = canary.World(canary.PROMISE, 4), canary.PROMISE.fine_step(canary.VALUES)
    there, gone = world.signals(True), world.signals(False)
    assert np.linalg.norm(there[-1] * fine) == pytest.approx(canary.PROMISE.max_update_norm, rel=1e-3)
    assert not gone[-1].any()
    assert np.array_equal(there[:-1], gone[:-1])


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_bound_covers_and_is_tight_for_ideal_gaussians(mu: float) -> None:
    rng, runs = np.random.default_rng(0), 20_000
    found = canary.audit(lambda present, n: rng.normal(mu * present, 1, n), mu, runs, error=0.05)
    assert 0.9 * mu < found.lower < mu


def test_the_bound_is_rarely_wrong() -> None:
    """400 audits at error .05 of a mechanism that claims the truth: at most 34 refuted has a chance above .998."""
    rng = np.random.default_rng(1)
    wrong = sum(
        canary.audit(lambda present, n: rng.normal(1.0 * present, 1, n), 1.0, 400, error=0.05).flagged
        for _ in range(400)
    )
    assert wrong <= stats.binom.ppf(0.998, 400, 0.05)


@pytest.mark.parametrize(("count", "runs"), [(0, 100), (7, 100), (99, 100)])
def test_upper_is_clopper_pearson(count: int, runs: int) -> None:
    bound = canary.upper(count, runs, 0.025)
    assert stats.binom.cdf(count, runs, bound) == pytest.approx(0.025)


def test_edges_of_the_bound() -> None:
    assert canary.upper(100, 100, 0.05) == 1.0
    assert canary.lower_mu(100, 0, 100, 0.05) == 0.0
    assert canary.lower_mu(60, 60, 100, 0.05) == 0.0
    assert canary.lower_mu(0, 0, 100, 0.05) < canary.lower_mu(0, 0, 1000, 0.05) < 6


def test_thresholds_of_ties() -> None:
    zeros, ones = np.zeros(50), np.ones(50)
    assert canary.threshold(zeros, ones, 0.05) == 0.5
    assert canary.threshold(zeros, zeros, 0.05) == 0.0


def test_one_round_is_what_one_release_claims() -> None:
    assert canary.claimed_mu(replace(canary.PROMISE, noise_multiplier=4.0), 1) == pytest.approx(0.25)
