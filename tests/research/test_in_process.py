"""The federation of sweeps and benchmarks is the federation of the jobs: sites as they come, weights, what stays home."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import local_only
from wardround.algorithms.patient_work import PatientWork
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.algorithms.sharing import Roles
from wardround.core.errors import ConfigRefused
from wardround.research.in_process import InProcessFederation

ONE = Schedule(1, 3, 0.05, 0.9, True, 0.0, 10.0, "constant")


@pytest.fixture
def sites(site):
    return {"a": site(patch=(8, 8, 8)), "b": site(patch=(12, 12, 12))}


@pytest.mark.parametrize(("equal", "share"), [(True, 0.5), (False, 0.25)])
def test_one_round_is_the_weighted_mean_of_the_sites_models(sites, equal, share):
    initial = sites["a"].model.vector.clone()
    alone = {name: local_only(one.objective("train", 0), ONE, initial) for name, one in sites.items()}
    object.__setattr__(sites["a"], "train_patients", 1)
    object.__setattr__(sites["b"], "train_patients", 3)
    together, rounds = InProcessFederation(sites, FedAvg(), Mean(1.0), ONE, equal), []
    result = together.run(initial, lambda round_, so_far: rounds.append((round_, len(so_far.history))))
    models = together.models(result)
    torch.testing.assert_close(models["a"], share * alone["a"] + (1 - share) * alone["b"], rtol=1e-5, atol=1e-6)
    assert torch.equal(models["a"], models["b"])
    assert rounds == [(0, 1)]


def test_work_by_patients_needs_the_patients_as_weights(sites):
    by_patients = replace(ONE, work_by_patients=PatientWork(4, 0.5, 2.0))
    InProcessFederation(sites, FedAvg(), Mean(1.0), by_patients)
    with pytest.raises(ConfigRefused, match="equal weight"):
        InProcessFederation(sites, FedAvg(), Mean(1.0), by_patients, equal=True)


def test_what_stays_home_differs_between_the_models(sites):
    together = InProcessFederation(sites, FedAvg(), Mean(1.0), replace(ONE, num_rounds=2), sharing=Roles(("norm",)))
    models = together.models(together.run(sites["a"].model.vector.clone()))
    layout, roles = sites["a"].layout, sites["a"].roles
    blocks = [layout.unflatten(models[name].numpy()) for name in ("a", "b")]
    for name in layout.names:
        assert (blocks[0][name] == blocks[1][name]).all() == (roles[name] != "norm"), name


def test_a_sum_of_ones_own_is_used(sites):
    seen = []

    def new_sum(round_):
        inner = SimpleNamespace(updates=[])

        def add(update, weight):
            seen.append((round_, weight))
            inner.updates.append(update)

        return SimpleNamespace(add=add, mean=lambda: {name: 0 * block for name, block in inner.updates[0].items()})

    initial = sites["a"].model.vector.clone()
    together = InProcessFederation(sites, FedAvg(), Mean(1.0), ONE, equal=True)
    assert torch.equal(together.models(together.run(initial, new_sum=new_sum))["b"], initial)
    assert seen == [(0, 1.0), (0, 1.0)]
