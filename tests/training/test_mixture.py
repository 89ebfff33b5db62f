"""Models that share weights share their outputs; a mean over patients is the mean over cases."""

import pytest
import torch

from wardround.core.errors import ConfigRefused
from wardround.training.mixture import Mixture, ValidationScore, outputs, score_of_cases


def test_every_network_runs_once_and_only_what_is_needed_again_is_kept() -> None:
    one, other, third = (torch.full((2,), float(n)) for n in (1, 10, 100))
    ran: list[float] = []

    def compute(w: torch.Tensor) -> float:
        ran.append(float(w[0]))
        return float(w[0])

    models = {
        "own": one,
        "half": Mixture((one, other), (0.5, 0.5)),
        "quarter": Mixture((one, other), (0.25, 0.75)),
        "shared": other,
        "alone": third,
    }
    found = dict(outputs(models, compute, lambda parts, shares: sum(p * s for p, s in zip(parts, shares, strict=True))))
    assert found == {"own": 1.0, "half": 5.5, "quarter": 7.75, "shared": 10.0, "alone": 100.0}
    assert sorted(ran) == [1.0, 10.0, 100.0]


def test_weights_of_two_networks_and_other_shares_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="weights of 2 shapes"):
        Mixture((torch.zeros(2), torch.zeros(3)), (0.5, 0.5))
    for shares in ((0.5, 0.6), (1.0,), (0.0, 1.0)):
        with pytest.raises(ConfigRefused, match="shares of a blend"):
            Mixture((torch.zeros(2), torch.zeros(2)), shares)


def test_a_patient_with_two_cases_counts_for_two() -> None:
    found = score_of_cases([0.2, 0.9, 0.4], ["a", "b", "a"])
    assert found.value == pytest.approx(0.5)
    assert found.patients == pytest.approx((0.4, 0.6))
    assert sum(found.patients) / 2 == pytest.approx(found.value)
    assert score_of_cases([0.25, 0.5], ["a", "b"]) == ValidationScore(0.375, (0.25, 0.5))
