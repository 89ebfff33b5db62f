"""The audit of patients' privacy at reduced size: the mechanism stands, every control is refuted, statistics have closed forms."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import canary
import canary_patients as audited

RUNS = 4_000
# Six standard errors of a distance between two means of RUNS values: the noise is fresh every time.
CHANCE = 6 * (2 / RUNS) ** 0.5
CLAIM = audited.claimed_mu(audited.PROMISE, audited.ROUNDS)


def separation(world: audited.World, runs: int = 4_000) -> float:
    """The mu of a statistic: the distance of its means over its standard deviation without the canary."""
    without, present = world.statistic(False, runs), world.statistic(True, runs)
    return float((present.mean() - without.mean()) / without.std())


def test_the_claim_is_the_closed_form() -> None:
    assert pytest.approx(np.sqrt(audited.ROUNDS) / audited.PROMISE.noise_multiplier) == CLAIM


def test_the_mechanism_stands_and_the_attack_is_strong() -> None:
    """Noise is fresh every time. A sound claim is refuted with a chance of at most 1e-6."""
    found = canary.audit(audited.World().statistic, CLAIM, RUNS)
    assert not found.flagged
    assert found.lower > 0.65 * found.claimed


def test_a_replaced_patient_is_twice_the_mu_and_stands_at_that_claim_alone() -> None:
    world = audited.World(replaced=True)
    assert separation(world) == pytest.approx(2 * CLAIM, abs=CHANCE)
    assert not canary.audit(world.statistic, 2 * CLAIM, RUNS).flagged
    assert canary.audit(world.statistic, CLAIM, RUNS).flagged


@pytest.mark.parametrize("name", list(audited.controls()))
def test_every_control_is_refuted(name: str) -> None:
    statistic, claimed = audited.controls()[name]
    assert canary.audit(statistic, claimed, RUNS).flagged


@pytest.mark.parametrize(
    ("world", "factor"),
    [
        (audited.World(), 1.0),
        # Four opened sums of six hospitals hold four unknown shares, not two.
        (audited.World(counted=6), np.sqrt(2 / 4)),
        # One of two unknown shares is missing.
        (
            audited.World(hospitals=(audited.noised, audited.noised, audited.weaker(0.0), *(audited.noised,) * 3)),
            2**0.5,
        ),
        (audited.World(rows=audited.AUGMENTED), audited.AUGMENTED),
        (audited.World(audited.PROMISE, num_rounds=1), 0.5),
    ],
)
def test_statistics_have_the_separation_that_the_arithmetic_says(world: audited.World, factor: float) -> None:
    assert separation(world) == pytest.approx(factor * CLAIM, abs=CHANCE)


def test_the_matched_filter_is_gaussian_in_both_worlds() -> None:
    for present in (False, True):
        values = audited.World().statistic(present, 4_000)
        assert stats.kstest((values - values.mean()) / values.std(), "norm").pvalue > 1e-6


def test_the_canary_fills_the_clip_and_moves_its_hospital_alone() -> None:
    world = audited.World()
    moved = world.totals(True, 2) - world.totals(False, 2)
    assert not moved[:-1].any()
    assert np.linalg.norm(moved[-1]) == pytest.approx(audited.PROMISE.max_grad_norm, rel=0.01)
    assert np.linalg.norm(moved[-1]) <= audited.PROMISE.max_grad_norm


def test_a_clip_after_the_sum_lets_one_patient_move_more_than_the_clip() -> None:
    world = audited.World(summed=audited.clipped_after_sum)
    moved = world.totals(True, 0) - world.totals(False, 0)
    assert np.linalg.norm(moved[-1]) > 2 * audited.PROMISE.max_grad_norm


def test_what_the_reader_knows_is_taken_away() -> None:
    """Without any noise at other hospitals the released sum is what is left, to the last step of the codec."""
    quiet = (audited.noised, audited.noised, *(audited.weaker(0.0),) * 4)
    world = audited.World(hospitals=quiet)
    found = world.released(True, 1, 3)
    wanted = world.totals(True, 1)[2:].sum(axis=0)
    assert np.abs(found - wanted).max() <= 2 * audited.PROMISE.step


def test_a_run_that_claims_less_noise_has_less_to_claim() -> None:
    assert audited.claimed_mu(replace(audited.PROMISE, noise_multiplier=4.0), 1) == pytest.approx(0.25)
