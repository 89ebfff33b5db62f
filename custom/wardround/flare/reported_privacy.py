"""What does a report say about a job's privacy? Its name, and what the differential
privacy that it promises comes to: epsilon, mu, and the best attack.

It is computed when a job is printed, and again by every party that runs it. This file
needs no table of a hospital and so no NumPy: the command line prints jobs with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.dp import joint_claims
from wardround.dp.accounting import Claim, claim
from wardround.dp.releases import GaussianRelease, SampledGaussianRelease, Unit
from wardround.dp.second_accountant import ERROR, second_opinion

PATIENT = "wardround.dp.patient_release.PatientRelease"
HOSPITAL = "wardround.dp.hospital_release.HospitalRelease"
JOINT = "wardround.dp.joint_release.JointRelease"
# What a report repeats of a promise of privacy, by the class of its stage.
_PROMISED = {
    PATIENT: ("max_grad_norm", "sample_rate", "reference_patients", "noise_multiplier"),
    HOSPITAL: ("max_update_norm", "colluders", "noise_multiplier"),
    JOINT: ("max_grad_norm", "normalised", "colluders", "max_patients", "reference_patients", "noise_multiplier"),
}
_UNITS: dict[str, Unit] = {PATIENT: "patient", HOSPITAL: "hospital", JOINT: "patient"}
Json = dict[str, Any]
_Priced = GaussianRelease | SampledGaussianRelease


def dp_of(mechanism: Json, said: Mapping[str, Any]) -> Json:
    """Return what a report must say of a promise of differential privacy.

    The claim (epsilon, mu, attack) is computed from the promise and the rounds. Where
    `said` has its numbers but for rounding, they are taken from there, and so is the
    target, which is a wish that no site builds.

    mechanism: the stage of the component `outbound`, as {"path", "args"}. Another class
        than those of wardround is a ConfigRefused.
    said: what the report says.
    """
    if mechanism["path"] not in _PROMISED:
        raise ConfigRefused(
            "what the report would say about this job",
            found=f"differential privacy by {mechanism['path']}, whose claim nobody here can compute",
            expected=" or ".join(_PROMISED),
            fix="print the job again with `wardround jobs write JOB`",
        )
    args, unit = mechanism["args"], _UNITS[mechanism["path"]]
    promise = args["promise"]["args"]
    noise, rounds = float(promise["noise_multiplier"]), int(args["num_rounds"])
    joint = mechanism["path"] == JOINT
    release: _Priced = GaussianRelease(unit, noise, rounds, in_shares=joint)
    if mechanism["path"] == PATIENT:
        release = SampledGaussianRelease("patient", noise, float(promise["sample_rate"]), rounds * int(args["work"]))
    found = {"unit": unit, **{key: promise[key] for key in _PROMISED[mechanism["path"]]}}
    delta = float(args["delta"])
    trust = joint_claims.told(promise, rounds, delta) if joint else {}
    for key, value in (claimed(_claim(release, delta)) | trust).items():
        # The last digit may be another one with another version of the accountant.
        told = said.get(key)
        near = (
            isinstance(told, int | float)
            and isinstance(value, int | float)
            and math.isclose(told, value, rel_tol=1e-3, abs_tol=1e-3)
        )
        found[key] = told if near else value
    if unit == "patient":
        found["epsilon_by_opacus"] = _second(said.get("epsilon_by_opacus"), found["epsilon"], release, delta)
    if "target_epsilon" in said:
        target = said["target_epsilon"]
        found["target_epsilon"] = max(target, found["epsilon"]) if isinstance(target, int | float) else None
    return found | {"delta": args["delta"]}


def claimed(found: Claim) -> Json:
    """Return a claim of differential privacy as a report prints it."""
    return {
        "epsilon": round(found.epsilon, 4),
        "mu": round(found.mu, 4),
        "attack_accuracy": round(found.attack.accuracy, 4),
        "attack_tpr_at_1_percent": round(found.attack.tpr, 4),
    }


# A site asks at every task, and the composition of a patient-level job takes seconds.
@lru_cache(maxsize=8)
def _claim(release: _Priced, delta: float) -> Claim:
    return claim([release], release.unit, delta)


def _second(told: Any, ours: float, release: _Priced, delta: float) -> float | None:
    """Return what the second accountant says; what was told if it is as near ours as it should be.

    Opacus takes seconds to load, and a simulator starts a process for every task.
    """
    if isinstance(told, int | float) and math.isclose(told, ours, rel_tol=0.01, abs_tol=3 * ERROR):
        return told
    return second_said([release], "patient", delta)


def second_said(releases: list[_Priced], unit: Unit, delta: float) -> float | None:
    """Return the second accountant's epsilon as a report prints it, None without an answer."""
    found = second_opinion(releases, unit, delta)
    return None if found is None else round(found, 4)


def privacy_of(dp: Mapping[str, Any] | None, secagg: Json | None) -> str:
    """Return the name of a job's privacy, as reports print it."""
    if dp:
        return f"{dp['unit']}-level differential privacy"
    if secagg is None:
        return "plaintext"
    switches = secagg["args"]
    if switches["ring"]:
        return "cyclic secure aggregation"
    if switches["encryption"]:
        return "homomorphic encryption"
    return "pairwise masks" if switches["masks"] else "fixed point, readable"
