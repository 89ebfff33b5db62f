from __future__ import annotations

import numpy as np
import pytest
import torch

from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, local_only, run
from wardround.algorithms.final_model import FinalModel
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused


def walked(final, models):
    """Return what `final` makes of models that come one after the other."""
    mean = {}
    for round_, model in enumerate(models):
        mean = final.followed(mean, model, round_ + 1)
    return final.chosen(mean, models[-1], len(models))


@pytest.mark.parametrize(
    ("num_rounds", "models"), [(1, 1), (2, 1), (3, 1), (5, 1), (6, 2), (8, 2), (9, 3), (20, 6), (60, 20)]
)
def test_the_mean_of_the_last_third_in_closed_form(num_rounds, models):
    """The models 1, 2, ..., R have the mean R - (n - 1) / 2 over the last n."""
    final = FinalModel("mean_of_last_third", num_rounds)
    assert final.models == models
    line = [
        {"model:w": np.array([r, -r], np.float32), "control:w": np.array([10 * r], np.float32)}
        for r in range(1, num_rounds + 1)
    ]
    found = walked(final, line)
    value = num_rounds - (models - 1) / 2
    assert found.keys() == line[0].keys(), "every variable"
    np.testing.assert_allclose(found["model:w"], [value, -value], rtol=1e-6)
    np.testing.assert_allclose(found["control:w"], [10 * value], rtol=1e-6)
    assert all(block.dtype == np.float32 for block in found.values())


def test_the_last_model_is_the_last_model():
    line = [{"model:w": np.full(2, r, np.float32)} for r in range(9)]
    assert walked(FinalModel("last", 9), line) is line[-1]


def test_a_block_that_never_moves_stays_as_it_is():
    still = {"model:w": np.random.default_rng(0).normal(size=1000).astype(np.float32)}
    assert np.array_equal(walked(FinalModel("mean_of_last_third", 60), [still] * 60)["model:w"], still["model:w"])


def test_no_model_is_changed_and_none_is_shared_with_the_caller():
    line = [{"model:w": np.full(2, r, np.float32)} for r in range(6)]
    found = walked(FinalModel("mean_of_last_third", 6), line)
    assert [float(model["model:w"][0]) for model in line] == list(range(6))
    assert float(found["model:w"][0]) == 4.5


@pytest.mark.parametrize(("kind", "rounds"), [("mean", 6), (None, 6), ("last", 0)])
def test_others_are_refused(kind, rounds):
    with pytest.raises(ConfigRefused, match="final model"):
        FinalModel(kind, rounds)


class Slope:
    """A loss whose gradient is -1 everywhere: a step of rate lr adds lr."""

    def sample(self, count):
        return (None,) * count

    def value_and_grad(self, w, batch):
        return float(-w.sum()), -torch.ones_like(w)


def test_the_federation_and_the_local_baseline_are_averaged_alike():
    """Two steps of 0.5 a round: w after round r is r; the mean of the rounds 5 and 6 is 5.5."""
    schedule = Schedule(6, 2, 0.5, 0.0, False, 0.0, 0.0, "constant", "mean_of_last_third")
    side = SiteSide(lambda round_: Slope(), 1.0, Layout(("w.weight",), ((1,),)), {"w.weight": "body"})
    seen = []

    def watch(round_, result):
        seen.append(float(result.variables["model:w.weight"][0]))

    start = {"w.weight": np.zeros(1, np.float32)}
    result = run({"a": side, "b": side}, FedAvg(), Mean(1.0), schedule, start, watch)
    assert seen == [1, 2, 3, 4, 5, 6], "rounds start from the last model, not from the mean"
    assert float(result.variables["model:w.weight"][0]) == 5.5
    assert float(local_only(Slope(), schedule, torch.zeros(1))) == 5.5
    assert float(local_only(Slope(), schedule, torch.zeros(1, dtype=torch.float64))) == 5.5
