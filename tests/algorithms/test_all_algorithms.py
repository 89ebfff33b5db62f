"""What holds for every algorithm alike: equal work, no side effects, precision kept, promises without defaults."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from wardround.algorithms.alternating import Alternating
from wardround.algorithms.base import Steps
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_round
from wardround.algorithms.fedprox import FedProx
from wardround.algorithms.mr_mtl import MRMTL
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.sharing import Everything, Roles

ALL = [
    FedAvg(),
    FedProx(0.1),
    Scaffold(),
    Alternating(0.3),
    Ditto(0.5),
    MRMTL(0.5),
    PerFedAvg(0.1, "FO", 1e-3),
    PerFedAvg(0.1, "HF", 1e-3),
]
HEAD = Roles(("head",))


def sharing_of(algorithm):
    return HEAD if isinstance(algorithm, Alternating) else Everything()


each = pytest.mark.parametrize("algorithm", ALL, ids=str)


@each
@pytest.mark.parametrize("work", [4, 8, 12])
def test_exactly_the_work_is_spent(problem, start, algorithm, work):
    objective, w = problem(1).noisy(), problem(2).point()
    end = algorithm.train(
        replace(start(w, control=torch.zeros_like(w)), home_roles=sharing_of(algorithm).home_roles),
        objective,
        Steps(work, 0.05),
    )
    assert len(objective.calls) == work
    assert end.losses


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_given_is_changed_and_the_precision_stays(problem, start, algorithm, dtype):
    w, c, own = (problem(seed, dtype).point() for seed in (1, 2, 3))
    given = [w, c, own]
    before = [vector.clone() for vector in given]
    begun = start(w, {"control": own, "personal": own, "home": own}, control=c)
    begun = replace(begun, home_roles=sharing_of(algorithm).home_roles)
    end = algorithm.train(begun, problem(4, dtype).noisy(), Steps(8, 0.05, momentum=0.9, clip_norm=1.0))
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
    assert set(end.variables) == set(algorithm.variables)
    ended = [*end.variables.values(), *end.memory.values()]
    assert {vector.dtype for vector in ended} == {dtype}
    assert not {vector.data_ptr() for vector in ended} & {vector.data_ptr() for vector in given}


@each
def test_a_round_repeated_from_the_same_state_is_the_same(problem, layout, roles, algorithm):
    variables = {variable: problem(seed, torch.float32).point() for seed, variable in enumerate(algorithm.variables)}
    memory, ends = {}, []
    for attempt in range(3):
        objective = problem(9, torch.float32).noisy()
        update, kept, losses = local_round(
            algorithm, sharing_of(algorithm), variables, memory, layout, roles, objective, Steps(8, 0.05)
        )
        ends.append((update, kept, losses))
        if attempt == 0:
            memory = kept
    (update, kept, losses), (again, kept_again, losses_again) = ends[1:]
    assert losses == losses_again
    assert all((update[name] == again[name]).all() for name in update)
    assert kept.keys() == kept_again.keys()
    assert all(torch.equal(kept[name], kept_again[name]) for name in kept)


@each
def test_a_promise_has_no_default(algorithm):
    for parameter in inspect.signature(type(algorithm)).parameters.values():
        assert parameter.default is inspect.Parameter.empty
