from __future__ import annotations

import math

import pytest
import torch

from wardround.algorithms.base import Steps, personal
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.per_fedavg import COST, PerFedAvg, meta_gradient
from wardround.core.errors import ConfigRefused

ALPHA, BETA, DELTA = 0.3, 0.1, 1e-3


@pytest.fixture
def known(problem):
    """(oracle without noise, w, A, b, v = A w~ - b at w~ = w - alpha (A w - b))"""
    objective, w = problem(1).exact(), problem(2).point()
    a, b = objective.a[0], objective.b[0]
    return objective, w, a, b, a @ (w - ALPHA * (a @ w - b)) - b


def test_hf_is_the_exact_meta_gradient_on_a_quadratic(known):
    """grad of f(w - alpha grad f(w)) is (I - alpha A)(A w~ - b), whatever delta is."""
    objective, w, a, _, v = known
    for delta in (1e-4, 1e-2, 0.5):
        _, direction = meta_gradient(objective, ALPHA, "HF", delta)(w)
        torch.testing.assert_close(direction, v - ALPHA * a @ v, rtol=0, atol=1e-13 / delta)


def test_hf_is_what_automatic_differentiation_says(known):
    objective, w, a, b, _ = known
    w = w.clone().requires_grad_()
    inner = w - ALPHA * (a @ w - b)
    (expected,) = torch.autograd.grad(0.5 * inner @ a @ inner - b @ inner, w)
    _, direction = meta_gradient(objective, ALPHA, "HF", DELTA)(w.detach())
    torch.testing.assert_close(direction, expected, rtol=0, atol=1e-10)


def test_fo_leaves_out_exactly_alpha_h_v(known):
    objective, w, a, _, v = known
    fo = meta_gradient(objective, ALPHA, "FO", DELTA)(w)[1].clone()
    hf = meta_gradient(objective, ALPHA, "HF", DELTA)(w)[1]
    torch.testing.assert_close(fo, v)
    torch.testing.assert_close(fo - hf, ALPHA * a @ v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hessian", ["FO", "HF"])
def test_without_inner_step_it_is_fedavg_bit_for_bit(problem, quadratics, start, hessian):
    """FedAvg is given the batches D' that the outer step uses."""
    noisy, w = problem(1, torch.float32).noisy(36), problem(2, torch.float32).point()
    taken = 3 if hessian == "HF" else 2
    steps = 5
    settings = {"lr": BETA, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "clip_norm": 1.0}
    meta = PerFedAvg(0.0, hessian, DELTA).train(start(w), noisy, Steps(COST[hessian] * steps, **settings))
    same = quadratics(noisy.a[1::taken], noisy.b[1::taken])
    fedavg = FedAvg().train(start(w), same, Steps(steps, **settings))
    assert torch.equal(meta.variables["model"], fedavg.variables["model"])


@pytest.mark.parametrize("hessian", ["FO", "HF"])
def test_five_local_steps_match_a_reference_by_hand(problem, start, hessian):
    objective, w = problem(1).noisy(), problem(2).point()
    end = PerFedAvg(ALPHA, hessian, DELTA).train(start(w), objective, Steps(5 * COST[hessian], BETA))

    a, b, x = objective.a.numpy(), objective.b.numpy(), w.numpy()
    losses, batch = [], 0
    for _ in range(5):
        losses.append(0.5 * x @ a[batch] @ x - b[batch] @ x)
        adapted = x - ALPHA * (a[batch] @ x - b[batch])
        v = a[batch + 1] @ adapted - b[batch + 1]
        if hessian == "HF":
            x = x - BETA * (v - ALPHA * a[batch + 2] @ v)
            batch += 3
        else:
            x = x - BETA * v
            batch += 2
    torch.testing.assert_close(end.variables["model"], torch.from_numpy(x), rtol=0, atol=1e-9)
    assert end.losses == pytest.approx(losses)


def test_the_three_batches_are_disjoint_and_used_where_the_paper_says(problem, start):
    objective, w = problem(1).noisy(), problem(2).point()
    PerFedAvg(ALPHA, "HF", DELTA).train(start(w), objective, Steps(8, BETA))
    assert objective.draws == [(0, 1, 2), (3, 4, 5)]
    assert [batch for batch, _ in objective.calls] == [0, 1, 2, 2, 3, 4, 5, 5]

    objective = problem(1).noisy()
    PerFedAvg(ALPHA, "FO", DELTA).train(start(w), objective, Steps(4, BETA))
    assert objective.draws == [(0, 1), (2, 3)]
    assert [batch for batch, _ in objective.calls] == [0, 1, 2, 3]


def test_the_two_points_of_the_difference_lie_delta_around_the_shared_model(problem, start):
    objective, w = problem(1).noisy(), problem(2).point()
    PerFedAvg(ALPHA, "HF", DELTA).train(start(w), objective, Steps(4, BETA))
    plus, minus = objective.path[2], objective.path[3]
    torch.testing.assert_close((plus + minus) / 2, w)
    assert float((plus - w).norm()) == pytest.approx(DELTA)


def test_where_the_adapted_gradient_vanishes_nothing_moves(quadratics):
    """A = I, alpha = 1: one inner step reaches the optimum, v = 0, and the direction is 0, not 0/0."""
    objective = quadratics(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    _, direction = meta_gradient(objective, 1.0, "HF", DELTA)(torch.ones(3, dtype=torch.float64))
    assert torch.equal(direction, torch.zeros(3, dtype=torch.float64))


def test_it_ends_where_one_step_of_adaptation_is_best(problem, start):
    """Two sites: the fixed point solves sum_i (I - alpha A_i)^2 (A_i w - b_i) = 0, which is not sum_i grad f_i = 0."""
    parts = [problem(seed).exact() for seed in (1, 2)]
    eye = torch.eye(len(parts[0].b[0]), dtype=torch.float64)
    shrink = [torch.linalg.matrix_power(eye - ALPHA * o.a[0], 2) for o in parts]
    meta = torch.linalg.solve(
        sum(s @ o.a[0] for s, o in zip(shrink, parts, strict=True)),
        sum(s @ o.b[0] for s, o in zip(shrink, parts, strict=True)),
    )
    w = torch.zeros_like(meta)
    for _ in range(300):
        w = sum(PerFedAvg(ALPHA, "HF", DELTA).train(start(w), o, Steps(4, 0.5)).variables["model"] for o in parts) / 2
    torch.testing.assert_close(w, meta, rtol=0, atol=1e-8)


def test_the_sites_own_model_is_the_shared_one_before_fine_tuning(problem, start):
    w = problem(2).point()
    assert torch.equal(personal(start(w)), w)


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": -0.1}, {"alpha": math.nan}, {"alpha": None}, {"hessian": "FULL"}, {"delta": 0.0}, {"delta": None}],
    ids=str,
)
def test_senseless_arguments_are_refused(wrong):
    with pytest.raises(ConfigRefused, match="Per-FedAvg"):
        PerFedAvg(**{"alpha": ALPHA, "hessian": "FO", "delta": DELTA} | wrong)


@pytest.mark.parametrize(("hessian", "work"), [("FO", 5), ("HF", 6)])
def test_work_that_is_no_whole_number_of_steps_is_refused(problem, start, hessian, work):
    with pytest.raises(ConfigRefused, match=f"multiple of {COST[hessian]}"):
        PerFedAvg(ALPHA, hessian, DELTA).train(start(problem(2).point()), problem(1).exact(), Steps(work, BETA))
