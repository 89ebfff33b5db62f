from __future__ import annotations

import math

import pytest

from wardround.algorithms.base import Steps
from wardround.algorithms.schedule import FLOOR, Schedule
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


@pytest.mark.parametrize("round_", [-1, 5])
def test_a_round_outside_is_refused(round_):
    with pytest.raises(ConfigRefused, match="a round"):
        Schedule(**GOOD).steps(round_)
