from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from wardround.algorithms.server_optimizers import FedAdam, FedAvgM, FedYogi, Mean, MeanOfModels, part_of
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import ANCHORED, STEADY

RULES = [
    Mean(1.0),
    MeanOfModels(),
    FedAvgM(0.5, 0.5),
    FedAdam(0.6, 0.5, 0.5, 1.0),
    FedYogi(0.8, 0.5, 0.5, 1.0),
]


def block(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def two_rounds(server_optimizer, start, first, second):
    """Return (w1, w2, v2) of one block."""
    weights = {"model:w": block(*start)}
    state = server_optimizer.start(weights)
    one, state = server_optimizer.apply(weights, {"model:w": block(*first)}, state, 1.0)
    two, state = server_optimizer.apply(one, {"model:w": block(*second)}, state, 1.0)
    return one["model:w"], two["model:w"], state["v.model:w"]


def test_mean_adds_a_multiple_of_the_mean():
    weights = {"model:w": block(1, 2)}
    moved, state = Mean(0.5).apply(weights, {"model:w": block(4, -2)}, Mean(0.5).start(weights), 1.0)
    assert moved["model:w"].tolist() == [3, 1]
    assert state == {}


def test_the_mean_of_models_moves_by_the_share_that_took_part():
    weights = {"model:w": block(1, 2)}
    moved, state = MeanOfModels().apply(weights, {"model:w": block(4, -2)}, {}, 0.25)
    assert moved["model:w"].tolist() == [2, 1.5]
    assert state == {}


def test_fedavgm_by_hand():
    """b = .5, lr = .5. D = 4, 2: m = 4, 4; steps 2, 2. D = -8, 4: m = -8, 0; steps -4, 0."""
    weights = {"model:w": block(1, 2)}
    rule = FedAvgM(0.5, 0.5)
    one, state = rule.apply(weights, {"model:w": block(4, -8)}, rule.start(weights), 1.0)
    two, state = rule.apply(one, {"model:w": block(2, 4)}, state, 1.0)
    assert one["model:w"].tolist() == [3, -2]
    assert two["model:w"].tolist() == [5, -2]
    assert state["m.model:w"].tolist() == [4, 0]


@pytest.mark.parametrize(("momentum", "curvature"), [(0.5, 0.3), (0.9, 0.3), (0.9, 2.0), (0.0, 0.5)])
def test_fedavgm_on_a_quadratic_is_the_heavy_ball(momentum, curvature):
    """D = -a w: w_t is a sum of powers of the roots of z^2 - (1 + b - a) z + b, with w_1 = (1 - a) w_0."""
    rule, weights = FedAvgM(1.0, momentum), {"model:w": block(2.0)}
    state, path = rule.start(weights), [2.0]
    for _ in range(30):
        mean = {"model:w": -np.float32(curvature) * weights["model:w"]}
        weights, state = rule.apply(weights, mean, state, 1.0)
        path.append(float(weights["model:w"][0]))
    first, second = np.roots([1.0, curvature - 1 - momentum, momentum]).astype(complex)
    shares = np.linalg.solve([[1, 1], [first, second]], [2.0, 2.0 * (1 - curvature)])
    expected = [(shares @ [first**t, second**t]).real for t in range(31)]
    np.testing.assert_allclose(path, expected, atol=1e-5)


def test_without_momentum_fedavgm_is_the_mean():
    weights, mean = {"model:w": block(1, 2)}, {"model:w": block(0.3, -7)}
    rule = FedAvgM(1.0, 0.0)
    moved, _ = rule.apply(weights, mean, rule.start(weights), 1.0)
    assert moved["model:w"].tolist() == Mean(1.0).apply(weights, mean, {}, 1.0)[0]["model:w"].tolist()


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        (Mean(1.0), {ANCHORED}),
        (MeanOfModels(), set()),
        *((rule, {ANCHORED, STEADY}) for rule in RULES[2:]),
    ],
    ids=lambda one: "-".join(sorted(one)) if isinstance(one, set) else str(one),
)
def test_what_a_server_optimizer_needs_follows_from_its_state(rule, needs):
    assert part_of(rule).traits.needs == needs


@pytest.mark.parametrize(("lr", "momentum"), [(0.0, 0.9), (1.0, 1.0), (1.0, -0.1), (None, 0.9), (1.0, None)])
def test_a_senseless_server_momentum_is_refused(lr, momentum):
    with pytest.raises(ConfigRefused, match="FedAvgM"):
        FedAvgM(lr, momentum)


def test_fedadam_by_hand():
    """b1 = b2 = .5, tau = 1, lr = .6.

    D = 7, 5:  m = 3.5, 4.25;  v = 25, 25;  steps .6 * 3.5 / 6 = .35, .6 * 4.25 / 6 = .425
    D = 1, -1: m = .5, -.25;   v = 1, 1;    steps .6 * .5 / 2 = .15, -.6 * .25 / 2 = -.075
    """
    one, two, v = two_rounds(FedAdam(0.6, 0.5, 0.5, 1.0), (1, -2), (7, 1), (5, -1))
    np.testing.assert_allclose(one, [1.35, -1.85], rtol=1e-6)
    np.testing.assert_allclose(two, [1.775, -1.925], rtol=1e-6)
    np.testing.assert_allclose(v, [25, 1], rtol=1e-6)


