"""Scales: the optimum against a numeric optimiser, groups, exact reproducibility, and what blocks a job shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.dp.hospital_dp import HospitalDP, privatise
from wardround.dp.scales import (
    CLAMP,
    FLOOR,
    MOST_GROUPS,
    by_block,
    energy,
    groups_of,
    isotropic,
    scales,
    sizes_of,
    squares,
    squares_of_energy,
    squares_of_mean,
)

LAYOUT = Layout(("a.conv", "a.norm", "b.conv", "b.norm"), ((3, 2, 2), (3,), (4, 3), (4,)))
positive = st.floats(1e-3, 1e3)
quick = settings(max_examples=40, deadline=None)


def error(s: list[float], v: list[float], h: list[float], d: list[int]) -> float:
    """C^2 sum d h s^2 with the clip that just lets the mean update through."""
    clip = sum(size * a / x**2 for size, a, x in zip(d, v, s, strict=True))
    return clip * sum(size * b * x**2 for size, b, x in zip(d, h, s, strict=True))


@quick
@given(st.lists(st.tuples(positive, positive, st.integers(1, 1000)), min_size=2, max_size=6))
def test_no_numeric_optimiser_finds_better_scales(groups: list[tuple[float, float, int]]) -> None:
    v, h, d = ([group[i] for group in groups] for i in range(3))
    v, h = [max(a, FLOOR * max(v)) for a in v], [max(b, FLOOR * max(h)) for b in h]
    best = [math.sqrt(math.sqrt(a / b)) for a, b in zip(v, h, strict=True)]
    least = sum(size * math.sqrt(a * b) for a, b, size in zip(v, h, d, strict=True)) ** 2
    assert error(best, v, h, d) == pytest.approx(least, rel=1e-9)
    found = minimize(lambda logs: math.log(error(list(np.exp(logs)), v, h, d)), np.zeros(len(d)), method="BFGS")
    assert found.fun >= math.log(least) - 1e-6
    assert found.fun == pytest.approx(math.log(least), abs=1e-3)
    ours = list(scales(v, h, d))
    if min(ours) > 1 / CLAMP and max(ours) < CLAMP:
        assert error(ours, v, h, d) == pytest.approx(least, rel=1e-9)
        assert sum(size * s * s for size, s in zip(d, ours, strict=True)) == pytest.approx(sum(d))
        assert error(ours, v, h, d) <= error([1.0] * len(d), v, h, d) * (1 + 1e-9)


def test_proportional_means_isotropic() -> None:
    assert scales((3.0, 6.0, 0.3), (1.0, 2.0, 0.1), (4, 5, 6)) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("v", "h", "expected"),
    [
        ((0.0, 0.0), (0.0, 0.0), (1.0, 1.0)),
        ((1.0, 1.0), (0.0, 0.0), (1.0, 1.0)),
        ((1.0, 0.0), (1.0, 1.0), (math.sqrt(2 / 1.01), math.sqrt(0.02 / 1.01))),
    ],
)
def test_zeros(v: tuple[float, ...], h: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert scales(v, h, (1, 1)) == pytest.approx(expected)


@quick
@given(st.lists(st.tuples(st.floats(0, 1e30), st.floats(0, 1e30)), min_size=1, max_size=30))
def test_scales_are_always_within_the_clamp(pairs: list[tuple[float, float]]) -> None:
    found = scales([a for a, _ in pairs], [b for _, b in pairs], [7] * len(pairs))
    assert all(1 / CLAMP <= s <= CLAMP for s in found)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_refuses_what_is_no_mean_square(bad: float) -> None:
    with pytest.raises(ConfigRefused):
        scales((1.0, bad), (1.0, 1.0), (1, 1))


def test_the_same_bits_in_any_order() -> None:
    rng, groups = np.random.default_rng(0), groups_of(LAYOUT)
    a = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True)
    }
    turned = {name: np.ascontiguousarray(block[::-1]) for name, block in reversed(list(a.items()))}
    assert squares(LAYOUT, groups, a) == squares(LAYOUT, groups, turned)
    assert squares(LAYOUT, groups, a)[groups[0]] == pytest.approx(float(np.mean(a["a.conv"].astype(np.float64) ** 2)))


@pytest.mark.parametrize(("blocks", "most"), [(1, 30), (9, 30), (30, 30), (200, 30), (200, 10), (57, 12)])
@pytest.mark.parametrize("every", [2, 5])
def test_groups(blocks: int, most: int, every: int) -> None:
    shapes = tuple((4,) if b % every else (4, 4) for b in range(blocks))
    groups = groups_of(Layout(tuple(f"b{b}" for b in range(blocks)), shapes), most)
    assert set(groups) == set(range(max(groups) + 1))
    assert len(set(groups)) == min(blocks, most)
    for group in set(groups):
        assert len({len(shape) for shape, g in zip(shapes, groups, strict=True) if g == group}) == 1


def test_default_groups_and_their_sizes() -> None:
    assert MOST_GROUPS == 30
    groups = groups_of(LAYOUT)
    assert sorted(groups) == [0, 1, 2, 3]
    assert sum(sizes_of(LAYOUT, groups)) == LAYOUT.total
    with pytest.raises(ConfigRefused):
        groups_of(LAYOUT, 1)


def test_energy_is_a_simplex() -> None:
    groups = groups_of(LAYOUT)
    a = {name: np.full(shape, 2.0, np.float32) for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}
    found = energy(LAYOUT, groups, a)
    assert found.sum() == pytest.approx(1.0)
    assert np.linalg.norm(found.astype(np.float64)) <= 1
    v = squares_of_energy(found, sizes_of(LAYOUT, groups), 0.0)
    assert v == pytest.approx([v[0]] * len(v))
    assert not energy(LAYOUT, groups, {name: 0 * block for name, block in a.items()}).any()


@pytest.mark.parametrize(("deviation", "kept"), [(0.0, 1.0), (0.1, 1 - 0.03 / 0.18), (0.25, 0.0), (9.0, 0.0)])
def test_a_noisy_histogram_is_shrunk_towards_equal(deviation: float, kept: float) -> None:
    parts, sizes = np.array([-0.1, 0.5, 0.6], np.float32), (2, 2, 6)  # away from (.2, .2, .6): squares add up to .18
    expected = (max(0.0, 0.2 - 0.3 * kept) / 2, (0.2 + 0.3 * kept) / 2, 0.1)
    assert squares_of_energy(parts, sizes, deviation) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_bought_histogram_is_a_release_of_its_own() -> None:
    bought = HospitalDP(1.0, 0.5, 6, 4, 0, distributed=True, bits=12)
    groups = groups_of(LAYOUT)
    a = {name: np.ones(shape, np.float32) for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True)}
    out = privatise(bought, {"energy": energy(LAYOUT, groups, a)}, {"energy": 1.0})
    assert (out.release.unit, out.release.noise_multiplier, out.release.count) == ("hospital", 0.5, 1)
    assert out.update["energy"].shape == (4,)


def test_squares_of_a_released_mean_are_free_of_noise() -> None:
    layout, rng = Layout(("w", "b"), ((200, 100), (20_000,))), np.random.default_rng(0)
    s, deviation = {"w": 0.5, "b": 2.0}, 0.3
    groups = groups_of(layout)
    true = {"w": 0.2, "b": 0.0}
    mean = {
        name: (true[name] / s[name] + rng.normal(0, deviation, shape)).astype(np.float32)
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    v = squares_of_mean(layout, groups, mean, s, deviation)
    assert v[groups[0]] == pytest.approx(0.04, abs=0.25 * 0.09 * 8 / math.sqrt(20_000))
    # the mean square of 20,000 noises varies by sqrt(2 / 20,000) of itself, which is also the least that is said
    assert 4 * 0.09 * math.sqrt(2 / 20_000) * (1 - 1e-9) <= v[groups[1]] < 4 * 0.09 * 5 * math.sqrt(2 / 20_000)


def test_scales_by_block() -> None:
    groups = groups_of(LAYOUT)
    found = by_block(LAYOUT, groups, (1.0, 2.0, 3.0, 4.0))
    assert list(found) == list(LAYOUT.names)
    assert isotropic(LAYOUT) == dict.fromkeys(LAYOUT.names, 1.0)
