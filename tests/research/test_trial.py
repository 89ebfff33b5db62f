"""The first look at an algorithm: every hospital's three scores, the same for the same arguments."""

from __future__ import annotations

from wardround.algorithms.fedavg import FedAvg
from wardround.research.trial import four_hospitals


def test_every_hospital_has_its_three_scores_and_they_can_be_repeated() -> None:
    found = four_hospitals(FedAvg(), num_rounds=1, work=1)
    assert list(found) == ["site-1", "site-2", "site-3", "site-4"]
    assert all(set(dice) == {"local", "federated", "tuned"} for dice in found.values())
    assert all(0 <= score <= 1 for dice in found.values() for score in dice.values())
    assert four_hospitals(FedAvg(), num_rounds=1, work=1) == found
