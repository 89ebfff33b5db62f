"""FedRep is Alternating with the head at home."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Steps
from wardround.algorithms.federation import local_round
from wardround.algorithms.sharing import Roles
from wardround.core.errors import ConfigRefused


@pytest.mark.parametrize(("share", "head_steps"), [(0.5, 4), (0.75, 6), (0.01, 1), (0.99, 7)])
def test_first_the_head_walks_then_the_body(problem, start, share, head_steps):
    objective = problem(1).noisy()
    placed = replace(start(problem(2).point()), home_roles=("head",))
    steps = Steps(8, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    end = Alternating(share).train(placed, objective, steps).variables["model"]
    head, path = placed.mask("head"), torch.cat([objective.path, end[None]])
    moved = path[1:] != path[:-1]
    assert moved[:head_steps, head].all()
    assert not moved[:head_steps, ~head].any()
    assert moved[head_steps:, ~head].all()
    assert not moved[head_steps:, head].any()


def test_the_head_never_leaves_and_is_kept(problem, layout, roles):
    algorithm, head = Alternating(0.5), torch.from_numpy(layout.mask(["out.weight"]))
    memory = {}
    for seed in (1, 2, 3):
        received = problem(seed, torch.float32).point()
        expected = memory["home"][head] if memory else received[head]
        objective = problem(9, torch.float32).exact()
        update, memory, _ = local_round(
            algorithm, Roles(("head",)), {"model": received}, memory, layout, roles, objective, Steps(6, 0.1)
        )
        assert set(update) == {"model:conv.weight", "model:conv.norm"}
        assert torch.equal(objective.path[0][head], expected)
        assert torch.equal(objective.path[0][~head], received[~head])


@pytest.mark.parametrize("share", [0.0, 1.0, math.nan, None])
def test_a_senseless_share_is_refused(share):
    with pytest.raises(ConfigRefused, match="home_share"):
        Alternating(share)


def test_one_step_cannot_be_shared(problem, start):
    with pytest.raises(ConfigRefused, match="at least 2"):
        Alternating(0.5).train(start(problem(2).point()), problem(1).exact(), Steps(1, 0.1))


def test_where_nothing_stays_at_home_it_is_refused(problem, start):
    with pytest.raises(ConfigRefused, match="keeps nothing at home"):
        Alternating(0.5).train(start(problem(2).point()), problem(1).exact(), Steps(4, 0.1))
