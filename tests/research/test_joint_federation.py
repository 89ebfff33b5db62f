"""A federation under one noise in one process: learns without noise, sums as the closed form says, and is reproducible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import FedAvgM
from wardround.algorithms.train_only import TrainOnly, trained
from wardround.core.errors import RoundRefused
from wardround.dp.joint_dp import JointDP
from wardround.research.joint_federation import JointFederation, JointSum, Noise
from wardround.training.dp_training import DPSite, PatientPatches

PROMISE = JointDP(1.0, True, 2.0, 8, 3, 0, 64, 20, 16)


def summed(noise: Noise, sites: int, size: int = 40_000) -> np.ndarray:
    found = JointSum(PROMISE, noise)
    for site in range(sites):
        found.add({"model:a": np.full(size, site + 1.0, np.float32)}, 1.0)
    return found.mean()["model:a"]


def test_without_noise_the_sum_is_exact_and_divided_by_the_public_number() -> None:
    assert np.array_equal(summed("none", 4, 3), np.full(3, 10 / 20, np.float32))


@pytest.mark.parametrize(
    ("noise", "shares"),
    [("joint", 4 / 2), ("own", 4.0)],
)
def test_the_noise_in_a_sum_of_four(noise: Noise, shares: float) -> None:
    """Shares for a quorum of 3: four of them are twice the whole noise in variance; own noise is four times it."""
    found = summed(noise, 4) * 20 - 10
    deviation = 2.0 * math.sqrt(shares)
    assert abs(float(found.mean())) < 5 * deviation / math.sqrt(len(found))
    assert float(found.std()) == pytest.approx(deviation, rel=0.03)


def test_other_blocks_and_no_hospital_are_refused() -> None:
    found = JointSum(PROMISE, "joint")
    with pytest.raises(RoundRefused, match="no hospital"):
        found.mean()
    found.add({"model:a": np.zeros(2, np.float32)}, 1.0)
    with pytest.raises(RoundRefused, match="other blocks"):
        found.add({"model:b": np.zeros(2, np.float32)}, 1.0)


def test_a_round_is_one_step_along_the_clipped_sum_of_everybody(site: Any) -> None:
    """Slow oracle: every patient's gradient by autograd, one at a time, normalised; nothing but affine parts moves."""
    sites = {"a": site(patch=(8, 8, 8)), "b": site(patch=(12, 12, 12))}
    schedule = Schedule(1, 3, 0.05, 0.9, True, 0.0, 10.0, "constant")
    affine = TrainOnly(("affine",))
    together = JointFederation(sites, PatientSteps(2), affine, PROMISE, FedAvgM(0.7, 0.5), schedule, "none")
    first = sites["a"].model.vector.clone()
    layout = sites["a"].layout
    found = torch.from_numpy(
        layout.flatten({n.removeprefix("model:"): b for n, b in together.run(first).variables.items()})
    )
    mask = trained(affine, layout, sites["a"].roles)
    total = torch.zeros(first.numel(), dtype=torch.float64)
    for one in sites.values():
        source = PatientPatches(DPSite(one, PROMISE), "train", 0, patches=2)
        batches = source.sample(source.patients)
        for start in range(0, len(batches), 2):
            images, losses = one.joined(batches[start : start + 2])
            _, g = one.model.value_and_grad(first, images, lambda logits, losses=losses: losses(logits).mean())
            g = g.clone().masked_fill(~mask, 0).double()
            total += g / g.norm()
    moved = (found - first).double()
    expected = -0.7 * total / PROMISE.reference_patients
    assert torch.equal(moved[~mask], torch.zeros_like(moved[~mask]))
    assert float((moved[mask] - expected[mask]).norm() / expected.norm()) < 0.02
