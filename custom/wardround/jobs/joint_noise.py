"""How much noise does a job with ONE noise of all hospitals need, and what does its card
say about whom a patient must trust?
"""

from __future__ import annotations

import math

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import full_noise_multiplier_for
from wardround.dp.joint_claims import told
from wardround.dp.releases import GaussianRelease
from wardround.jobs.job import JOINT_DP, Job

OF_PROMISE = ("max_grad_norm", "normalised", "colluders", "max_patients", "reference_patients")


def joint_noise(made: Job, delta: float, given: float) -> GaussianRelease:
    """Write the promise into the mechanism and the trust into the guarantee; return what
    the whole job costs.

    given: the noise multiplier, or 0 for the least that keeps the target.

    A fragment without a secure sum, and a quorum that leaves nobody's noise, are
    refused with ConfigRefused.
    """
    dp, args = made.privacy["dp"], made.privacy["mechanism"]["args"]
    rounds, sum_ = made.schedule["num_rounds"], made.secagg
    if sum_ is None:
        raise ConfigRefused(
            f"job {made.name} with one noise of all hospitals",
            found="a privacy fragment without a sum in integers",
            expected="`secagg` beside `dp`",
            fix="use privacy=dp_joint",
        )
    if sum_["min_clients"] - 1 - dp["colluders"] < 1:
        raise ConfigRefused(
            f"the quorum of job {made.name}",
            found=f"min_clients {sum_['min_clients']} with {dp['colluders']} colluders: nobody's noise is left",
            expected="min_clients of colluders + 2 or more",
            fix=f"--set federation.min_clients={max(3, dp['colluders'] + 2)}, or --set dp.colluders=0",
        )
    target = 0.0 if given else float(dp["target_epsilon"])
    noise = given or rounded_up(full_noise_multiplier_for(target, delta, rounds, "patient", in_shares=True))
    promise = {key: dp[key] for key in OF_PROMISE} | {"noise_multiplier": noise}
    promise |= {key: sum_[key] for key in ("sites", "min_clients", "bits")}
    args |= {"promise": {"path": JOINT_DP, "args": promise}, "num_rounds": rounds}
    found = told(promise, rounds, delta)
    dp |= found
    honest, lying, other = (_shown(value) for value in found.values())
    few = dp["colluders"]
    tell = f"{few} of them tell" if few > 1 else "one of them tells"
    counted = f", the one above if {tell} what noise they added" if few else ""
    trust = (
        f"It rests on the other hospitals: epsilon is {honest} if all of them are honest{counted}, and {lying} if "
        f"{'one more' if few else 'one'} adds no noise, which nobody would see. Where one patient is replaced by another, epsilon "
        f"is {other}; for a patient with images at k hospitals mu is k times as large"
    )
    made.privacy["guarantee"] = made.privacy["guarantee"].replace("{trust}", trust)
    return GaussianRelease("patient", noise, rounds, in_shares=True)


def rounded_up(noise: float) -> float:
    """Return a noise multiplier with 4 digits after the point, so that it can be read
    and typed.
    """
    # Rounded up, never to the nearest: less noise than was calculated would break the
    # claim.
    return math.ceil(noise * 1e4) / 1e4


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
