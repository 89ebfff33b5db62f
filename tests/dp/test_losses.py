import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import FPR, best_attack, delta_of, epsilon_of
from wardround.dp.losses import ROUNDING, Part, compose

ROUGH = 1e-3  # how far above the truth a composed epsilon may lie, relative


def normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def one_step(z: float, q: float, epsilon: float, *, added: bool) -> float:
    """delta(epsilon) of one step in closed form: the best test is a threshold on the sum."""
    edge = math.exp(-epsilon if added else epsilon) - (1 - q)
    if edge <= 0:
        return 0.0
    threshold = z * z * math.log(edge / q) + 0.5
    if added:
        mixture = (1 - q) * normal(threshold / z) + q * normal((threshold - 1) / z)
        return normal(threshold / z) - math.exp(epsilon) * mixture
    mixture = (1 - q) * normal(-threshold / z) + q * normal((1 - threshold) / z)
    return mixture - math.exp(epsilon) * normal(-threshold / z)


def worse(z: float, q: float, epsilon: float) -> float:
    return max(one_step(z, q, epsilon, added=added) for added in (True, False))


@settings(max_examples=15, deadline=None)
@given(z=st.floats(0.3, 5), q=st.floats(0.01, 1), delta=st.sampled_from([1e-3, 1e-5, 1e-7]))
def test_one_step_is_the_closed_form_and_never_below(z, q, delta):
    found = compose((Part(z, q, 1),), delta, FPR)
    if found.epsilon > 0:
        assert worse(z, q, found.epsilon) <= delta
        assert worse(z, q, found.epsilon * (1 - ROUGH) - ROUGH * q / z) >= delta
    assert 0 <= found.delta_at_zero - worse(z, q, 0) <= 1e-4


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("z", "steps"), [(0.5, 1), (1.0, 3), (20.0, 1000), (300.0, 10), (100.0, 10_000)])
def test_full_participation_is_the_closed_form_and_never_below(z, steps, delta):
    """The only case whose composition is known exactly; it also bounds what the rounding of the FFT does."""
    mu = math.sqrt(steps) / z
    found = compose((Part(z, 1.0, steps),), delta, FPR)
    exact = epsilon_of(mu, delta)
    allowed = epsilon_of(mu, delta - steps * ROUNDING)
    assert exact * (1 - 1e-9) <= found.epsilon <= allowed * (1 + ROUGH) + 1e-4
    best = best_attack(mu)
    assert best.accuracy - 1e-12 <= 0.5 + found.delta_at_zero / 2 <= best.accuracy + 1e-4
    assert best.tpr - 1e-12 <= found.tpr <= best.tpr + 1e-4


def test_a_finer_mesh_lowers_epsilon_by_less_than_a_thousandth():
    for z, q, steps in [(1.0, 0.05, 200), (4.0, 0.01, 500), (0.5, 0.3, 10), (20.0, 0.05, 1000)]:
        fine = from_gaussian_mechanism(z, sampling_prob=q, value_discretization_interval=q / z / 400)
        truth = fine.self_compose(steps).get_epsilon_for_delta(1e-5)
        assert truth <= compose((Part(z, q, steps),), 1e-5, FPR).epsilon <= truth * (1 + ROUGH)


def test_a_mixture_is_the_product_in_any_order():
    parts = (Part(1.0, 0.05, 100), Part(2.0, 0.5, 3), Part(6.0, 1.0, 1))
    split = (parts[0]._replace(steps=40), *parts[1:], parts[0]._replace(steps=60))
    first = compose(parts, 1e-5, FPR)
    assert compose(parts[::-1], 1e-5, FPR).epsilon == pytest.approx(first.epsilon, rel=1e-6)
    assert compose(split, 1e-5, FPR).epsilon == pytest.approx(first.epsilon, rel=1e-6)


def test_losses_beyond_the_floating_point_range_cost_everything():
    found = compose((Part(0.1, 0.5, 1000),), 1e-5, FPR)
    assert found.epsilon > 1e4
    assert (found.delta_at_zero, found.tpr) == (1.0, 1.0)


def test_a_delta_that_the_rounding_may_drown_is_refused():
    with pytest.raises(ConfigRefused, match="numerical error"):
        compose((Part(1.0, 0.05, 200),), 1e-14, FPR)


def test_deltas_of_the_closed_form_agree_with_integration():
    """delta(epsilon) = integral of max(0, p - e^eps q), the definition."""
    x = np.linspace(-12, 14, 400001)
    p, q = np.exp(-((x - 1) ** 2) / 2), np.exp(-(x**2) / 2)
    for epsilon in (0.0, 0.5, 2.0):
        integral = np.maximum(0, p - math.exp(epsilon) * q).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)
        assert delta_of(epsilon, 1.0) == pytest.approx(integral, rel=1e-6)
