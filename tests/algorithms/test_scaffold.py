from __future__ import annotations

import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, first_variables, local_round, run, vectors
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import EVERYTHING
from wardround.core.arrays import RunningMean, from_variable

WEIGHTS = {"north": 1.0, "south": 3.0, "west": 2.0}
ROUNDS = Schedule(200, 10, 0.1, 0.0, False, 0.0, 0.0, "constant")


@pytest.fixture
def sites(problem, layout, roles):
    objectives = {name: problem(seed, torch.float32).exact() for seed, name in enumerate(WEIGHTS)}
    return {n: SiteSide(lambda round_, o=o: o, WEIGHTS[n], layout, roles) for n, o in objectives.items()}


@pytest.fixture
def zeros(layout, problem):
    return layout.unflatten(torch.zeros(layout.total).numpy())


def quadratics_of(sites):
    """Return [(p_i, A_i, b_i)] in float64."""
    total = sum(side.weight for side in sites.values())
    objectives = [(side.weight / total, side.objective(0)) for side in sites.values()]
    return [(p, o.a[0].double(), o.b[0].double()) for p, o in objectives]


def optimum(sites):
    parts = quadratics_of(sites)
    return torch.linalg.solve(sum(p * a for p, a, _ in parts), sum(p * b for p, _, b in parts))


def final(result, layout):
    return torch.from_numpy(layout.flatten(from_variable("model", result.variables))).double()


def test_new_control_is_option_two_with_plain_steps(problem, start):
    """c_i+ = c_i - c + (x - y_i) / (K lr), and what leaves is c_i+ - c_i."""
    x, c, own = (problem(seed).point() for seed in (1, 2, 3))
    end = Scaffold().train(start(x, {"control": own}, control=c), problem(4).noisy(), Steps(7, 0.05))
    expected = own - c + (x - end.variables["model"]) / (7 * 0.05)
    torch.testing.assert_close(end.memory["control"], expected)
    torch.testing.assert_close(end.variables["control"] - c, expected - own)


def test_new_control_is_the_mean_raw_gradient_whatever_the_steps_are(problem, start):
    x, c, own = (problem(seed).point() for seed in (1, 2, 3))
    objective = problem(4).noisy()
    steps = Steps(7, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=0.5)
    end = Scaffold().train(start(x, {"control": own}, control=c), objective, steps)
    raw = torch.stack([objective.a[batch] @ w - objective.b[batch] for batch, w in objective.calls])
    torch.testing.assert_close(end.memory["control"], raw.mean(0))


def test_the_first_round_is_fedavg(problem, start):
    x = problem(1).point()
    scaffold = Scaffold().train(start(x, control=torch.zeros_like(x)), problem(4).noisy(), Steps(7, 0.05))
    fedavg = FedAvg().train(start(x), problem(4).noisy(), Steps(7, 0.05))
    assert torch.equal(scaffold.variables["model"], fedavg.variables["model"])


def test_it_finds_the_optimum_of_unlike_sites_where_fedavg_does_not(sites, layout, zeros):
    """FedAvg's own fixed point is known: sum_i p_i (I - (I - lr A_i)^K)(w - A_i^-1 b_i) = 0."""
    best = optimum(sites)
    pulls = []
    for p, a, b in quadratics_of(sites):
        eye = torch.eye(len(b), dtype=torch.float64)
        pull = p * (eye - torch.linalg.matrix_power(eye - ROUNDS.lr * a, ROUNDS.work))
        pulls.append((pull, pull @ torch.linalg.solve(a, b)))
    biased = torch.linalg.solve(sum(pull for pull, _ in pulls), sum(target for _, target in pulls))
    assert float((biased - best).norm()) > 0.1

    fedavg = final(run(sites, FedAvg(), Mean(1.0), ROUNDS, zeros), layout)
    torch.testing.assert_close(fedavg, biased, rtol=0, atol=1e-4)
    scaffold = final(run(sites, Scaffold(), Mean(1.0), ROUNDS, zeros), layout)
    torch.testing.assert_close(scaffold, best, rtol=0, atol=1e-4)


def test_the_servers_control_is_the_weighted_sum_of_the_sites(sites, layout, zeros):
    rounds = []

    def check(round_, result):
        c = torch.from_numpy(layout.flatten(from_variable("control", result.variables)))
        mine = sum(w * result.memories[name]["control"] for name, w in WEIGHTS.items()) / sum(WEIGHTS.values())
        torch.testing.assert_close(c, mine, rtol=0, atol=1e-5)
        rounds.append(round_)

    run(sites, Scaffold(), Mean(1.0), Schedule(5, 10, 0.1, 0.9, True, 0.0, 0.0, "cosine"), zeros, check)
    assert rounds == [0, 1, 2, 3, 4]


def test_the_servers_control_stays_so_when_sites_are_absent(sites, layout, roles, zeros):
    variables, server_optimizer, total = first_variables(Scaffold(), zeros), Mean(1.0), sum(WEIGHTS.values())
    memories = {name: {} for name in sites}
    for present in (("north", "south"), ("west",), ("south", "west", "north"), ("north",)):
        mean = RunningMean()
        for name in present:
            received, objective = vectors(Scaffold(), variables, layout), sites[name].objective(0)
            update, memories[name], _ = local_round(
                Scaffold(), EVERYTHING, received, memories[name], layout, roles, objective, Steps(5, 0.1)
            )
            mean.add(update, WEIGHTS[name])
        variables, _ = server_optimizer.apply(
            variables, mean.mean(), {}, sum(WEIGHTS[name] for name in present) / total
        )
        c = torch.from_numpy(layout.flatten(from_variable("control", variables)))
        mine = sum(w * memories[n]["control"] for n, w in WEIGHTS.items() if memories[n]) / total
        torch.testing.assert_close(c, mine, rtol=0, atol=1e-5)
