from __future__ import annotations

import math

import pytest
import torch

from wardround.algorithms.base import Steps, descend, personal, plain
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.core.errors import ConfigRefused


def test_the_shared_part_is_fedavg_with_half_the_work(problem, start):
    w = problem(1).point()
    ditto = Ditto(0.3).train(start(w), problem(2).noisy(), Steps(10, 0.1, momentum=0.9))
    fedavg = FedAvg().train(start(w), problem(2).noisy(), Steps(5, 0.1, momentum=0.9))
    assert torch.equal(ditto.variables["model"], fedavg.variables["model"])
    assert ditto.losses == fedavg.losses


def test_without_pull_the_personal_part_is_local_training(problem, start):
    """Whatever the server sends after round 0: v follows the site's own gradients alone, with half of the work."""
    v = w = problem(1).point()
    objective, alone = problem(2).exact(), problem(2).exact()
    memory = {}
    for seed in (3, 4, 5):
        memory = Ditto(0.0).train(start(w, memory), objective, Steps(8, 0.1)).memory
        v, _ = descend(v, plain(alone), 4, Steps(4, 0.1))
        w = problem(seed).point()
    assert torch.equal(memory["personal"], v)
    assert torch.equal(personal(start(w, memory)), v)


@pytest.mark.parametrize("lam", [0.5, 5.0])
def test_the_personal_part_has_a_closed_form(problem, start, lam):
    """With w held: v -> (A + lam I)^-1 (b + lam w), the minimiser of f(v) + lam/2 |v - w|^2."""
    objective, w, v = problem(1).exact(), problem(2).point(), problem(3).point()
    end = Ditto(lam).train(start(w, {"personal": v}), objective, Steps(1000, 0.1)).memory["personal"]
    a = objective.a[0] + lam * torch.eye(len(w), dtype=w.dtype)
    torch.testing.assert_close(end, torch.linalg.solve(a, objective.b[0] + lam * w))


def test_a_large_pull_brings_the_personal_model_to_the_shared_one(problem, start):
    w, v = problem(2).point(), problem(3).point()
    gaps = []
    for lam in (1.0, 10.0, 100.0, 1000.0):
        end = Ditto(lam).train(start(w, {"personal": v}), problem(1).exact(), Steps(2000, 0.9 / (lam + 2)))
        gaps.append(float((end.memory["personal"] - w).norm()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 100


def test_the_personal_model_starts_as_the_shared_one(problem, start):
    w = problem(1).point()
    assert torch.equal(personal(start(w)), w)


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf, None])
def test_a_senseless_pull_is_refused(lam):
    with pytest.raises(ConfigRefused, match="lam"):
        Ditto(lam)


def test_odd_work_is_refused(problem, start):
    with pytest.raises(ConfigRefused, match="multiple of 2"):
        Ditto(1.0).train(start(problem(1).point()), problem(2).exact(), Steps(5, 0.1))