def test_fedyogi_by_hand():
    """b1 = b2 = .5, tau = 1, lr = .8.

    D = 4, 12: m = 2, 7;  v = 1 + 8 = 9, 9 + 72 = 81 (both up);  steps .8 * 2 / 4 = .4, .8 * 7 / 10 = .56
    D = 4, 2:  m = 2, 2;  v = 9, 9 - 2 = 7 (down by half of D^2); steps .4, 1.6 / (sqrt 7 + 1)
    """
    one, two, v = two_rounds(FedYogi(0.8, 0.5, 0.5, 1.0), (1, 1), (4, 4), (12, 2))
    np.testing.assert_allclose(one, [1.4, 1.4], rtol=1e-6)
    np.testing.assert_allclose(two, [1.96, 1.4 + 1.6 / (math.sqrt(7) + 1)], rtol=1e-6)
    np.testing.assert_allclose(v, [81, 7], rtol=1e-6)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_the_moments_start_at_zero_and_tau_squared(kind):
    state = kind(0.1, 0.9, 0.99, 0.5).start({"model:w": block(1, 2), "control:w": block(1, 2)})
    assert {name: values.tolist() for name, values in state.items()} == {"m.model:w": [0, 0], "v.model:w": [0.25, 0.25]}


@pytest.mark.parametrize("server_optimizer", RULES, ids=lambda server_optimizer: type(server_optimizer).__name__)
def test_only_the_model_gets_the_rule(server_optimizer):
    """The control variable moves by |S|/N of its mean, a rival by all of its mean, blocks without an update not at all."""
    names = ("model:w", "model:home", "control:w", "fedavg:w")
    weights = {name: block(1, 2) for name in names}
    mean = {name: block(4, -8) for name in names if name != "model:home"}
    state = server_optimizer.start(weights)
    moved, after = server_optimizer.apply(weights, mean, state, 0.25)
    assert list(moved) == list(names)
    assert moved["control:w"].tolist() == [2, 0]
    assert moved["fedavg:w"].tolist() == [5, -6]
    assert moved["model:home"].tolist() == [1, 2]
    assert moved["model:w"].tolist() != [1, 2]
    assert after.keys() == state.keys()
    assert {name[2:].split(":")[0] for name in state} <= {"model"}
    assert all(values.dtype == np.float32 for values in (*moved.values(), *after.values()))


@pytest.mark.parametrize("server_optimizer", RULES, ids=lambda server_optimizer: type(server_optimizer).__name__)
def test_nothing_given_is_changed(server_optimizer):
    weights, mean = {"model:w": block(1, 2)}, {"model:w": block(3, 4)}
    state = server_optimizer.start(weights)
    before = {name: values.copy() for name, values in state.items()}
    first, _ = server_optimizer.apply(weights, mean, state, 1.0)
    again, _ = server_optimizer.apply(weights, mean, state, 1.0)
    assert weights["model:w"].tolist() == [1, 2]
    assert mean["model:w"].tolist() == [3, 4]
    assert {n: v.tolist() for n, v in state.items()} == {n: v.tolist() for n, v in before.items()}
    assert first["model:w"].tolist() == again["model:w"].tolist()


@pytest.mark.parametrize("server_optimizer", RULES, ids=lambda server_optimizer: type(server_optimizer).__name__)
@pytest.mark.parametrize("mean", [{"model:x": block(1, 2)}, {"model:w": block(1)}, {"control:w": block(1, 2)}], ids=str)
def test_an_update_of_other_blocks_is_refused(server_optimizer, mean):
    weights = {"model:w": block(1, 2)}
    with pytest.raises(RoundRefused, match="a mean update"):
        server_optimizer.apply(weights, mean, server_optimizer.start(weights), 1.0)


@pytest.mark.parametrize("server_optimizer", RULES, ids=lambda server_optimizer: type(server_optimizer).__name__)
@pytest.mark.parametrize("participation", [0.0, 1.1, math.nan])
def test_an_impossible_participation_is_refused(server_optimizer, participation):
    weights = {"model:w": block(1, 2)}
    with pytest.raises(RoundRefused, match="participation"):
        server_optimizer.apply(weights, weights, server_optimizer.start(weights), participation)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": None}, {"beta1": 1.0}, {"beta2": -0.1}, {"tau": 0.0}, {"tau": math.nan}], ids=str
)
def test_senseless_settings_are_refused(kind, wrong):
    with pytest.raises(ConfigRefused, match=next(iter(wrong))):
        kind(**{"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3} | wrong)


@pytest.mark.parametrize("server_lr", [0.0, -1.0, math.nan, None])
def test_a_senseless_server_rate_is_refused(server_lr):
    with pytest.raises(ConfigRefused, match="server_lr"):
        Mean(server_lr)


def test_the_server_needs_no_torch():
    code = "import sys, wardround.algorithms.server_optimizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
