"""Hostile sites on quadratics with a known optimum: the mean of |w - t_i|^2 / 2 is minimised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from wardround.aggregation.clipped import ClippedMean
from wardround.aggregation.geometric import GeometricMedian
from wardround.aggregation.krum import Krum
from wardround.aggregation.mean import WeightedMean
from wardround.aggregation.median import CoordinateMedian
from wardround.aggregation.mixing import Mixed
from wardround.aggregation.trimmed import TrimmedMean
from wardround.algorithms.fedavg import FedAvg
from wardround.algorithms.federation import SiteSide, run
from wardround.algorithms.scaffold import Scaffold
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import Mean
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.stages import Aggregate, Ask
from wardround.core.traits import READABLE, Traits
from wardround.research import poisoning
from wardround.research.attacked import run_attacked

LAYOUT = Layout(("a", "b"), ((5, 4), (4,)))
ROLES = {"a": "body", "b": "head"}
SCHEDULE = Schedule(12, 4, 0.2, 0.0, False, 0.0, 0.0, "constant")
RULES = [
    ClippedMean(1),
    CoordinateMedian(1),
    TrimmedMean(1),
    Krum(1, keep=3),
    GeometricMedian(1),
    Mixed(TrimmedMean(1)),
]
CENTRE = torch.linspace(2, 4, 24)


class Pull:
    """An oracle of |w - target|^2 / 2 whose batch is the target."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target = target

    def sample(self, count: int) -> tuple[Any, ...]:
        return (self.target,) * count

    def value_and_grad(self, w: torch.Tensor, batch: torch.Tensor) -> tuple[float, torch.Tensor]:
        return float((w - batch).square().sum() / 2), w - batch


def sides(n: int = 5, spread: float = 0.2) -> dict[str, SiteSide]:
    rng = np.random.default_rng(0)
    targets = [CENTRE + torch.from_numpy(spread * rng.normal(size=24)).float() for _ in range(n)]
    return {f"site-{k}": SiteSide(lambda round_, t=t: Pull(t), 10.0 + k, LAYOUT, ROLES) for k, t in enumerate(targets)}


def start() -> dict[str, np.ndarray]:
    return LAYOUT.unflatten(np.zeros(24, np.float32))


def played(aggregation: Any, attack: Any = None, hostile: tuple[str, ...] = (), algorithm: Any = None) -> Any:
    return run_attacked(sides(), algorithm or FedAvg(), Mean(1.0), SCHEDULE, start(), aggregation, attack, hostile)


def error(outcome: Any) -> float:
    """Return the distance of the final model from the honest centre."""
    variables = outcome.result.variables
    flat = np.concatenate([variables["model:a"].ravel(), variables["model:b"]])
    return float(np.linalg.norm(flat - CENTRE.numpy()))


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold()], ids=lambda one: one.name)
def test_without_an_attack_the_mean_is_the_federation_bit_for_bit(algorithm):
    plain = run(sides(), algorithm, Mean(1.0), SCHEDULE, start())
    outcome = played(WeightedMean(), algorithm=algorithm)
    assert outcome.stopped is None
    assert len(outcome.rounds) == SCHEDULE.num_rounds
    for name, block in plain.variables.items():
        np.testing.assert_array_equal(outcome.result.variables[name], block)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_alone_costs_little(rule):
    outcome = played(rule)
    assert outcome.flags() == {}
    assert error(outcome) < 1.0


HARMFUL = {
    "sign flip x 5": poisoning.sign_flip(5.0),
    "replacement": poisoning.replacement(lambda target: -target),
    "inner product": poisoning.inner_product(6.0),
}


@pytest.mark.parametrize("attack", HARMFUL.values(), ids=HARMFUL)
def test_one_of_five_ruins_the_mean_and_no_rule(attack):
    """Without anybody the error is about .4: the sites' spread over the root of five. It begins at 15."""
    assert error(played(WeightedMean(), attack, ("site-4",))) > 5
    for rule in RULES:
        outcome = played(rule, attack, ("site-4",))
        assert outcome.stopped is None
        # A clipped site still counts: two of ten steps are lost to it, and no more.
        assert error(outcome) < 1.5, rule.name


def test_flags_name_the_hostile_site():
    outcome = played(ClippedMean(1), HARMFUL["sign flip x 5"], ("site-4",))
    assert outcome.flags()["site-4"] >= 6
    assert "site-4" not in outcome.rounds[0].sites


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rule", [WeightedMean(), *RULES], ids=lambda rule: rule.name)
def test_what_is_not_finite_costs_the_hostile_site_its_place_and_nothing_else(rule, value):
    outcome = run_attacked(
        sides(6), FedAvg(), Mean(1.0), SCHEDULE, start(), rule, poisoning.not_finite(value), ("site-4",)
    )
    assert outcome.stopped is None
    assert [list(one) for one in outcome.missing] == [["site-4"]] * SCHEDULE.num_rounds
    assert error(outcome) < 1.0


def test_more_hostile_sites_than_the_job_tolerates_stop_the_run():
    outcome = played(CoordinateMedian(1), poisoning.sign_flip(1e4), ("site-3", "site-4"))
    assert "2 flagged sites" in outcome.stopped
    assert outcome.result is None
    assert outcome.rounds == []


def test_too_few_sites_stop_the_run():
    three = dict(list(sides().items())[:3])
    outcome = run_attacked(three, FedAvg(), Mean(1.0), SCHEDULE, start(), Krum(1))
    assert "expected: 5 or more" in outcome.stopped


def test_poisoned_patients_are_the_hostile_site_s_alone():
    batches = []

    def flip(target):
        batches.append(target)
        return -target

    played(WeightedMean(), poisoning.label_flip(flip), ("site-2",))
    expected = sides()["site-2"].objective(0).target
    assert len(batches) == SCHEDULE.num_rounds * 4
    assert all(torch.equal(one, expected) for one in batches)


def test_strangers_cannot_be_hostile():
    with pytest.raises(ConfigRefused):
        played(WeightedMean(), poisoning.sign_flip(), ("site-9",))


def test_an_aggregation_that_asks_twice_is_refused():
    class Twice:
        name = "twice"
        traits = Traits(needs=frozenset({READABLE}))

        def round(self, context):
            yield Ask("prepare", None, lambda site, reply: None)
            yield Ask("train", None, lambda site, reply: None)
            return Aggregate({}, ())

    assert "second question" in played(Twice()).stopped
