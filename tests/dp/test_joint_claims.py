"""Three epsilons by whom one must trust, in closed form, and a patient who is replaced."""

from __future__ import annotations

import math

import pytest

from wardround.dp.joint_claims import COLLUDING, HONEST, INFINITE, LYING, claims, replaced, told

DELTA = 1e-5


def test_mu_grows_by_the_root_of_the_shares_that_are_missing() -> None:
    found = claims(3.0, 5, 1, 30, DELTA)
    base = math.sqrt(30) / 3.0
    assert found[COLLUDING].mu == pytest.approx(base)
    assert found[HONEST].mu == pytest.approx(base * math.sqrt(3 / 4))
    assert found[LYING].mu == pytest.approx(base * math.sqrt(3 / 2))
    assert found[HONEST].epsilon < found[COLLUDING].epsilon < found[LYING].epsilon


def test_without_colluders_honest_is_what_is_promised() -> None:
    found = claims(3.0, 3, 0, 30, DELTA)
    assert found[HONEST] == found[COLLUDING]


def test_without_any_share_left_nothing_is_promised() -> None:
    found = claims(3.0, 3, 1, 30, DELTA)
    assert found[COLLUDING].epsilon < math.inf
    assert found[LYING].epsilon == math.inf
    assert (
        told({"noise_multiplier": 3.0, "min_clients": 3, "colluders": 1}, 30, DELTA)["epsilon_one_without_noise"]
        == INFINITE
    )


def test_a_replaced_patient_counts_double() -> None:
    assert replaced(3.0, 30, DELTA).mu == pytest.approx(2 * math.sqrt(30) / 3.0)
