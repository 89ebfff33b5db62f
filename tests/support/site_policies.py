"""A site's policy as its `local/privacy.json` lists it, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from wardround.dp.hospital_dp import HospitalDP
from wardround.flare.site_policy import SitePolicy


def open_policy() -> SitePolicy:
    """Return the policy of the scope `open`."""
    return SitePolicy([])


def patient_policy() -> SitePolicy:
    """Return the policy of the scope `patient`."""
    return SitePolicy([{"rule": "patient"}])


def hospital_policy(promise: HospitalDP | None, delta: float | None) -> SitePolicy:
    """Return the policy of the scope `hospital` with this promise."""
    settings = None if promise is None else dataclasses.asdict(promise)
    return SitePolicy([{"rule": "hospital", "promise": settings, "delta": delta}])


def secagg_policy(**settings: Any) -> SitePolicy:
    """Return the policy of the scope `secagg` with these settings."""
    return SitePolicy([{"rule": "secagg", **settings}])


def named(policy: SitePolicy) -> str:
    """Return the names of a policy's rules, for the id of a case."""
    return "-".join(rule.name for rule in policy.rules) or "open"


def has(policy: SitePolicy, name: str) -> bool:
    """Return whether a policy has a rule of this name."""
    return name in [rule.name for rule in policy.rules]
