from __future__ import annotations

import math

import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedprox import FedProx
from wardround.core.errors import ConfigRefused

STEPS = Steps(12, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, clip_norm=1.0)


def test_without_pull_it_is_fedavg_bit_for_bit(problem, start):
    w = problem(2, torch.float32).point()
    prox = FedProx(0.0).train(start(w), problem(1, torch.float32).noisy(), STEPS)
    fedavg = FedAvg().train(start(w), problem(1, torch.float32).noisy(), STEPS)
    assert torch.equal(prox.variables["model"], fedavg.variables["model"])
    assert prox.losses == fedavg.losses


def test_the_walk_has_a_closed_form_around_the_proximal_point(problem, start):
    """w_K = p + (I - lr (A + mu I))^K (w_0 - p); p = (A + mu I)^-1 (b + mu w_0) minimises f + mu/2 |w - w_0|^2."""
    objective, w, mu = problem(1).exact(), problem(2).point(), 0.7
    a = objective.a[0] + mu * torch.eye(len(w), dtype=w.dtype)
    point = torch.linalg.solve(a, objective.b[0] + mu * w)
    step = torch.eye(len(w), dtype=w.dtype) - 0.2 * a
    few = FedProx(mu).train(start(w), objective, Steps(6, 0.2)).variables["model"]
    torch.testing.assert_close(few, point + torch.linalg.matrix_power(step, 6) @ (w - point))
    many = FedProx(mu).train(start(w), objective, Steps(400, 0.2)).variables["model"]
    torch.testing.assert_close(many, point)


def test_a_stronger_pull_stays_closer(problem, start):
    w = problem(2).point()
    moved = [
        float((FedProx(mu).train(start(w), problem(1).exact(), Steps(300, 0.05)).variables["model"] - w).norm())
        for mu in (0.0, 0.1, 1.0, 10.0)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < moved[0] / 3


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf, None])
def test_a_senseless_mu_is_refused(mu):
    with pytest.raises(ConfigRefused, match="mu"):
        FedProx(mu)
