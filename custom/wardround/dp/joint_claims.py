"""What does one noise of all hospitals promise, by whom a patient must trust?

The noise of a sum is shared (dp/joint_dp.py), so the promise rests on other hospitals.
The reader here is a hospital of the smallest sum, which takes its own noise away; a
reader outside knows less. With k unknown shares left of the `shares` that make the
whole noise, mu grows by sqrt(shares / k). This file needs no NumPy: the command line
prints jobs with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wardround.dp.accounting import Attack, Claim, claim
from wardround.dp.releases import REPLACED, GaussianRelease

HONEST = "honest"
COLLUDING = "colluding"
LYING = "lying"
INFINITE = "infinite"


def claims(
    noise_multiplier: float, min_clients: int, colluders: int, num_rounds: int, delta: float
) -> dict[str, Claim]:
    """Return what `num_rounds` sums of the smallest size promise a patient.

    HONEST: no other hospital tells its noise.
    COLLUDING: `colluders` do. This is what a ledger is charged.
    LYING: beside them one more adds none, unnoticed. Without any share left epsilon is
        infinite.
    """
    shares = min_clients - 1 - colluders
    left = {HONEST: min_clients - 1, COLLUDING: shares, LYING: shares - 1}
    nothing = Claim("patient", delta, math.inf, math.inf, Attack(1.0, 1.0))
    return {
        who: _claim(noise_multiplier * math.sqrt(k / shares), num_rounds, delta) if k > 0 else nothing
        for who, k in left.items()
    }


def replaced(noise_multiplier: float, num_rounds: int, delta: float) -> Claim:
    """Return what is promised where one patient is REPLACED by another (2 C, not C)."""
    return _claim(noise_multiplier / REPLACED, num_rounds, delta)


def told(promise: Mapping[str, Any], num_rounds: int, delta: float) -> dict[str, float | str]:
    """Return the epsilons beside the job's own, as a report prints them; INFINITE is a
    word, because JSON has no such number.

    promise: the arguments of a JointDP.
    """
    z = float(promise["noise_multiplier"])
    found = claims(z, int(promise["min_clients"]), int(promise["colluders"]), num_rounds, delta)
    return {
        "epsilon_all_honest": _shown(found[HONEST]),
        "epsilon_one_without_noise": _shown(found[LYING]),
        "epsilon_patient_replaced": _shown(replaced(z, num_rounds, delta)),
    }


def _claim(noise: float, num_rounds: int, delta: float) -> Claim:
    return claim([GaussianRelease("patient", noise, num_rounds, in_shares=True)], "patient", delta)


def _shown(found: Claim) -> float | str:
    return round(found.epsilon, 4) if math.isfinite(found.epsilon) else INFINITE
