import math
import warnings

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import (
    Attack,
    best_attack,
    claim,
    delta_of,
    epsilon,
    epsilon_of,
    full_noise_multiplier_for,
    mu_for,
    mu_of,
    noise_multiplier_for,
    require_meaningful,
)
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease, UnknownRelease

TABLE = [
    # z, q, T, delta -> Renyi, PRV (Opacus), PLD (dp-accounting): docs of the project's privacy
    (1.0, 0.05, 200, 1e-5, 5.368, 4.776, 4.766),
    (1.1, 0.01, 1000, 1e-5, 1.712, 1.526, 1.515),
    (0.8, 0.1, 100, 1e-4, 10.71, 9.340, 9.329),
]
MU = {0.5: 0.142, 1: 0.268, 2: 0.502, 4: 0.925, 8: 1.666, 16: 2.905}
PATIENT = GaussianRelease("patient", 5.0, 10)
HOSPITAL = GaussianRelease("hospital", 8.0, 4)
SAMPLED = SampledGaussianRelease("patient", 1.0, 0.05, 200)


def renyi_epsilon(z, q, steps, delta, full=()):
    """A looser upper bound of the same epsilon, which shares no composition with ours."""
    accountant = RdpAccountant()
    accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(z)), steps)
    for release in full:
        accountant.compose(GaussianDpEvent(release.noise_multiplier / 2), release.count)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("z", "q", "steps", "delta", "renyi", "prv", "pld"), TABLE)
def test_the_reference_table(z, q, steps, delta, renyi, prv, pld):
    release = SampledGaussianRelease("patient", z, q, steps)
    ours = epsilon([release], "patient", delta)
    assert ours == pytest.approx(pld, abs=6e-4)
    assert ours == pytest.approx(prv, rel=0.01)
    assert renyi_epsilon(z, q, steps, delta) == pytest.approx(renyi, rel=5e-3)


@pytest.mark.parametrize(("target", "mu"), MU.items())
def test_the_table_of_mu(target, mu):
    assert mu_for(target, 1e-5) == pytest.approx(mu, abs=6e-4)


def test_what_an_attacker_can_do():
    assert best_attack(mu_for(8, 1e-5)).accuracy == pytest.approx(0.80, abs=5e-3)
    assert best_attack(mu_for(1, 1e-5)).accuracy == pytest.approx(0.55, abs=5e-3)
    assert best_attack(0) == pytest.approx(Attack(0.5, 0.01))
    assert best_attack(math.inf) == Attack(1.0, 1.0)


@given(mu=st.floats(1e-3, 30), exponent=st.floats(-12, -1))
def test_mu_and_epsilon_are_inverse_and_rounded_to_the_safe_side(mu, exponent):
    delta = 10**exponent
    found = epsilon_of(mu, delta)
    assert delta_of(found, mu) <= delta * (1 + 1e-9)
    if found > 0:
        assert delta_of(found * (1 - 1e-9), mu) >= delta * (1 - 1e-6)
        assert mu * (1 - 1e-7) <= mu_for(found, delta) <= mu * (1 + 1e-7)
        assert epsilon_of(mu_for(found, delta), delta) <= found


def test_the_ends_of_the_closed_form():
    assert epsilon_of(0, 1e-5) == 0
    assert epsilon_of(math.inf, 1e-5) == math.inf
    assert mu_for(math.inf, 1e-5) == math.inf
    assert (delta_of(1, 0), delta_of(1, math.inf)) == (0, 1)
    assert delta_of(0, 1) == pytest.approx(2 * best_attack(1).accuracy - 1)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    for call in (lambda: epsilon([], "patient", delta), lambda: mu_for(1, delta), lambda: epsilon_of(1, delta)):
        with pytest.raises(ConfigRefused, match="delta"):
            call()


def test_delta_has_no_default():
    with pytest.raises(TypeError):
        epsilon([PATIENT], "patient")  # type: ignore[call-arg]


def test_full_participation_adds_up_exactly():
    found = claim([PATIENT, GaussianRelease("patient", 3.0, 2)], "patient", 1e-5)
    assert found.mu == pytest.approx(math.sqrt(10 / 25 + 2 / 9))
    assert found.epsilon == epsilon_of(found.mu, 1e-5)
    assert found.attack == best_attack(found.mu)


