from __future__ import annotations

import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_round
from wardround.algorithms.fedsim import FedSim
from wardround.errors import ConfigRefused

STEPS = Steps(6, 0.1, momentum=0.9)
TRAVELS = {
    "head": {"model:out.weight"},
    "norms": {"model:conv.norm"},
    "all": {"model:conv.weight", "model:conv.norm", "model:out.weight"},
}


@pytest.mark.parametrize(("share", "names"), TRAVELS.items())
def test_only_the_shared_part_travels_and_the_rest_is_kept(problem, layout, roles, share, names):
    algorithm = FedSim(share)
    shared = torch.from_numpy(layout.mask([name.removeprefix("model:") for name in names]))
    memory: dict[str, torch.Tensor] = {}
    for seed in (1, 2, 3):
        received = problem(seed, torch.float32).point()
        own = memory.get("home", received)
        oracle = problem(9, torch.float32).exact()
        update, memory, _ = local_round(algorithm, {"model": received}, memory, layout, roles, oracle, STEPS)
        assert set(update) == names
        assert torch.equal(oracle.path[0][shared], received[shared])
        assert torch.equal(oracle.path[0][~shared], own[~shared])


def test_one_round_trains_as_fedavg(problem, start):
    w = problem(1).point()
    ends = [one.train(start(w), problem(3).noisy(), STEPS).banks["model"] for one in (FedSim("head"), FedAvg())]
    assert torch.equal(*ends)


def test_a_network_without_the_part_is_refused(problem, start):
    with pytest.raises(ConfigRefused, match="adapter_rank"):
        FedSim("adapters").train(start(problem(1).point()), problem(3).noisy(), STEPS)


@pytest.mark.parametrize("share", ["body", "", None, "norm"])
def test_unknown_parts_are_refused(share):
    with pytest.raises(ConfigRefused, match="head, norms, adapters, all"):
        FedSim(share)
