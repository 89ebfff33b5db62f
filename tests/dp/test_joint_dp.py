"""One noise of all hospitals: the accounting in closed form and by dp-accounting, the distribution of a sum, refusals."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy import stats

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.keystream import WORD, expand
from wardround.dp import joint_dp
from wardround.dp.accounting import claim, epsilon_of, for_gaussians, full_noise_multiplier_for
from wardround.dp.joint_dp import JointDP, noised, signal_to_noise
from wardround.dp.noise_shares import distance, epsilon
from wardround.dp.releases import GaussianRelease, from_json, to_json
from wardround.secagg.fixed_point import decode, encode, fixed_grid, mean_of

SEED = bytes(range(32))
LEAST_P = 1e-3
DELTA = 1e-5


def promise(**changed: Any) -> JointDP:
    usual = {
        "max_grad_norm": 0.7,
        "normalised": True,
        "noise_multiplier": 3.0,
        "sites": 8,
        "min_clients": 4,
        "colluders": 1,
        "max_patients": 64,
        "reference_patients": 50,
        "bits": 16,
    }
    return JointDP(**{**usual, **changed})


@pytest.fixture
def fixed_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same noise in every run of a test: different words for every call."""
    calls = iter(range(10**6))
    monkeypatch.setattr(
        joint_dp, "secret_words", lambda count: expand(bytes([next(calls) % 256]) + SEED[1:], count, WORD)
    )


@pytest.mark.parametrize(("z", "rounds"), [(2.0, 10), (3.8, 40), (9.0, 60)])
def test_mu_is_the_root_of_the_rounds_over_z_and_dp_accounting_agrees(z: float, rounds: int) -> None:
    plan = GaussianRelease("patient", z, rounds, in_shares=True)
    ours = claim([plan], "patient", DELTA)
    assert ours.mu == pytest.approx(math.sqrt(rounds) / z, rel=1e-12)
    assert ours.epsilon == pytest.approx(epsilon_of(math.sqrt(rounds) / z, for_gaussians(DELTA)), rel=1e-9)
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(z), rounds)
    assert ours.epsilon == pytest.approx(accountant.get_epsilon(for_gaussians(DELTA)), rel=2e-3)


@pytest.mark.parametrize("target", [1.0, 2.0, 4.0, 8.0])
def test_the_noise_for_a_target_keeps_it_and_hardly_more(target: float) -> None:
    z = full_noise_multiplier_for(target, DELTA, 40, "patient", in_shares=True)
    for factor, within in ((1.0, True), (0.999, False)):
        found = claim([GaussianRelease("patient", z * factor, 40, in_shares=True)], "patient", DELTA)
        assert (found.epsilon <= target) is within


@pytest.mark.parametrize("hospitals", [4, 8])
def test_the_noise_of_a_sum_has_the_variance_of_its_shares(fixed_words: None, hospitals: int) -> None:
    p = promise()
    size = 20_000
    total = np.zeros(size)
    for _ in range(hospitals):
        total += noised(p, np.zeros(size)) * p.step
    deviation = math.sqrt(hospitals) * p.deviation
    assert p.deviation == pytest.approx(3.0 * 0.7 / math.sqrt(2))
    assert stats.kstest(total / deviation, "norm").pvalue > LEAST_P
    # What is left of the smallest sum once a reader and a colluder have taken theirs away is the whole noise, or more.
    assert math.sqrt(p.min_clients - 1 - p.colluders) * p.deviation >= 3.0 * p.max_grad_norm * (1 - 1e-12)


def test_the_largest_sum_and_the_largest_noise_fit_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    p = promise(max_patients=300)
    for word in (0, 1, 2**64 - 1):
        words = np.full(4, word, np.uint64)
        monkeypatch.setattr(joint_dp, "secret_words", lambda count, words=words: words[:count])
        for sign in (-1.0, 1.0):
            found = noised(p, np.full(4, sign * 300 * 0.7))
            assert np.abs(found).max() <= p.levels


def test_the_codec_keeps_every_bit(fixed_words: None) -> None:
    p = promise()
    layout_blocks = {"model:a": np.zeros((3, 5), np.float32), "model:b": np.zeros(600, np.float32)}
    from wardround.core.arrays import Layout

    layout = Layout.of(layout_blocks)
    q = noised(p, np.linspace(-20, 20, layout.total))
    update = layout.unflatten((q * p.step).astype(np.float32))
    grid = fixed_grid(layout, p)
    coded = encode(grid, update, None, 1.0, 1, np.random.default_rng(0))
    totals, _ = decode(grid, coded.fields.astype(np.int64))
    assert np.array_equal(totals, q)
    assert coded.clipped == 0
    assert not coded.residual.any()
    released = p.gradient(mean_of(grid, totals, 1.0), 1)
    assert np.allclose(layout.flatten(released), q * p.step / 50, rtol=1e-6)


def test_the_public_number_divides_the_sum_whoever_is_there() -> None:
    mean = {"model:a": np.array([1.5, -3.0], np.float32)}
    assert np.array_equal(promise().gradient(mean, 4)["model:a"], np.array([0.12, -0.24], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 64 * 0.7 + 1])
def test_what_no_patients_give_does_not_leave(bad: float) -> None:
    with pytest.raises(ReleaseRefused, match="no patients of this promise"):
        noised(promise(), np.array([0.0, bad]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"min_clients": 3, "colluders": 2}, "nobody's noise is left"),
        ({"colluders": -1}, "colluders -1"),
        ({"min_clients": 2}, "min_clients 2"),
        ({"noise_multiplier": None}, "no proper noise_multiplier"),
        ({"normalised": None}, "normalised"),
        ({"max_patients": 0}, "max_patients 0"),
        ({"reference_patients": 0}, "reference_patients 0"),
        ({"bits": 8, "max_patients": 5000, "noise_multiplier": 1.0}, "steps with 8 bits"),
    ],
)
def test_senseless_promises_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigRefused, match=words):
        promise(**changed)


def test_more_patients_than_a_sum_has_room_for_are_refused_without_the_number() -> None:
    promise().require_patients(64)
    with pytest.raises(ConfigRefused, match=r"more than dp\.max_patients") as refused:
        promise().require_patients(65)
    assert "65" not in str(refused.value)


def test_sums_that_float32_would_round_are_refused() -> None:
    promise().require_exact(5_000)
    with pytest.raises(ConfigRefused, match="fewer trained values"):
        promise(max_patients=5_000).require_exact(150_000)


def test_rounding_costs_less_than_is_set_aside_and_the_ledger_keeps_what_it_is() -> None:
    assert distance(promise()) < 1e-12
    assert epsilon(promise(), 300, 40, [], DELTA) == claim([promise().release] * 40, "patient", DELTA).epsilon
    plan = GaussianRelease("patient", 3.0, 40, in_shares=True)
    assert from_json(to_json(plan)) == plan
    assert "in_shares" not in to_json(GaussianRelease("hospital", 3.0, 40))


def test_signal_to_noise_of_the_design() -> None:
    """The arithmetic of the design page: N mu / sqrt(d), times what the quorum costs."""
    z = full_noise_multiplier_for(8.0, DELTA, 40, "patient", in_shares=True)
    p = promise(noise_multiplier=z, min_clients=3, colluders=0)
    assert signal_to_noise(p, 2, 56, 300, 40) == pytest.approx(56 * 1.666 / math.sqrt(300), rel=2e-3)
