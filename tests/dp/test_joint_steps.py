"""The sum of clipped gradients: against a slow oracle in fractions, its exact sensitivity, and its one use."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.stages import Update
from wardround.dp import noise_proof
from wardround.dp.joint_dp import JointDP
from wardround.dp.joint_release import JointRelease
from wardround.dp.joint_steps import JointObjective, patient_sum, prove

quick = settings(max_examples=60, deadline=None)


def promise(**changed: Any) -> JointDP:
    usual = {
        "max_grad_norm": 0.7,
        "normalised": False,
        "noise_multiplier": 3.0,
        "sites": 8,
        "min_clients": 4,
        "colluders": 1,
        "max_patients": 64,
        "reference_patients": 50,
        "bits": 16,
    }
    return JointDP(**{**usual, **changed})


def rows(seed: int, count: int, size: int, length: float) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=draw) * length


def slow(matrix: Tensor, p: JointDP) -> list[Fraction]:
    """Return the sum row by row, value by value, in exact fractions."""
    size = matrix.shape[1]
    fine = Fraction(p.fine_step(size))
    total = [Fraction(0)] * size
    for row in matrix.double().tolist():
        norm = float(np.sqrt(sum(np.float64(value) ** 2 for value in row)))
        factor = p.reach / norm if norm else 1.0
        factor = factor if p.normalised else min(1.0, factor)
        for place, value in enumerate(row):
            total[place] += round(value * factor / float(fine)) * fine
    return total


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("length", [0.01, 5.0])
def test_the_sum_is_that_of_the_slow_oracle(normalised: bool, length: float) -> None:
    p = promise(normalised=normalised)
    matrix = rows(3, 9, 23, length)
    found = patient_sum([matrix[:4], matrix[4:]], p, 23)
    fine = p.fine_step(23)
    assert np.abs(found.numpy() - np.array([float(value) for value in slow(matrix, p)])).max() <= fine * 1e-9


@quick
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.integers(1, 40), st.booleans())
def test_one_patient_moves_the_sum_by_at_most_the_clip_in_exact_numbers(
    seed: int, length: float, size: int, normalised: bool
) -> None:
    p = promise(normalised=normalised)
    everybody = rows(seed, 5, size, length)
    one, other = patient_sum([everybody], p, size), patient_sum([everybody[1:]], p, size)
    moved = [Fraction(a) - Fraction(b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert sum(value * value for value in moved) <= Fraction(p.max_grad_norm) ** 2


def test_a_replaced_patient_can_move_it_by_twice_the_clip() -> None:
    p = promise(normalised=True)
    there, instead = torch.ones(1, 4), -torch.ones(1, 4)
    moved = patient_sum([there], p, 4) - patient_sum([instead], p, 4)
    assert 1.9 * p.max_grad_norm < float(moved.norm()) <= 2 * p.max_grad_norm


def test_normalised_gradients_all_have_the_length_of_the_clip_and_zeros_stay_zeros() -> None:
    p = promise(normalised=True)
    found = patient_sum([torch.tensor([[1e-6, 0.0, 0.0]]), torch.zeros(1, 3)], p, 3)
    assert found.tolist() == pytest.approx([p.reach, 0.0, 0.0], abs=p.fine_step(3))


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    good = rows(1, 2, 6, 1.0)
    bad = torch.full((1, 6), float("nan"))
    assert torch.equal(patient_sum([good, bad], promise(), 6), patient_sum([good], promise(), 6))


class Lines:
    """Patients whose gradients are given."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.patients = tuple(f"p{n}" for n in range(len(matrix)))

    def sample(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        return chosen

    def gradients(self, w: Tensor, batch: Any) -> Iterable[Tensor]:
        yield self.matrix[: len(batch)]


def test_only_trained_values_are_clipped_and_summed() -> None:
    """A huge gradient elsewhere changes nothing: it neither shortens the rest nor leaves."""
    p, matrix = promise(), rows(2, 6, 8, 1.0)
    trained = torch.tensor([True, False] * 4)
    matrix[:, ~trained] *= 1e6
    objective = JointObjective(Lines(matrix), p, trained)
    (batch,) = objective.sample(1)
    loss, found = objective.value_and_grad(torch.zeros(8), batch)
    assert loss == 0.0
    assert torch.equal(found[trained], patient_sum([matrix[:, trained]], p, 4))
    assert not found[~trained].any()


def test_there_is_one_sum_for_a_round() -> None:
    objective = JointObjective(Lines(rows(2, 3, 4, 1.0)), promise())
    (batch,) = objective.sample(1)
    objective.value_and_grad(torch.zeros(4), batch)
    with pytest.raises(ReleaseRefused, match="a second one in a round"):
        objective.value_and_grad(torch.zeros(4), batch)


def test_too_many_patients_are_refused_before_anything_is_drawn() -> None:
    objective = JointObjective(Lines(rows(2, 5, 4, 1.0)), promise(max_patients=4))
    with pytest.raises(ConfigRefused, match=r"dp\.max_patients"):
        objective.sample(1)


def released() -> tuple[JointRelease, Update]:
    objective = JointObjective(Lines(rows(2, 6, 8, 1.0)), promise())
    (batch,) = objective.sample(1)
    _, total = objective.value_and_grad(torch.zeros(8), batch)
    update = {"model:norm.bias": total.numpy().astype(np.float32)}
    prove(update, objective)
    return JointRelease(promise(), 10, 1e-5, accept_vacuous=False), Update(update, 1.0)


def test_the_stage_adds_the_share_and_says_what_it_costs() -> None:
    stage, update = released()
    found, receipt = stage.outbound(update, 0, {})
    steps = found.params["model:norm.bias"].astype(np.float64) / promise().step
    assert np.array_equal(steps, np.rint(steps))
    assert not np.array_equal(found.params["model:norm.bias"], update.params["model:norm.bias"])
    assert "2 shares of it make the whole" in receipt["guarantee"]
    assert (stage.cost().noise_multiplier, stage.plan().count) == (3.0, 10)


def test_a_sum_without_proof_or_with_another_promise_does_not_leave() -> None:
    stage, update = released()
    changed = {name: block + np.float32(1) for name, block in update.params.items()}
    with pytest.raises(ReleaseRefused, match="without proof of its clip"):
        stage.outbound(Update(changed, 1.0), 0, {})
    noise_proof.note(update.params, noise_proof.Proof(promise(max_grad_norm=7.0), 1))
    with pytest.raises(ReleaseRefused, match="under another promise"):
        stage.outbound(update, 0, {})
    with pytest.raises(ReleaseRefused, match="without proof of its clip"):
        stage.outbound(update, 0, {})


def test_what_is_missing_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="no delta"):
        JointRelease(promise(), 10, None, accept_vacuous=False)  # type: ignore[arg-type]
