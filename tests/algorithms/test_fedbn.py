from __future__ import annotations

import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.fedbn import FedBN
from wardround.algorithms.federation import local_round, start_of

STEPS = Steps(6, 0.1, momentum=0.9)


def test_norms_never_leave_and_are_kept(problem, layout, roles):
    norm = torch.from_numpy(layout.mask(["conv.norm"]))
    first, second = problem(1, torch.float32).point(), problem(2, torch.float32).point()
    update, memory, _ = local_round(
        FedBN(), {"model": first}, {}, layout, roles, problem(3, torch.float32).exact(), STEPS
    )
    assert set(update) == {"model:conv.weight", "model:out.weight"}

    oracle = problem(3, torch.float32).exact()
    update, after, _ = local_round(FedBN(), {"model": second}, memory, layout, roles, oracle, STEPS)
    assert set(update) == {"model:conv.weight", "model:out.weight"}
    begun = oracle.path[0]
    assert torch.equal(begun[norm], memory["home"][norm])
    assert torch.equal(begun[~norm], second[~norm])
    moved = layout.unflatten((after["home"] - second).numpy())
    for name in ("conv.weight", "out.weight"):
        torch.testing.assert_close(torch.from_numpy(update[f"model:{name}"]), torch.from_numpy(moved[name]))
    assert (after["home"][norm] != memory["home"][norm]).all()


def test_the_first_round_trains_as_fedavg(problem, start):
    w = problem(1).point()
    own = FedBN().train(start(w), problem(3).noisy(), STEPS)
    fedavg = FedAvg().train(start(w), problem(3).noisy(), STEPS)
    assert torch.equal(own.banks["model"], fedavg.banks["model"])


def test_the_sites_own_model_has_its_own_norms(problem, layout, roles):
    received, home = problem(1).point(), problem(2).point()
    own = FedBN().personal(start_of(FedBN(), {"model": received}, {"home": home}, layout, roles))
    norm = torch.from_numpy(layout.mask(["conv.norm"]))
    assert torch.equal(own[norm], home[norm])
    assert torch.equal(own[~norm], received[~norm])
