"""A site's policy as its `local/privacy.json` lists it, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.privacy_manager import Scope

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


def under(fl_ctx: FLContext, *policies: SitePolicy, out: Sequence[Filter] | None = None) -> FLContext:
    """Return the context of a site with one scope, which lists these policies for tasks and for replies.

    out: the filters of replies, where they are others.
    """
    scope = Scope()
    scope.set_name("own")
    for one in policies:
        scope.add_task_data_filter(one, FilterKey.IN)
    for one in policies if out is None else out:
        scope.add_task_result_filter(one, FilterKey.OUT)
    fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, scope, private=True, sticky=False)
    return fl_ctx


def named(policy: SitePolicy) -> str:
    """Return the names of a policy's rules, for the id of a case."""
    return "-".join(rule.name for rule in policy.rules) or "open"


def has(policy: SitePolicy, name: str) -> bool:
    """Return whether a policy has a rule of this name."""
    return name in [rule.name for rule in policy.rules]
