"""From the list in a site's `local/privacy.json` to the rules of its policy.

A rule is named, and its settings stand beside its name:

    "rules": [{"rule": "secagg", "masks": true, "encryption": false, "min_clients": 3, "sites": 16, "threshold": 0},
              {"rule": "hospital", "promise": {"max_update_norm": 1.0, ...}, "delta": 1e-05}]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from wardround.core.errors import ConfigRefused
from wardround.dp.hospital_dp import HospitalDP
from wardround.flare.policy_rules import HospitalRule, PatientRule, Rule
from wardround.flare.secagg_policy import SecAggRule


def _hospital(promise: Mapping[str, Any] | None, delta: float | None) -> HospitalRule:
    return HospitalRule(HospitalDP(**promise) if promise else None, delta)  # type: ignore[arg-type]


# In the order in which they may be listed. `secagg` is first: it remembers the update
# as the hospital trained it, which noise would hide from it.
MAKERS: Mapping[str, Callable[..., Rule]] = {
    SecAggRule.name: SecAggRule,
    PatientRule.name: PatientRule,
    HospitalRule.name: _hospital,
}


def rules_of(listed: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Return the rules of a list, in its order.

    A rule or a setting that does not exist or is missing, a rule that is listed twice,
    and an order other than that of MAKERS are a ConfigRefused.
    """
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise _refused(f"rules that are a {type(listed).__name__}")
    found = tuple(_rule(one) for one in listed)
    places = [list(MAKERS).index(rule.name) for rule in found]
    if any(place >= later for place, later in pairwise(places)):
        raise _refused(f"the rules {', '.join(rule.name for rule in found)} in this order")
    return found


def _rule(listed: Any) -> Rule:
    name = listed.get("rule") if isinstance(listed, Mapping) else None
    if not isinstance(name, str) or name not in MAKERS:
        raise _refused(f"a rule {str(listed)[:60]!r}")
    settings = {key: value for key, value in listed.items() if key != "rule"}
    try:
        return MAKERS[name](**settings)
    except TypeError as error:
        # A setting that does not exist, one that is missing, or one of another type.
        raise _refused(f"the rule {name} with the settings {', '.join(settings) or 'none'} ({error})") from error


def _refused(found: str) -> ConfigRefused:
    return ConfigRefused(
        "the rules of a scope in local/privacy.json",
        found=found,
        expected=f"a list of {', '.join(MAKERS)}, each at most once and in this order, with their settings; [] for none",
        fix="copy poc_workspace/privacy.json (or privacy_hospital.json, privacy_patient.json, privacy_secagg.json) to "
        "local/privacy.json again",
    )
