"""Public scales over rounds: fixed, following what was released, or none; and that they cancel."""

import math

import numpy as np
import pytest

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.dp.scales import groups_of, scales, sizes_of
from wardround.dp.scaling import ISOTROPIC, Scaling, scaled, unscaled

LAYOUT = Layout(("a", "b", "c"), ((40, 30), (6,), (500, 2)))
GROUPS = groups_of(LAYOUT)
NUMBER = max(GROUPS) + 1


def blocks(seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, size, s).astype(np.float32) for n, s in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}


def test_nothing_given_is_isotropic_for_ever():
    first = ISOTROPIC.first(LAYOUT)
    assert first == (1.0,) * NUMBER
    assert ISOTROPIC.after(LAYOUT, first, blocks(), 0.1) == first
    for name, block in scaled(first, blocks()).items():
        np.testing.assert_array_equal(block, blocks()[name])


def test_fixed_scales_stay():
    made = Scaling([0.5, 1.0, 2.0], [], follow=False)
    assert made.first(LAYOUT) == (0.5, 1.0, 2.0)
    assert made.after(LAYOUT, (0.5, 1.0, 2.0), blocks(), 0.1) == (0.5, 1.0, 2.0)


def test_following_uses_the_released_mean_less_its_noise():
    """v is the mean square of s U / n without the noise's; s is (v / h)^(1/4), brought to mean square 1."""
    made, s, deviation = Scaling([], [1.0, 2.0, 16.0], follow=True), (1.0, 2.0, 0.5), 0.2
    mean = {name: block * (0.5 + 0.1 * i) for i, (name, block) in enumerate(blocks().items())}
    v = []
    for group in range(NUMBER):
        flat = np.concatenate(
            [mean[name].ravel().astype(np.float64) for name, g in zip(LAYOUT.names, GROUPS, strict=True) if g == group]
        )
        v.append(s[group] ** 2 * (np.mean(flat**2) - deviation**2))
    assert min(v) > 0
    expected = scales(v, [1.0, 2.0, 16.0], sizes_of(LAYOUT, GROUPS))
    assert made.after(LAYOUT, s, mean, deviation) == pytest.approx(expected)
    raw = [math.pow(a / b, 0.25) for a, b in zip(v, [1.0, 2.0, 16.0], strict=True)]
    assert np.ptp(np.divide(made.after(LAYOUT, s, mean, deviation), raw)) < 1e-9


def test_scaling_there_and_back_is_exact_to_rounding():
    s = (0.7, 3.0, 11.0)
    there = unscaled(s, blocks())
    for name, group in zip(LAYOUT.names, GROUPS, strict=True):
        np.testing.assert_allclose(there[name], blocks()[name] / s[group], rtol=1e-6)
        np.testing.assert_allclose(scaled(s, there)[name], blocks()[name], rtol=3e-7)


@pytest.mark.parametrize("start", [[1.0], [1.0] * 4])
def test_another_number_of_groups_is_refused(start):
    with pytest.raises(ConfigRefused, match="one for each group"):
        Scaling(start, [], follow=False).first(LAYOUT)
    with pytest.raises(ConfigRefused, match="one for each group"):
        Scaling([], start, follow=True).first(LAYOUT)


@pytest.mark.parametrize(
    "changed",
    [
        {"start": [0.0]},
        {"start": [math.nan]},
        {"start": [-1.0]},
        {"start": [True]},
        {"start": ["1"]},
        {"start": None},
        {"curvature": [math.inf]},
        {"curvature": 3},
        {"follow": None},
        {"follow": 1},
        {"start": [2.0**21]},
    ],
    ids=str,
)
def test_senseless_scales_are_refused(changed):
    with pytest.raises(ConfigRefused, match="scales of private noise"):
        Scaling(**{"start": [], "curvature": [], "follow": False} | changed)
