"""More work where there are more patients: how much, how far it moves a model, and what the mean of it minimises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wardround.algorithms.base import Steps, descend
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, run
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.patient_work import PatientWork, length, scale
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import from_variable
from wardround.core.errors import ConfigRefused

PLAN = Schedule(2, 40, 0.1, 0.9, True, 0.0, 10.0, "cosine")
BY_PATIENTS = PatientWork(16, 0.5, 2.0)


@pytest.mark.parametrize(
    ("work", "patients", "expected"),
    [
        (40, 16, 40),
        (40, 8, 20),
        (40, 3, 20),
        (40, 32, 80),
        (40, 500, 80),
        (40, 21, 52),
        (6, 8, 4),
        (25, 13, 20),
        (1, 4, 1),
    ],
)
def test_work_is_in_proportion_within_the_bounds(work, patients, expected):
    """A multiple of 4 (of 2, of 1) stays one, so that every method's steps are whole."""
    assert BY_PATIENTS.work(work, patients) == expected


def test_a_schedule_of_a_hospital_differs_in_its_work_alone():
    assert PLAN.of_hospital(8) is PLAN
    by_patients = replace(PLAN, work_by_patients=BY_PATIENTS)
    assert by_patients.of_hospital(8) == replace(PLAN, work=20)
    assert by_patients.of_hospital(16) == PLAN


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True), (0.5, True)])
@pytest.mark.parametrize("work", [1, 2, 7, 40])
def test_the_length_is_how_far_equal_gradients_move_a_model(work, momentum, nesterov):
    steps = Steps(work, 0.1, momentum, nesterov)
    level = torch.tensor([1.0, -2.0], dtype=torch.float64)
    w, _ = descend(torch.zeros(2, dtype=torch.float64), lambda at: (0.0, level.clone()), work, steps)
    torch.testing.assert_close(w, -0.1 * length(steps) * level)
    falling = replace(steps, rates=tuple(0.1 / (1 + step) for step in range(work)))
    w, _ = descend(torch.zeros(2, dtype=torch.float64), lambda at: (0.0, level.clone()), work, falling)
    torch.testing.assert_close(w, -0.1 * length(falling) * level)


def test_what_is_not_scaled():
    job, own = PLAN.steps(0), replace(PLAN.steps(0), work=80)
    assert scale(FedAvg(), job, job) == 1
    assert scale(FedAvg(), job, own) == length(job) / length(own) < 1
    assert scale(Scaffold(), job, own) == scale(MRMTL(0.1), job, own) == 1


@pytest.mark.parametrize(("rate", "num_rounds"), [(0.02, 60), (0.002, 300)])
def test_the_shared_model_minimises_the_objective_weighted_by_patients(rate, num_rounds, quadratics, layout, roles):
    """Diagonal quadratics a (w - c)^2 / 2: k steps move w by (1 - (1 - lr a)^k) (c - w).

    The mean stands still where sum_i p_i s_i q_i (c_i - w) = 0 with q_i = 1 - (1 - lr a_i)^k_i. For small rates q_i is
    lr a_i k_i, and with s_i = k / k_i this is the minimiser of sum_i p_i f_i; unscaled, the large hospital would count twice.
    """
    patients, work = {"small": 8.0, "large": 32.0}, {"small": 20, "large": 80}
    plan = Schedule(num_rounds, 40, rate, 0.0, False, 0.0, 0.0, "constant", work_by_patients=BY_PATIENTS)
    rng, a, c, sides = np.random.default_rng(0), {}, {}, {}
    for site in patients:
        a[site] = torch.tensor(rng.uniform(0.5, 2, layout.total))
        c[site] = torch.tensor(rng.normal(size=layout.total))
        objective = quadratics(torch.diag(a[site]).float(), (a[site] * c[site]).float())
        sides[site] = SiteSide(lambda round_, one=objective: one, patients[site], layout, roles)
    result = run(sides, FedAvg(), Mean(1.0), plan, layout.unflatten(np.zeros(layout.total, np.float32)))
    found = torch.from_numpy(layout.flatten(from_variable("model", result.variables))).double()

    def rest(shares):
        return sum(s * c[site] for site, s in shares.items()) / sum(shares.values())

    exact = rest(
        {site: patients[site] * 40 / work[site] * (1 - (1 - rate * a[site]) ** work[site]) for site in patients}
    )
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
    wanted = rest({site: patients[site] * a[site] for site in patients})
    unscaled = rest({site: patients[site] * work[site] * a[site] for site in patients})
    if rate < 0.01:
        assert (found - wanted).norm() < 0.2 * (unscaled - wanted).norm()


@pytest.mark.parametrize(
    "wrong",
    [{"reference_patients": 0}, {"least": 0.0}, {"least": 1.5}, {"most": 0.9}, {"most": 11.0}, {"most": None}],
    ids=str,
)
def test_senseless_bounds_are_refused(wrong):
    with pytest.raises(ConfigRefused, match="work_by_patients"):
        replace(BY_PATIENTS, **wrong)
