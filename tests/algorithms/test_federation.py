from __future__ import annotations

import pytest
import torch

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Steps
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, first_variables, local_only, local_round, run, vectors
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import FedAdam, Mean
from wardround.algorithms.sharing import Roles
from wardround.core.arrays import Layout, from_variable
from wardround.core.errors import RoundRefused

COSINE = Schedule(6, 8, 0.1, 0.9, True, 1e-3, 5.0, "cosine")
NORMS = Roles(("norm",))
ONE_STEP = Schedule(30, 1, 0.1, 0.0, False, 0.0, 0.0, "constant")


@pytest.fixture
def side(layout, roles):
    return lambda objective, weight=1.0: SiteSide(lambda round_: objective, weight, layout, roles)


@pytest.fixture
def model(problem, layout):
    return layout.unflatten(problem(7, torch.float32).point().numpy())


def flat(layout, variables, variable="model"):
    return torch.from_numpy(layout.flatten(from_variable(variable, variables)))


def test_a_federation_of_one_site_is_training_alone(problem, layout, side, model):
    objective, same = problem(1, torch.float32).noisy(), problem(1, torch.float32).noisy()
    result = run({"only": side(objective)}, FedAvg(), Mean(1.0), COSINE, model)
    alone = local_only(same, COSINE, flat(layout, first_variables(FedAvg(), model)))
    torch.testing.assert_close(flat(layout, result.variables), alone, rtol=0, atol=1e-5)
    assert len(same.calls) == len(objective.calls) == 6 * 8
    assert float((alone - flat(layout, first_variables(FedAvg(), model))).norm()) > 0.5


def test_one_local_step_is_centralised_training_on_the_weighted_objective(problem, quadratics, layout, side, model):
    """FedAvg with K = 1: w - lr sum p_i (A_i w - b_i), the gradient step of sum p_i f_i."""
    near, far = problem(1, torch.float32).exact(), problem(2, torch.float32).exact()
    result = run({"near": side(near, 30.0), "far": side(far, 10.0)}, FedAvg(), Mean(1.0), ONE_STEP, model)
    pooled = quadratics(0.75 * near.a[0] + 0.25 * far.a[0], 0.75 * near.b[0] + 0.25 * far.b[0])
    central = local_only(pooled, ONE_STEP, flat(layout, first_variables(FedAvg(), model)))
    torch.testing.assert_close(flat(layout, result.variables), central, rtol=0, atol=1e-5)


def test_one_round_is_the_weighted_mean_of_the_sites(problem, layout, side, model):
    weights = {"a": 1.0, "b": 4.0, "c": 5.0}
    objectives = {site: problem(seed, torch.float32).exact() for seed, site in enumerate(weights)}
    once = Schedule(1, 5, 0.1, 0.0, False, 0.0, 0.0, "constant")
    result = run({s: side(o, weights[s]) for s, o in objectives.items()}, FedAvg(), Mean(0.5), once, model)

    w = flat(layout, first_variables(FedAvg(), model)).double()
    moves = []
    for site, objective in objectives.items():
        a, b = objective.a[0].double(), objective.b[0].double()
        best = torch.linalg.solve(a, b)
        shrink = torch.linalg.matrix_power(torch.eye(len(w), dtype=w.dtype) - 0.1 * a, 5)
        moves.append(weights[site] / 10 * (best + shrink @ (w - best) - w))
    torch.testing.assert_close(flat(layout, result.variables).double(), w + 0.5 * sum(moves), rtol=0, atol=1e-5)


def test_scaling_all_weights_changes_nothing(problem, layout, side, model):
    def final(scale):
        sites = {str(n): side(problem(n, torch.float32).noisy(), scale * (n + 1)) for n in range(3)}
        return flat(layout, run(sites, Scaffold(), Mean(1.0), COSINE, model).variables)

    torch.testing.assert_close(final(1.0), final(37.0), rtol=0, atol=1e-5)


def test_each_round_gets_its_oracle_and_its_rate_and_is_reported(problem, layout, roles, model):
    asked, seen = [], []
    objective = problem(1, torch.float32).exact()

    def of_round(round_):
        asked.append(round_)
        return objective

    def on_round(round_, result):
        seen.append((round_, len(result.history), flat(layout, result.variables).clone()))

    schedule = Schedule(3, 1, 0.1, 0.0, False, 0.0, 0.0, "cosine")
    result = run({"only": SiteSide(of_round, 1.0, layout, roles)}, FedAvg(), Mean(1.0), schedule, model, on_round)
    assert asked == [0, 1, 2]
    assert [(round_, count) for round_, count, _ in seen] == [(0, 1), (1, 2), (2, 3)]
    w = flat(layout, first_variables(FedAvg(), model))
    for round_, _, after in seen:
        loss, g = objective.value_and_grad(w, 0)
        torch.testing.assert_close(after, w - schedule.steps(round_).lr * g, rtol=0, atol=1e-6)
        assert result.history[round_] == {"only": pytest.approx(loss, rel=1e-5)}
        w = after


