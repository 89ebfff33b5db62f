from __future__ import annotations

import pytest
import torch

from wardround.algorithms.base import Steps, descend, plain
from wardround.algorithms.finetune import fine_tune
from wardround.core.errors import ConfigRefused

STEPS = Steps(20, 0.1, momentum=0.9, nesterov=True)


def test_each_snapshot_is_the_walk_of_k_steps(problem):
    w = problem(1).point()
    before = w.clone()
    snapshots = fine_tune(w, problem(2).noisy(), [20, 0, 5, 1, 5], STEPS)
    assert list(snapshots) == [0, 1, 5, 20]
    for k, snapshot in snapshots.items():
        expected, _ = descend(w, plain(problem(2).noisy()), k, STEPS)
        assert torch.equal(snapshot, expected)
    assert torch.equal(w, before)


def test_the_largest_k_is_all_that_is_paid(problem):
    objective = problem(2).noisy()
    fine_tune(problem(1).point(), objective, [0, 1, 5, 20], STEPS)
    assert len(objective.calls) == 20


def test_zero_steps_are_a_copy_and_ask_for_nothing(problem):
    objective, w = problem(2).noisy(), problem(1).point()
    snapshots = fine_tune(w, objective, [0], STEPS)
    assert torch.equal(snapshots[0], w)
    assert snapshots[0].data_ptr() != w.data_ptr()
    assert objective.calls == []


@pytest.mark.parametrize("ks", [[], [0, -1]])
def test_senseless_ks_are_refused(problem, ks):
    with pytest.raises(ConfigRefused, match="fine-tuning"):
        fine_tune(problem(1).point(), problem(2).noisy(), ks, STEPS)
