"""The benchmark of the rules tunes and chooses as the product does, and looks at drawn validation patients alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import verdict_rule
from wardround.reports.choice import RULES


def scores(pool: int = 12) -> dict[str, np.ndarray]:
    """Every model of two arms with two numbers of steps; half of FedAvg and local is the best of all."""
    rng, made = np.random.default_rng(0), {"local": np.full(pool, 0.5)}
    for arm in ("fedavg", "personalised"):
        for k in (0, 5, 20):
            made[f"{arm} {k}"] = np.full(pool, 0.55 if arm == "fedavg" else 0.52) + (0.01 if k == 5 else 0.0)
            made |= {
                f"blend {arm} {k} {share}": np.full(pool, 0.6 if share == 0.5 else 0.58) for share in (0.25, 0.5, 0.75)
            }
            if k:
                made[f"between {arm} {k} 0.5"] = made[f"{arm} {k}"] + 0.001
    return {name: one + 0.001 * rng.normal(size=pool) for name, one in made.items()}


def test_candidates_are_those_of_the_product() -> None:
    found = verdict_rule.candidates(scores(), np.arange(6), mixed=True)
    assert found == {
        "local": "local",
        "fedavg": "fedavg 0",
        "fedavg_finetuned": "fedavg 5",
        "personalised": "personalised 5",
        "interpolated": "between fedavg 5 0.5",
        "blend": "blend fedavg 5 0.5",
    }
    assert set(verdict_rule.candidates(scores(), np.arange(6), mixed=False)) == set(found) - {"interpolated", "blend"}


@pytest.mark.parametrize("mixed", [False, True])
def test_choices_do_not_change_with_the_patients_who_were_not_drawn(mixed: bool) -> None:
    given, val = scores(), np.array([1, 4, 7])
    spoilt = {name: np.where(np.isin(np.arange(12), val), one, np.nan) for name, one in given.items()}
    assert verdict_rule.choices(given, val, mixed) == verdict_rule.choices(spoilt, val, mixed)


def test_gains_by_hand_and_the_same_draws_for_all() -> None:
    found = verdict_rule.gains(scores(), True, 4, 5, 0)
    assert set(found) == {*verdict_rule.DEFAULTS, *RULES}
    assert found["always local"] == [0.0] * 5
    assert np.allclose(found["best"], 0.1, atol=2e-3)
    assert found == verdict_rule.gains(scores(), True, 4, 5, 0)
    assert found["best"] != verdict_rule.gains(scores(), True, 4, 5, 1)["best"]
