"""MR-MTL on quadratics, whose fixed points are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wardround.algorithms.base import Steps, personal
from wardround.algorithms.federation import SiteSide, local_only, local_round, run
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import MeanOfModels
from wardround.algorithms.sharing import EVERYTHING, Roles
from wardround.core.arrays import RunningMean, from_variable, in_variable
from wardround.core.errors import ConfigRefused

WEIGHTS = {"small": 1.0, "middle": 2.0, "large": 5.0}
SHARES = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64) / sum(WEIGHTS.values())


def schedule(num_rounds, work=10, lr=0.1):
    return Schedule(num_rounds, work, lr, 0.0, False, 0.0, 0.0, "constant")


@pytest.fixture
def together(problem, layout, roles):
    """together(lam, schedule, sharing) -> (objectives, own models, shared model) after all rounds"""

    def go(lam, plan, sharing=EVERYTHING):
        objectives = {site: problem(seed, torch.float32).exact() for seed, site in enumerate(WEIGHTS)}
        sides = {
            site: SiteSide(lambda round_, one=one: one, WEIGHTS[site], layout, roles)
            for site, one in objectives.items()
        }
        first = layout.unflatten(problem(9, torch.float32).point().numpy())
        result = run(sides, MRMTL(lam), MeanOfModels(), plan, first, sharing=sharing)
        own = {site: result.personal(MRMTL(lam), site, side) for site, side in sides.items()}
        return objectives, own, torch.from_numpy(layout.flatten(from_variable("model", result.variables)))

    return go


def fixed_points(objectives, lam):
    """Return w_i [sites, n] with A_i w_i - b_i + lam (w_i - sum_j p_j w_j) = 0, from one linear system."""
    a = [one.a[0].double() for one in objectives.values()]
    b = torch.cat([one.b[0].double() for one in objectives.values()])
    eye = torch.eye(len(a[0]), dtype=torch.float64)
    system = torch.block_diag(*a) + lam * torch.eye(len(b), dtype=torch.float64)
    system -= lam * torch.kron(SHARES.repeat(len(a), 1), eye)
    return torch.linalg.solve(system, b).reshape(len(a), -1)


@pytest.mark.parametrize("lam", [0.3, 3.0])
def test_the_own_models_and_their_mean_have_a_closed_form(together, lam):
    objectives, own, shared = together(lam, schedule(400))
    expected = fixed_points(objectives, lam)
    for found, wanted in zip(own.values(), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-4)
    torch.testing.assert_close(shared.double(), SHARES @ expected, rtol=0, atol=2e-4)


def test_without_pull_every_hospital_trains_alone(together, problem):
    """lam = 0: bit for bit the local model, whatever the others do."""
    plan = schedule(5)
    objectives, own, _ = together(0.0, plan)
    for site, objective in objectives.items():
        assert torch.equal(own[site], local_only(objective, plan, problem(9, torch.float32).point()))


def test_a_large_pull_makes_one_model_that_minimises_the_weighted_sum(together):
    objectives, _, _ = together(1.0, schedule(1))
    a = sum(p * one.a[0].double() for p, one in zip(SHARES, objectives.values(), strict=True))
    b = sum(p * one.b[0].double() for p, one in zip(SHARES, objectives.values(), strict=True))
    best, gaps, spreads = torch.linalg.solve(a, b), [], []
    for lam in (1.0, 5.0, 25.0):
        _, own, shared = together(lam, schedule(20 * int(lam + 2), lr=1.0 / (lam + 2)))
        gaps.append(float((shared.double() - best).norm()))
        spreads.append(max(float((w - shared).norm()) for w in own.values()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.08, gaps
    assert spreads[-1] < spreads[0] / 8, spreads


def test_the_shared_model_stays_the_mean_when_a_hospital_misses_a_round(problem, layout, roles):
    algorithm, rule = MRMTL(0.5), MeanOfModels()
    first = problem(9, torch.float32).point()
    objectives = {site: problem(seed, torch.float32).exact() for seed, site in enumerate(WEIGHTS)}
    own = dict.fromkeys(WEIGHTS, first)
    memories = {site: {} for site in WEIGHTS}
    shared = in_variable("model", layout.unflatten(first.numpy()))
    for present in (["small", "middle", "large"], ["small", "large"], ["middle"], ["small", "middle", "large"]):
        mean = RunningMean()
        received = torch.from_numpy(layout.flatten(from_variable("model", shared)))
        for site in present:
            update, memories[site], _ = local_round(
                algorithm,
                EVERYTHING,
                {"model": received},
                memories[site],
                layout,
                roles,
                objectives[site],
                Steps(8, 0.1),
            )
            own[site] = memories[site]["personal"]
            mean.add(update, WEIGHTS[site])
        taking_part = sum(WEIGHTS[site] for site in present) / sum(WEIGHTS.values())
        shared, _ = rule.apply(shared, mean.mean(), {}, taking_part)
        models = torch.stack(list(own.values())).double()
        np.testing.assert_allclose(
            layout.flatten(from_variable("model", shared)), (SHARES @ models).numpy(), rtol=0, atol=1e-5
        )


def test_what_stays_at_home_is_not_pulled(together, problem, layout, start):
    """The head of a model whose head stays at home has no mean, so that lam does not reach it."""
    w, own = problem(1).point(), problem(2).point()
    flat = torch.zeros_like(w)

    class Level:
        def sample(self, count):
            return (None,) * count

        def value_and_grad(self, at, batch):
            return 0.0, flat.clone()

    begun = replace(start(w, {"personal": own}), home_roles=("head",))
    end = MRMTL(0.5).train(begun, Level(), Steps(1, 0.1))
    head = torch.from_numpy(layout.mask(["out.weight"]))
    moved = end.memory["personal"] - own
    assert torch.equal(moved[head], flat[head])
    torch.testing.assert_close(moved[~head], 0.05 * (w - own)[~head])
    _, models, _ = together(0.5, schedule(3), Roles(("head",)))
    heads = [model[head] for model in models.values()]
    assert not torch.equal(heads[0], heads[1])


def test_the_own_model_starts_as_the_shared_one(problem, start):
    w = problem(1).point()
    assert torch.equal(personal(start(w)), w)


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf, None])
def test_a_senseless_pull_is_refused(lam):
    with pytest.raises(ConfigRefused, match="lam"):
        MRMTL(lam)
