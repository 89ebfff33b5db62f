from __future__ import annotations

import torch

from wardround.algorithms.base import Steps, personal
from wardround.algorithms.fedavg import FedAvg


def test_the_walk_on_a_quadratic_has_a_closed_form(problem, start):
    """w_K = w* + (I - lr A)^K (w_0 - w*) with w* = A^-1 b."""
    objective, w = problem(1).exact(), problem(2).point()
    end = FedAvg().train(start(w), objective, Steps(9, 0.2))
    a, b = objective.a[0], objective.b[0]
    best = torch.linalg.solve(a, b)
    step = torch.eye(len(w), dtype=w.dtype) - 0.2 * a
    torch.testing.assert_close(end.variables["model"], best + torch.linalg.matrix_power(step, 9) @ (w - best))
    assert end.losses[0] == float(0.5 * w @ a @ w - b @ w)


def test_the_sites_own_model_is_the_shared_one(problem, start):
    w = problem(2).point()
    assert torch.equal(personal(start(w)), w)
