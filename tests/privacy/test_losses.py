import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ConfigRefused
from wardround.privacy.accounting import delta_of, epsilon_of
from wardround.privacy.losses import LEAST_NOISE, POINTS, TAIL, Part, compose, renyi

ROUGH = 1e-4  # how far above the truth a composed epsilon may lie, relative and absolute; delta: ten times that


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


@settings(max_examples=12, deadline=None)
@given(z=st.floats(0.3, 5), q=st.floats(0.01, 1), epsilon=st.floats(0, 3))
def test_one_step_is_the_closed_form_and_never_below(z, q, epsilon):
    removed, added = compose([Part(z, q, 1)], 1e-5)
    for losses, truth in (
        (removed, one_step(z, q, epsilon, added=False)),
        (added, one_step(z, q, epsilon, added=True)),
    ):
        assert truth - 1e-12 <= losses.delta(epsilon) <= truth * (1 + 10 * ROUGH) + 1e-7


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("z", "steps"), [(0.5, 1), (1.0, 3), (20.0, 1000), (300.0, 10)])
def test_full_participation_is_the_closed_form_and_never_below(z, steps, delta):
    for losses in compose([Part(z, 1.0, steps)], delta):
        exact = epsilon_of(math.sqrt(steps) / z, delta)
        assert exact <= losses.epsilon(delta) <= exact * (1 + ROUGH) + ROUGH


def test_epsilon_and_delta_are_inverse():
    for losses in compose([Part(1.0, 0.05, 200)], 1e-5):
        assert losses.delta(losses.epsilon(1e-5)) == pytest.approx(1e-5, rel=1e-6)


def test_a_mixture_is_the_product_in_any_order():
    parts = [Part(1.0, 0.05, 100), Part(2.0, 0.5, 3), Part(6.0, 1.0, 1)]
    first, second = compose(parts, 1e-5)[0], compose(parts[::-1], 1e-5)[0]
    split = compose([parts[0]._replace(steps=40), *parts[1:], parts[0]._replace(steps=60)], 1e-5)[0]
    assert first.epsilon(1e-5) == pytest.approx(second.epsilon(1e-5), rel=1e-9)
    assert first.epsilon(1e-5) == pytest.approx(split.epsilon(1e-5), rel=1e-6)


def test_the_best_attack_is_that_of_the_closed_form():
    for losses in compose([Part(1.0, 1.0, 2)], 1e-5):
        assert 0.5 + losses.delta(0) / 2 == pytest.approx(normal(math.sqrt(2) / 2), abs=1e-6)
        threshold = 2.3263478740408408
        assert losses.tpr(0.01) == pytest.approx(normal(math.sqrt(2) - threshold), abs=1e-6)


def test_the_error_is_published_and_small():
    for losses in compose([Part(1.0, 0.05, 200)], 1e-5):
        assert 0 < losses.beyond < 1e-5 * 2 * TAIL
        assert len(losses.mass) == POINTS // 2
        assert losses.mass.sum() <= 1 + 1e-9


def test_a_delta_below_the_rounding_is_refused():
    with pytest.raises(ConfigRefused, match="numerical error"):
        compose([Part(1.0, 0.05, 200)], 1e-14)


def test_tiny_noise_is_counted_as_everybody():
    z = LEAST_NOISE / 2
    sampled = compose([Part(z, 0.01, 1)], 1e-5)[0].epsilon(1e-5)
    assert sampled == pytest.approx(epsilon_of(1 / z, 1e-5), rel=1e-3)


def test_beyond_the_window_epsilon_is_infinite():
    losses = compose([Part(1.0, 0.05, 200)], 1e-5)[0]
    assert losses.epsilon(losses.beyond / 2) == math.inf
    assert losses.epsilon(0.999) == 0.0


@pytest.mark.parametrize(("z", "q"), [(1.0, 0.05), (0.5, 0.3), (4.0, 0.01), (0.2, 0.001)])
def test_the_divergence_of_a_whole_order_is_its_binomial_sum(z, q):
    """Mironov et al. 2019, equation 6: a sum for whole orders, where ours is an integral."""
    for order in (2, 3, 8, 20):
        terms = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + k * math.log(q) + (order - k) * math.log1p(-q) + (k * k - k) / (2 * z * z)
            for k in range(order + 1)
        ]  # fmt: skip
        expected = np.logaddexp.reduce(terms) / (order - 1)
        assert renyi(Part(z, q, 1), np.array([float(order)]))[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_deltas_of_the_closed_form_agree_with_integration():
    """delta(epsilon) = integral of max(0, p - e^eps q), the definition."""
    x = np.linspace(-12, 14, 400001)
    p, q = np.exp(-((x - 1) ** 2) / 2), np.exp(-(x**2) / 2)
    for epsilon in (0.0, 0.5, 2.0):
        integral = np.maximum(0, p - math.exp(epsilon) * q).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi)
        assert delta_of(epsilon, 1.0) == pytest.approx(integral, rel=1e-6)
