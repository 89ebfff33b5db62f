"""What a report says of one noise of all hospitals: three epsilons, and that they rest on others."""

from __future__ import annotations

from typing import Any

from wardround.reports.background import who_reads

SETTINGS: dict[str, Any] = {
    "dp.unit": "patient",
    "dp.epsilon": 8.0,
    "dp.delta": 1e-5,
    "dp.mu": 1.665,
    "dp.attack_accuracy": 0.7974,
    "dp.colluders": 1,
    "dp.epsilon_all_honest": 5.25,
    "dp.epsilon_one_without_noise": "infinite",
    "dp.epsilon_patient_replaced": 19.12,
    "secagg.masks": True,
    "secagg.encryption": False,
}


def test_three_epsilons_are_said() -> None:
    words = who_reads(SETTINGS)
    assert "epsilon is 5.25 if all of them were honest" in words
    assert "infinite if one (beside 1 that tell their noise) added none" in words
    assert "replaced by another it is 19.1" in words
    assert "epsilon 8" in words
    assert "was masked: only" in words
    assert "masked and encrypted" in who_reads(SETTINGS | {"secagg.encryption": True})


def test_own_noise_is_told_as_before() -> None:
    alone = {key: value for key, value in SETTINGS.items() if not key.startswith("secagg.")}
    assert "noise in every training step" in who_reads(alone)
