from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wardround.algorithms.base import Steps, descend, plain, whole_steps
from wardround.core.errors import ConfigRefused, RoundRefused


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.7, "nesterov": True, "weight_decay": 0.1},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_descend_is_torch_sgd(problem, settings, clip_norm):
    ours, theirs, w = problem(1).noisy(), problem(1).noisy(), problem(2).point()
    end, losses = descend(w, plain(ours), 7, Steps(7, 0.1, clip_norm=clip_norm, **settings))

    weight = nn.Parameter(w.clone())
    optimiser = torch.optim.SGD([weight], lr=0.1, **settings)
    expected = []
    for _ in range(7):
        loss, g = theirs.value_and_grad(weight.detach(), theirs.sample(1)[0])
        weight.grad = g.clone()
        if clip_norm:
            nn.utils.clip_grad_norm_([weight], clip_norm)
        optimiser.step()
        expected.append(loss)
    torch.testing.assert_close(end, weight.detach(), rtol=1e-5 if clip_norm else 1e-12, atol=1e-12)
    assert losses == pytest.approx(expected, rel=1e-5)


def test_descend_leaves_its_start_alone_and_keeps_the_precision(problem):
    for dtype in (torch.float32, torch.float64):
        w = problem(3, dtype).point()
        before = w.clone()
        end, _ = descend(w, plain(problem(4, dtype).exact()), 3, Steps(3, 0.1, momentum=0.9))
        assert torch.equal(w, before)
        assert end.dtype == dtype


def test_no_steps_is_a_copy(problem):
    w = problem(3).point()
    end, losses = descend(w, plain(problem(4).exact()), 0, Steps(1, 0.1))
    assert torch.equal(end, w)
    assert end.data_ptr() != w.data_ptr()
    assert losses == []


def test_masked_coordinates_stay_whatever_pushes_them(problem, layout):
    w = problem(5).point()
    mask = torch.from_numpy(layout.mask(["conv.weight"]))
    steps = Steps(5, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1, clip_norm=0.5)
    end, _ = descend(w, plain(problem(6).noisy()), 5, steps, mask)
    assert torch.equal(end[~mask], w[~mask])
    assert (end[mask] != w[mask]).all()


def test_one_clipped_step_has_the_length_of_the_bound(problem):
    w = problem(5).point()
    end, _ = descend(w, plain(problem(6).exact()), 1, Steps(1, 1.0, clip_norm=0.25))
    assert float((end - w).norm()) == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_is_refused(bad, where):
    def direction(w: Tensor) -> tuple[float, Tensor]:
        return (bad, w) if where == "loss" else (0.0, torch.full_like(w, bad))

    with pytest.raises(RoundRefused, match="diverged"):
        descend(torch.ones(3), direction, 2, Steps(2, 0.1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"work": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1e-4},
        {"clip_norm": -1.0},
        {"clip_norm": math.nan},
        {"nesterov": True, "momentum": 0.0},
    ],
    ids=str,
)
def test_senseless_steps_are_refused(wrong):
    with pytest.raises(ConfigRefused):
        Steps(**{"work": 4, "lr": 0.1, "momentum": 0.9} | wrong)


def test_whole_steps():
    assert [whole_steps(12, cost, "x") for cost in (1, 2, 4)] == [12, 6, 3]
    for work, cost in ((3, 2), (6, 4), (1, 2)):
        with pytest.raises(ConfigRefused, match=f"spends {cost} gradient evaluations"):
            whole_steps(work, cost, "x")


def test_mask_follows_the_roles(start, problem):
    mask = start(problem(1).point()).mask("norm", "head")
    assert mask.tolist() == [False] * 4 + [True] * 4
