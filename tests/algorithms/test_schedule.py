from __future__ import annotations

import itertools
import math

import pytest
import torch

from wardround.algorithms.base import Steps
from wardround.algorithms.ditto import Ditto
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, local_only, run
from wardround.algorithms.patient_work import PatientWork
from wardround.algorithms.per_fedavg import PerFedAvg
from wardround.algorithms.schedule import FLOOR, MOST_WORK, Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused

GOOD = {
    "num_rounds": 5,
    "work": 8,
    "lr": 0.4,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "clip_norm": 2.0,
    "decay": "cosine",
}


def test_cosine_falls_from_lr_to_the_floor():
    schedule = Schedule(**GOOD)
    rates = [schedule.steps(round_).lr for round_ in range(5)]
    half = 0.5 * math.sqrt(0.5)
    shares = [1, 0.5 + half, 0.5, 0.5 - half, 0]
    assert rates == pytest.approx([0.4 * (FLOOR + (1 - FLOOR) * share) for share in shares])


def test_constant_keeps_lr_and_everything_else_is_passed_on():
    schedule = Schedule(**GOOD | {"decay": "constant"})
    assert [schedule.steps(r) for r in range(5)] == [Steps(8, 0.4, 0.9, True, 1e-4, 2.0, r) for r in range(5)]


def test_a_single_round_runs_at_lr():
    assert Schedule(**GOOD | {"num_rounds": 1}).steps(0).lr == 0.4


@pytest.mark.parametrize("name", GOOD)
def test_a_promise_has_no_default(name):
    with pytest.raises(TypeError):
        Schedule(**{key: value for key, value in GOOD.items() if key != name})
    with pytest.raises(ConfigRefused, match=name):
        Schedule(**GOOD | {name: None})


@pytest.mark.parametrize(
    "wrong", [{"num_rounds": 0}, {"decay": "linear"}, {"work": 0}, {"lr": -1.0}, {"clip_norm": -1.0}]
)
def test_senseless_values_are_refused(wrong):
    with pytest.raises(ConfigRefused):
        Schedule(**GOOD | wrong)


@pytest.mark.parametrize("decay", ["constant", "cosine_per_step", "poly_per_step"])
@pytest.mark.parametrize(
    "much", [{"work": 10**12}, {"work": MOST_WORK // 2 + 1, "work_by_patients": PatientWork(16, 0.5, 2.0)}]
)
def test_a_round_without_end_is_refused_before_its_rates_are_listed(decay, much):
    with pytest.raises(ConfigRefused, match="at most 1000000 gradient evaluations"):
        Schedule(**GOOD | {"decay": decay} | much)


@pytest.mark.parametrize("round_", [-1, 5])
def test_a_round_outside_is_refused(round_):
    with pytest.raises(ConfigRefused, match="a round"):
        Schedule(**GOOD).steps(round_)


def formula(decay, t):
    return (1 - t) ** 0.9 if decay == "poly_per_step" else FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * t)) / 2


PER_STEP = pytest.mark.parametrize("decay", ["cosine_per_step", "poly_per_step"])


@PER_STEP
def test_the_rate_moves_at_every_step_over_the_whole_run(decay):
    schedule = Schedule(**GOOD | {"decay": decay})
    rates = [schedule.steps(r).rate(i, 8) for r in range(5) for i in range(8)]
    assert rates == pytest.approx([0.4 * formula(decay, n / 40) for n in range(40)])
    assert rates[0] == 0.4
    assert all(before > after > 0 for before, after in itertools.pairwise(rates))
    assert schedule.steps(3).lr == rates[24]
    assert schedule.steps(3).mean_rate == pytest.approx(sum(rates[24:32]) / 8)


@PER_STEP
def test_a_single_round_falls_too(decay):
    steps = Schedule(**GOOD | {"decay": decay, "num_rounds": 1}).steps(0)
    assert [steps.rate(i, 8) for i in range(8)] == pytest.approx([0.4 * formula(decay, i / 8) for i in range(8)])


def test_expensive_steps_pass_through_the_same_rates():
    steps = Schedule(**GOOD | {"decay": "poly_per_step"}).steps(2)
    assert [steps.rate(i, 4) for i in range(4)] == [steps.rates[i] for i in (0, 2, 4, 6)]
    assert [steps.rate(i, 3) for i in range(3)] == [steps.rates[i] for i in (0, 2, 5)]


CURVATURE, SLOW = 0.5, {**GOOD, "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.25, "clip_norm": 0.0}


class Bowl:
    """f(w) = CURVATURE w^2 / 2 in one dimension."""

    def sample(self, count):
        return (None,) * count

    def value_and_grad(self, w, batch):
        return float(CURVATURE * w @ w / 2), CURVATURE * w


def shrink(decay, every, pull):
    """Return what is left of w after the steps whose numbers of `every` are a multiple of it."""
    return math.prod(1 - 0.1 * formula(decay, n / 40) * pull for n in range(0, 40, every))


@PER_STEP
def test_every_method_walks_down_the_closed_form(decay):
    """On a bowl every step multiplies w by 1 - rate (gradient factor + weight decay)."""
    schedule = Schedule(**SLOW | {"decay": decay})
    layout, start = Layout(("w.weight",), ((1,),)), torch.tensor([3.0])

    def federated(algorithm):
        side = SiteSide(lambda round_: Bowl(), 1.0, layout, {"w.weight": "body"})
        found = run({"a": side}, algorithm, Mean(1.0), schedule, {"w.weight": start.numpy()})
        return float(found.variables["model:w.weight"][0]), found

    alone = 3 * shrink(decay, 1, CURVATURE + 0.25)
    assert float(local_only(Bowl(), schedule, start)) == pytest.approx(alone, rel=1e-5)
    assert federated(FedAvg())[0] == pytest.approx(alone, rel=1e-5)
    inner = CURVATURE * (1 - 0.1 * CURVATURE)
    assert federated(PerFedAvg(0.1, "FO", 1e-3))[0] == pytest.approx(3 * shrink(decay, 2, inner + 0.25), rel=1e-5)
    exact = inner * (1 - 0.1 * CURVATURE)
    assert federated(PerFedAvg(0.1, "HF", 1e-3))[0] == pytest.approx(3 * shrink(decay, 4, exact + 0.25), rel=1e-3)
    half = 3 * shrink(decay, 2, CURVATURE + 0.25)
    shared, found = federated(Ditto(0.0))
    assert (shared, float(found.memories["a"]["personal"])) == pytest.approx((half, half), rel=1e-5)


@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.0), (0.1, math.nan), (0.1, 10.0)])
def test_rates_that_do_not_fit_the_work_are_refused(rates):
    with pytest.raises(ConfigRefused, match="learning rates of a round"):
        Steps(2, 0.1, rates=rates)
