"""DP-SGD on made-up gradients: the bound on every patient, the draw, the noise, and that nobody can choose the noise."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from wardround.algorithms.base import Steps, descend, plain
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.keystream import WORD, expand
from wardround.dp import dp_sgd, gaussian_noise
from wardround.dp.dp_sgd import (
    HIDDEN_LOSS,
    ROUNDING,
    PatientDP,
    PrivateObjective,
    clipped_sum,
    noised_mean,
    poisson,
)
from wardround.dp.gaussian_noise import normal, secret_words, whole_noise

SEED = bytes(range(32))


def promise(**changed: Any) -> PatientDP:
    return PatientDP(
        **{"max_grad_norm": 0.7, "noise_multiplier": 1.3, "sample_rate": 0.25, "reference_patients": 40, **changed}
    )


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact_norm2(whole: Tensor) -> int:
    """The squared norm of whole numbers, without rounding."""
    return sum(int(n) ** 2 for n in whole.tolist())


def naive(rows: Tensor, clip: float) -> Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row in rows.double():
        total += row * min(1.0, clip / float(row.norm()))
    return total


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 1e4])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_the_sum_is_that_of_clipped_gradients(scale: float, size: int) -> None:
    rows, p = scale * randn(9, size), promise()
    found = clipped_sum([rows[:4], rows[4:]], p, size) * p.step(size)
    bound = (
        9 * p.max_grad_norm * 3 * ROUNDING
    )  # the clip is 2 ROUNDING below C, and rounding moves a row by ROUNDING x C
    assert float((found - naive(rows, p.max_grad_norm)).norm()) <= bound


def test_gradients_below_the_clip_are_only_rounded() -> None:
    rows, p = 1e-3 * randn(3, 100), promise(max_grad_norm=100.0)
    found = clipped_sum([rows], p, 100) * p.step(100)
    assert float((found - rows.double().sum(0)).abs().max()) <= 3 * p.step(100) / 2


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 143_685])
@pytest.mark.parametrize("clip", [1e-3, 0.7, 1.0, 12.0])
def test_no_patient_moves_the_sum_by_more_than_the_clip(size: int, clip: float) -> None:
    """Add or remove one: in whole numbers, hence without any rounding in the test."""
    p = promise(max_grad_norm=clip)
    limit = (Fraction(clip) / Fraction(p.step(size))) ** 2
    rows = randn(5, size) * torch.tensor([1e-8, 0.1, 1.0, 1e6, 1e30])[:, None]
    half = torch.full((1, size), p.step(size) * 1.5)  # every coordinate is rounded up by half a step
    even = torch.full((1, size), 3.0)
    spike = torch.nn.functional.pad(torch.tensor([[1e9]]), (0, size - 1))
    rows = torch.cat([rows, half, even, spike])
    everybody = clipped_sum([rows], p, size)
    for index in range(len(rows)):
        others = torch.cat([rows[:index], rows[index + 1 :]])
        moved = everybody - clipped_sum([others], p, size)
        assert torch.equal(moved, moved.round())
        assert exact_norm2(moved) <= limit


def test_rounding_is_what_it_publishes() -> None:
    for size in (1, 10, 143_685, 10**8):
        p = promise()
        assert p.step(size) * size**0.5 / 2 <= ROUNDING * p.max_grad_norm
        assert p.step(size) * size**0.5 / 2 > ROUNDING * p.max_grad_norm / 4


def test_the_order_and_the_passes_do_not_matter() -> None:
    rows, p = randn(12, 500), promise()
    first = clipped_sum([rows], p, 500)
    assert torch.equal(first, clipped_sum(list(rows.flip(0).split(5)), p, 500))
    assert torch.equal(first, clipped_sum(iter(rows[:, None]), p, 500))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad: float) -> None:
    rows, p = randn(3, 4), promise()
    spoiled = rows.clone()
    spoiled[1, 2] = bad
    assert torch.equal(clipped_sum([spoiled], p, 4), clipped_sum([rows[[0, 2]]], p, 4))


def test_large_float32_numbers_do_not_overflow() -> None:
    p = promise()
    assert float(clipped_sum([torch.full((1, 4), 1e38)], p, 4).norm()) * p.step(4) == pytest.approx(
        p.max_grad_norm, rel=1e-3
    )


@pytest.mark.parametrize("rows", [[], [torch.zeros(0, 6)], [torch.zeros(2, 6)]])
def test_nobody_and_nothing_are_zeros(rows: list[Tensor]) -> None:
    assert torch.equal(clipped_sum(rows, promise(), 6), torch.zeros(6, dtype=torch.float64))


def test_the_mean_is_sum_and_noise_over_the_public_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, p = randn(5, 50), promise()
    asked = []
    monkeypatch.setattr(dp_sgd, "whole_noise", lambda n, s: asked.append((n, s)) or np.full(n, 3.0))
    found = noised_mean([rows], p, 50)
    h = p.step(50)
    assert asked == [(50, 1.3 * 0.7 / h)]
    assert p.denominator == 10.0
    torch.testing.assert_close(found, (clipped_sum([rows], p, 50) + 3) * h / 10, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_grad_norm": 0.0},
        {"max_grad_norm": None},
        {"max_grad_norm": float("nan")},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"sample_rate": 0.0},
        {"sample_rate": 1.01},
        {"reference_patients": 0},
        {"reference_patients": None},
    ],
)
def test_a_promise_is_whole_and_makes_sense(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigRefused):
        promise(**changed)


def test_a_promise_has_no_defaults() -> None:
    assert all(p.default is inspect.Parameter.empty for p in inspect.signature(PatientDP).parameters.values())


# the draw


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_everybody_is_drawn_at_the_rate(rate: float) -> None:
    """Fixed words, so the test never fails by chance; two-sided, at 1e-3."""
    taken = poisson(expand(SEED, 200_000, WORD), rate)
    assert stats.binomtest(int(taken.sum()), 200_000, rate).pvalue > 1e-3


def test_patients_and_steps_are_independent() -> None:
    """The number drawn per step is binomial (variance n q (1 - q)), and neighbours are not correlated."""
    taken = poisson(expand(SEED, 4000 * 50, WORD), 0.2).reshape(4000, 50)
    counts = taken.sum(1)
    expected = stats.binom(50, 0.2).pmf(np.arange(4, 18)) * 4000
    rest = 4000 - expected.sum()
    seen = np.array([(counts == n).sum() for n in range(4, 18)])
    assert stats.chisquare([*seen, 4000 - seen.sum()], [*expected, rest]).pvalue > 1e-3
    assert abs(np.corrcoef(taken[:, 0], taken[:, 1])[0, 1]) < 4 / 4000**0.5
    assert abs(np.corrcoef(taken[:-1, 0], taken[1:, 0])[0, 1]) < 4 / 4000**0.5


def test_the_rate_is_never_exceeded_by_a_single_word() -> None:
    edge = int(Fraction(0.3) * 2**64)
    words = np.array([0, edge - 1, edge, 2**64 - 1], np.uint64)
    assert poisson(words, 0.3).tolist() == [True, True, False, False]
    assert poisson(words, 1.0).all()
    assert not poisson(words, 2.0**-70).any()


# the noise


def test_the_noise_is_normal() -> None:
    """Kolmogorov-Smirnov at n = 2e5 on a fixed key, at 1e-3 (a scale off by 1 % would give p < 1e-3 about always)."""
    found = normal(expand(SEED, 200_000, WORD))
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert stats.kstest(found * 1.02, "norm").pvalue < 1e-3
    assert stats.chi2(200_000).cdf((found**2).sum()) == pytest.approx(0.5, abs=0.4995)
    assert abs(found.mean()) < 4 / 200_000**0.5
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 4 / 200_000**0.5


def test_the_noise_has_exactly_the_promised_scale() -> None:
    """A release without patients, fresh noise: chi-square at 1e-6 on either side (a scale off by 2 % is 9 sigma off)."""
    p, size = promise(max_grad_norm=0.31, noise_multiplier=0.9, sample_rate=0.1, reference_patients=70), 100_000
    found = noised_mean([], p, size).numpy() / (0.9 * 0.31 / 7.0)
    assert 1e-6 < stats.chi2(size).cdf((found**2).sum()) < 1 - 1e-6


def test_words_map_to_quantiles_one_by_one() -> None:
    words = np.array([0, 1, 2**64 - 1, 2**64 - 2, 2**63, 2**63 + 1, 2**62], np.uint64)
    expected = [stats.norm.ppf(((int(w) >> 1) + 0.5) / 2**64) * (-1 if int(w) & 1 else 1) for w in words]
    np.testing.assert_allclose(normal(words), expected, rtol=1e-13, atol=1e-15)
    assert np.abs(normal(words)).max() < 9.2


def test_noise_is_whole_numbers_and_every_one_can_occur() -> None:
    found = whole_noise(100_000, 3.0)
    assert (found == np.rint(found)).all()
    assert set(range(-6, 7)) <= set(found.astype(int).tolist())


def test_nobody_can_choose_the_noise_or_the_draw() -> None:
    def seeded() -> list[Any]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        objective = PrivateObjective(Toy(randn(64, 3)), promise(sample_rate=0.5), 9)
        drawn = [ticket.chosen for ticket in objective.sample(4)]
        return [noised_mean([], promise(), 5).tolist(), whole_noise(5, 1e6).tolist(), secret_words(5).tolist(), drawn]

    first, second = seeded(), seeded()
    assert all(a != b for a, b in zip(first, second, strict=True))
    for function in (noised_mean, whole_noise, secret_words, PrivateObjective.__init__):
        assert not {"seed", "rng", "generator", "key"} & set(inspect.signature(function).parameters)


def test_noise_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    noised_mean([], promise(), 50)
    assert torch.equal(torch.rand(1), expected)


def test_all_entropy_comes_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """With os.urandom held still everything repeats: nothing else is random."""
    monkeypatch.setattr(gaussian_noise, "secret", lambda size: bytes(range(size)))
    rows = randn(4, 30)
    assert torch.equal(noised_mean([rows], promise(), 30), noised_mean([rows], promise(), 30))


# the oracle


class Toy:
    """f_p(w) = ||w - c_p||^2 / 2 for the patients of one hospital."""

    def __init__(self, centres: Tensor) -> None:
        self.centres, self.asked = centres, 0

    @property
    def patients(self) -> Sequence[str]:
        return [str(i) for i in range(len(self.centres))]

    def sample(self, chosen: tuple[str, ...]) -> Tensor:
        return self.centres[[int(who) for who in chosen]]

    def gradients(self, w: Tensor, batch: Tensor) -> Iterator[Tensor]:
        self.asked += 1
        yield from (w - batch).split(3)


def test_a_gradient_is_the_noised_mean_of_its_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp_sgd, "whole_noise", lambda n, s: np.zeros(n))
    toy, p = Toy(randn(40, 3)), promise()
    objective = PrivateObjective(toy, p, 3)
    (ticket,) = objective.sample(1)
    w = torch.ones(3)
    loss, g = objective.value_and_grad(w, ticket)
    assert (loss, g.dtype) == (HIDDEN_LOSS, torch.float32)
    expected = clipped_sum([w - toy.sample(ticket.chosen)], p, 3) * p.step(3) / 10
    torch.testing.assert_close(g, expected.float(), rtol=1e-6, atol=0)


def test_an_empty_draw_is_noise_alone_and_charged() -> None:
    toy = Toy(randn(3, 4))
    objective = PrivateObjective(toy, promise(sample_rate=1e-12), 1)
    (ticket,) = objective.sample(1)
    assert ticket.chosen == ()
    _, g = objective.value_and_grad(torch.zeros(4), ticket)
    assert (toy.asked, objective.released) == (0, 1)
    assert bool((g != 0).all())


def test_no_more_than_was_reserved() -> None:
    toy = Toy(randn(20, 3))
    objective = PrivateObjective(toy, promise(), 2)
    tickets = objective.sample(3)
    for ticket in tickets[:2]:
        objective.value_and_grad(torch.zeros(3), ticket)
    with pytest.raises(ReleaseRefused, match="release 3 of 2"):
        objective.value_and_grad(torch.zeros(3), tickets[2])
    assert objective.released == 2


def test_a_draw_is_good_for_one_gradient() -> None:
    objective = PrivateObjective(Toy(randn(20, 3)), promise(), 5)
    (ticket,) = objective.sample(1)
    objective.value_and_grad(torch.zeros(3), ticket)
    with pytest.raises(ReleaseRefused, match="used before"):
        objective.value_and_grad(torch.zeros(3), ticket)


def test_a_release_is_counted_even_if_it_then_fails() -> None:
    class Broken(Toy):
        def gradients(self, w: Tensor, batch: Tensor) -> Iterator[Tensor]:
            raise RuntimeError

    objective = PrivateObjective(Broken(randn(20, 3)), promise(sample_rate=1.0), 5)
    (ticket,) = objective.sample(1)
    with pytest.raises(RuntimeError):
        objective.value_and_grad(torch.zeros(3), ticket)
    assert (objective.released, ticket.used) == (1, True)


def test_gradient_descent_finds_the_mean_patient() -> None:
    """Little noise, nobody clipped: the answer of the quadratic is known."""
    centres = randn(50, 3)
    p = promise(max_grad_norm=50.0, noise_multiplier=1e-4, sample_rate=0.5, reference_patients=50)
    objective = PrivateObjective(Toy(centres), p, 400)
    w, losses = descend(torch.zeros(3), plain(objective), 400, Steps(400, 0.05))
    assert losses == [HIDDEN_LOSS] * 400
    assert float((w - centres.mean(0)).norm()) < 0.25
