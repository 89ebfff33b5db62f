import math

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.reports.intervals import Interval, bootstrap_mean, hierarchical_mean, paired_gain


def test_many_patients_give_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    found = bootstrap_mean(values.tolist(), seed=1, repeats=20_000)
    half = 1.959964 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.04 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.04 * half)
    assert found.cases == 400


def test_coverage_is_near_95_percent() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for i in range(400):
        found = bootstrap_mean(generator.normal(0.0, 1.0, 40).tolist(), seed=i, repeats=400)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.0 <= found.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) - 0.015 < hits / 400 < 0.95 + 3 * math.sqrt(0.95 * 0.05 / 400)


def test_two_patients_by_hand() -> None:
    """Both draws hit the same patient in half of the replicates: the interval reaches both values."""
    assert bootstrap_mean([0.0, 1.0], seed=0) == Interval(0.5, 0.0, 1.0, 2)


def test_one_case_has_no_interval_and_says_so() -> None:
    found = bootstrap_mean([0.25], seed=0)
    assert found == Interval(0.25, None, None, 1)
    assert str(found) == "0.250 (1 case: no interval)"
    assert str(Interval(0.5, 0.4, 0.6, 3)) == "0.500 [0.400, 0.600] (3 cases)"


def test_equal_values_give_a_point() -> None:
    found = bootstrap_mean([0.1, 0.1, 0.1], seed=0)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_order_shift_and_factor() -> None:
    values = [0.2, 0.9, 0.5, 0.7, 0.1]
    found, turned = bootstrap_mean(values, seed=3), bootstrap_mean(values[::-1], seed=3)
    assert found == turned
    moved = bootstrap_mean([2 * v + 1 for v in values], seed=3)
    assert found.low is not None
    assert found.high is not None
    assert (moved.low, moved.high) == (pytest.approx(2 * found.low + 1), pytest.approx(2 * found.high + 1))


def test_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=25).tolist()
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize("values", [[], [float("nan")], [0.1, float("inf")], [[0.1, 0.2]]])
def test_values_that_are_refused(values: list[float]) -> None:
    with pytest.raises(DataRefused):
        bootstrap_mean(values, seed=0)


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(ConfigRefused):
        bootstrap_mean([0.1, 0.2], seed=0, repeats=10)
    with pytest.raises(ConfigRefused):
        hierarchical_mean({"a": {0: [0.1, 0.2]}}, repeats=10)


def test_paired_gain_is_the_interval_of_the_differences() -> None:
    a, b = [0.9, 0.4, 0.8], [0.7, 0.5, 0.3]
    assert paired_gain(a, b, seed=4) == bootstrap_mean([x - y for x, y in zip(a, b, strict=True)], seed=4)
    with pytest.raises(DataRefused):
        paired_gain(a, b[:2], seed=4)


def test_pairing_removes_what_patients_share() -> None:
    """A hard and an easy patient make each mean uncertain, a constant gain stays certain."""
    found = paired_gain([0.3, 0.9], [0.2, 0.8], seed=0)
    assert (found.value, found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1))


def test_sites_count_the_same_however_many_patients() -> None:
    found = hierarchical_mean({"a": {0: [1.0] * 50}, "b": {0: [0.0]}})
    assert found == Interval(0.5, pytest.approx(0.5), pytest.approx(0.5), 51)


def test_spread_over_patients_by_closed_form() -> None:
    """One seed: the variance of the mean over sites is the sum of (population variance / n) / sites^2."""
    generator = np.random.default_rng(5)
    values = {site: {0: generator.normal(size=n).tolist()} for site, n in (("a", 100), ("b", 150))}
    sigma = math.sqrt(sum(np.var(v[0]) / len(v[0]) for v in values.values())) / 2
    found = hierarchical_mean(values, seed=2, repeats=20_000)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.959964 * sigma, rel=0.04)


def test_shared_seeds_do_not_average_out_over_sites() -> None:
    """Two seeds with values 0 and 1 everywhere: joint draws reach 0 and 1 however many sites there are."""
    values = {f"site-{i}": {0: [0.0, 0.0], 1: [1.0, 1.0]} for i in range(8)}
    found = hierarchical_mean(values)
    assert (found.value, found.low, found.high, found.cases) == (0.5, pytest.approx(0.0), pytest.approx(1.0), 16)


def test_seeds_of_one_site_alone_average_out_over_sites() -> None:
    """Other seeds at every site: 8 independent draws of mean 1/2 and variance 1/8 each."""
    values = {f"site-{i}": {2 * i: [0.0, 0.0], 2 * i + 1: [1.0, 1.0]} for i in range(8)}
    found = hierarchical_mean(values, repeats=20_000)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(1 / 8 / 8), rel=0.15)


def test_the_same_patients_are_drawn_for_every_seed() -> None:
    """Patient 0 scores 1 and patient 1 scores 0 under every seed: seeds must not hide the spread over patients."""
    coupled = hierarchical_mean({"a": {seed: [1.0, 0.0] for seed in range(20)}})
    assert (coupled.low, coupled.high) == (pytest.approx(0.0), pytest.approx(1.0))
    uneven = hierarchical_mean({"a": {**{seed: [1.0, 0.0] for seed in range(20)}, 20: [1.0, 0.0, 0.5]}})
    assert uneven.low is not None
    assert uneven.low > 0.1
    assert uneven.cases == 3


def test_one_case_and_seed_everywhere_has_no_interval() -> None:
    assert hierarchical_mean({"a": {0: [0.2]}, "b": {0: [0.4]}}) == Interval(pytest.approx(0.3), None, None, 2)


@pytest.mark.parametrize(
    "values", [{}, {"a": {}}, {"a": {0: []}}, {"a": {0: [float("nan")]}}, {"a": {0: [0.1]}, "b": {}}]
)
def test_hierarchies_that_are_refused(values: dict[str, dict[int, list[float]]]) -> None:
    with pytest.raises(DataRefused):
        hierarchical_mean(values)