@pytest.mark.parametrize(
    ("algorithm", "sharing", "home"),
    [(FedAvg(), NORMS, "conv.norm"), (Alternating(0.5), Roles(("head",)), "out.weight")],
    ids=str,
)
def test_blocks_at_home_stay_as_they_were_on_the_server(problem, layout, side, model, algorithm, sharing, home):
    for server_optimizer in (Mean(1.0), FedAdam(0.1, 0.9, 0.99, 1e-3)):
        sides = {str(n): side(problem(n, torch.float32).exact()) for n in range(2)}
        result = run(sides, algorithm, server_optimizer, COSINE, model, sharing=sharing)
        assert (result.variables[f"model:{home}"] == model[home]).all()
        assert all((result.variables[f"model:{name}"] != model[name]).all() for name in layout.names if name != home)
        mask = torch.from_numpy(layout.mask([home]))
        for site, site_side in sides.items():
            own = result.personal(algorithm, site, site_side)
            assert torch.equal(own[mask], result.memories[site]["home"][mask])
            assert torch.equal(own[~mask], flat(layout, result.variables)[~mask])
        first, second = (result.memories[site]["home"][mask] for site in sides)
        assert not torch.equal(first, second)


def test_memory_that_a_round_does_not_touch_is_kept(problem, layout, roles):
    w, kept = problem(1, torch.float32).point(), {"control": problem(2, torch.float32).point()}
    objective = problem(3, torch.float32).exact()
    _, memory, _ = local_round(FedAvg(), NORMS, {"model": w}, kept, layout, roles, objective, Steps(2, 0.1))
    assert set(memory) == {"control", "home"}
    assert torch.equal(memory["control"], kept["control"])
    assert set(kept) == {"control"}


def test_personal_models_differ_between_sites_and_the_shared_one_does_not(problem, layout, side, model):
    sides = {str(n): side(problem(n, torch.float32).exact()) for n in range(2)}
    ditto = run(sides, Ditto(0.1), Mean(1.0), COSINE, model)
    assert not torch.equal(*(ditto.personal(Ditto(0.1), site, sides[site]) for site in sides))
    fedavg = run(sides, FedAvg(), Mean(1.0), COSINE, model)
    assert torch.equal(*(fedavg.personal(FedAvg(), site, sides[site]) for site in sides))


def test_the_first_variables_are_the_model_and_a_zero_control(model):
    variables = first_variables(Scaffold(), model)
    assert set(variables) == {f"{variable}:{name}" for variable in ("model", "control") for name in model}
    assert all((variables[f"model:{name}"] == model[name]).all() for name in model)
    assert not any(variables[f"control:{name}"].any() for name in model)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"received": {"model": torch.zeros(7)}}, r"vectors \['model'\]"),
        ({"received": {"model": torch.zeros(8, 1)}}, r"vectors \['model'\]"),
        ({"received": {}}, r"variables \[\]"),
        ({"received": {"model": torch.zeros(8), "control": torch.zeros(8)}}, "variables"),
        ({"memory": {"home": torch.zeros(9)}}, r"vectors \['home'\]"),
        ({"roles": {"conv.weight": "body", "out.weight": "head"}}, "roles of 2 blocks"),
    ],
)
def test_a_round_that_does_not_fit_the_model_is_refused_before_any_work(problem, layout, roles, change, found):
    objective = problem(1, torch.float32).exact()
    given = {"received": {"model": torch.zeros(8)}, "memory": {}, "roles": roles} | change
    with pytest.raises(RoundRefused, match=found):
        local_round(FedAvg(), NORMS, **given, layout=layout, objective=objective, steps=Steps(2, 0.1))
    assert objective.calls == []


def test_wire_blocks_that_do_not_fit_are_refused(layout, model):
    variables = first_variables(FedAvg(), model)
    with pytest.raises(RoundRefused, match="unmatched block names"):
        vectors(FedAvg(), {name: variables[name] for name in list(variables)[1:]}, layout)
    with pytest.raises(RoundRefused, match="differs in shape"):
        vectors(FedAvg(), variables | {"model:conv.norm": variables["model:conv.weight"]}, layout)
    with pytest.raises(RoundRefused, match="unmatched block names"):
        vectors(Scaffold(), variables, layout)


def test_sites_of_another_architecture_are_refused(problem, layout, roles, side, model):
    other = Layout(layout.names, ((4, 1), (2,), (2,)))
    odd = SiteSide(lambda round_: problem(1, torch.float32).exact(), 1.0, other, roles)
    with pytest.raises(RoundRefused, match="differs in shape"):
        run({"fine": side(problem(2, torch.float32).exact()), "odd": odd}, FedAvg(), Mean(1.0), COSINE, model)