def test_nothing_released_costs_nothing():
    assert claim([], "patient", 1e-5).epsilon == 0
    assert claim([], "patient", 1e-5).attack == pytest.approx(Attack(0.5, 0.01))


def test_units_never_add_up_silently():
    both = [PATIENT, HOSPITAL]
    assert mu_of(both, "patient") == pytest.approx(math.sqrt(10 / 25 + 4 / 16))
    assert mu_of([HOSPITAL], "hospital") == pytest.approx(math.sqrt(4 / 64))
    assert claim(both, "hospital", 1e-5).epsilon == math.inf
    assert claim([SampledGaussianRelease("image", 1.0, 0.1, 10)], "patient", 1e-5).epsilon == math.inf


@pytest.mark.parametrize("unit", ["image", "patient", "hospital"])
def test_an_unknown_release_costs_everything(unit):
    found = claim([HOSPITAL, UnknownRelease("?")], unit, 1e-5)
    assert (found.epsilon, found.mu, found.attack) == (math.inf, math.inf, Attack(1.0, 1.0))


def test_one_patient_can_turn_his_hospitals_update_round():
    """A hospital's update is C with a patient and -C without: the exact best attack on the noisy sum is what is claimed."""
    bound, z = 0.7, 3.0
    release = GaussianRelease("hospital", z, 1)
    apart = 2 * bound / (z * bound)
    assert claim([release], "patient", 1e-5).mu == pytest.approx(apart)
    sums = np.random.default_rng(0).normal(0, z * bound, 400_000)
    right = (np.mean(bound + sums > 0) + np.mean(-bound + sums <= 0)) / 2
    assert claim([release], "patient", 1e-5).attack.accuracy == pytest.approx(right, abs=3e-3)
    assert claim([release], "hospital", 1e-5).attack.accuracy < right - 0.05


def test_a_sampled_release_of_a_larger_unit_gets_no_discount():
    sampled = SampledGaussianRelease("hospital", 8.0, 0.1, 4)
    assert claim([sampled], "patient", 1e-5) == claim([HOSPITAL], "patient", 1e-5)
    assert claim([sampled], "hospital", 1e-5).epsilon < claim([HOSPITAL], "hospital", 1e-5).epsilon


def test_sampling_at_rate_one_is_full_participation():
    sampled = SampledGaussianRelease("patient", 5.0, 1.0, 10)
    assert claim([sampled], "patient", 1e-5) == claim([PATIENT], "patient", 1e-5)


def test_sampled_and_full_releases_compose():
    alone, both = claim([SAMPLED], "patient", 1e-5), claim([SAMPLED, HOSPITAL], "patient", 1e-5)
    assert max(alone.epsilon, claim([HOSPITAL], "patient", 1e-5).epsilon) < both.epsilon
    assert both.epsilon < alone.epsilon + claim([HOSPITAL], "patient", 1e-5).epsilon
    assert both.epsilon < renyi_epsilon(1.0, 0.05, 200, 1e-5, [HOSPITAL])
    assert alone.attack.accuracy < both.attack.accuracy < best_attack(both.mu).accuracy
    assert claim([HOSPITAL, SAMPLED], "patient", 1e-5).epsilon == pytest.approx(both.epsilon, rel=1e-6)


def test_steps_one_by_one_are_steps_at_once():
    one = SampledGaussianRelease("patient", 1.0, 0.05, 1)
    assert epsilon([one] * 200, "patient", 1e-5) == epsilon([SAMPLED], "patient", 1e-5)


def test_between_an_optimistic_and_a_renyi_bound_on_10_random_configurations():
    """The optimistic estimate of the library is a proven lower bound; the mesh is far finer than ours."""
    rng = np.random.default_rng(7)
    for _ in range(10):
        z, q, delta = rng.uniform(0.7, 4), 10 ** rng.uniform(-2.5, -0.3), 10 ** rng.uniform(-7, -4)
        steps = int(10 ** rng.uniform(0, 2.7))
        mesh = q / z / 160
        below = from_gaussian_mechanism(
            z, sampling_prob=q, value_discretization_interval=mesh, pessimistic_estimate=False, use_connect_dots=False
        )
        lowest = below.self_compose(steps).get_epsilon_for_delta(delta)
        ours = epsilon([SampledGaussianRelease("patient", z, q, steps)], "patient", delta)
        where = (z, q, steps, delta, lowest, ours)
        assert lowest <= ours <= renyi_epsilon(z, q, steps, delta) * (1 + 1e-3), where
        # what is rounded down, step by step, makes the lower bound loose by at most half a mesh a step
        assert ours <= lowest * 1.002 + steps * mesh, where


def test_a_mixture_agrees_with_the_librarys_own_accountant():
    """A hospital's release counts as replaced for its patients: the library's own relation of that name."""
    other = PLDAccountant()
    other.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(1.0)), 200)
    other.compose(GaussianDpEvent(4.0), 4)
    assert epsilon([SAMPLED, HOSPITAL], "patient", 1e-5) == pytest.approx(other.get_epsilon(1e-5 * 63 / 64), rel=1e-3)
    replaced = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    replaced.compose(GaussianDpEvent(8.0), 4)
    assert epsilon([HOSPITAL], "patient", 1e-5) == pytest.approx(replaced.get_epsilon(1e-5 * 63 / 64), rel=1e-3)


def test_hardly_any_noise_is_counted_as_everybody_in_every_step():
    sampled = SampledGaussianRelease("patient", 0.05, 0.01, 3)
    assert claim([sampled], "patient", 1e-5) == claim([GaussianRelease("patient", 0.05, 3)], "patient", 1e-5)
    little = GaussianRelease("patient", 0.05, 1)
    assert claim([SAMPLED, little], "patient", 1e-5).mu == pytest.approx(math.sqrt(400 + 200))


def test_opacus_agrees():
    """Its PRV accountant adds .01 to epsilon."""
    opacus = pytest.importorskip("opacus.accountants")
    for z, q, steps, delta, *_ in TABLE:
        release = SampledGaussianRelease("patient", z, q, steps)
        prv = opacus.PRVAccountant()
        prv.history = [(z, q, steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = prv.get_epsilon(delta)
        assert bound - 0.012 <= epsilon([release], "patient", delta) <= bound


@pytest.mark.parametrize(("target", "q", "steps"), [(1.0, 0.01, 1000), (8.0, 0.1, 100)])
def test_noise_for_a_target_is_enough_and_not_much_more(target, q, steps):
    z = noise_multiplier_for(target, 1e-5, q, steps)
    assert epsilon([SampledGaussianRelease("patient", z, q, steps)], "patient", 1e-5) <= target
    assert epsilon([SampledGaussianRelease("patient", z * 0.999, q, steps)], "patient", 1e-5) > target


@pytest.mark.parametrize("unit", ["patient", "hospital"])
@pytest.mark.parametrize("target", [0.5, 1, 2, 4, 8, 16])
def test_noise_for_a_target_at_full_participation(target, unit):
    z = full_noise_multiplier_for(target, 1e-5, 30, unit)
    assert epsilon([GaussianRelease(unit, z, 30)], unit, 1e-5) <= target
    assert epsilon([GaussianRelease(unit, z * (1 - 1e-7), 30)], unit, 1e-5) > target


@pytest.mark.parametrize("unit", ["image", "patient", "hospital"])
def test_where_hospitals_release_a_64th_of_delta_is_set_aside(unit):
    found = claim([HOSPITAL], unit, 1e-5)
    assert found.delta == 1e-5
    assert found.epsilon == pytest.approx(epsilon_of(found.mu, 1e-5 * 63 / 64), rel=1e-9)
    assert found.epsilon > epsilon_of(found.mu, 1e-5)


@pytest.mark.parametrize("target", [0, -1, math.inf, math.nan])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(ConfigRefused, match="target"):
        noise_multiplier_for(target, 1e-5, 0.1, 10)
    with pytest.raises(ConfigRefused, match="target"):
        full_noise_multiplier_for(target, 1e-5, 10, "patient")


@pytest.mark.parametrize("value", [100.1, 1e6, math.inf, math.nan])
def test_a_vacuous_epsilon_is_not_a_privacy_claim(value):
    with pytest.raises(ConfigRefused, match="not a privacy claim"):
        require_meaningful(value, False)
    require_meaningful(value, True)


def test_a_meaningful_epsilon_passes():
    require_meaningful(100, False)


def test_a_claim_names_its_unit():
    assert str(claim([PATIENT], "patient", 1e-5)) == "epsilon 2.594 per patient at delta 1e-05 (mu 0.632)"
