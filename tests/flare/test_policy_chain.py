"""The rules of a site's policy as its file lists them: what is refused before any job comes."""

import dataclasses

import pytest

from wardround.core.errors import ConfigRefused
from wardround.dp.hospital_dp import HospitalDP
from wardround.flare.policy_chain import rules_of
from wardround.flare.policy_rules import HospitalRule, PatientRule
from wardround.flare.secagg_policy import SecAggRule
from wardround.flare.site_policy import SitePolicy

PROMISE = HospitalDP(
    max_update_norm=1.0, noise_multiplier=2.0, sites=256, min_clients=3, colluders=0, distributed=False, bits=16
)
SECAGG = {"rule": "secagg", "masks": True, "encryption": False, "min_clients": 3, "sites": 16, "threshold": 0}
HOSPITAL = {"rule": "hospital", "promise": dataclasses.asdict(PROMISE), "delta": 1e-5}
PATIENT = {"rule": "patient"}


def test_rules_are_values_in_the_order_of_the_list():
    assert rules_of([]) == ()
    assert rules_of([SECAGG, PATIENT, HOSPITAL]) == (
        SecAggRule(masks=True, encryption=False, min_clients=3, sites=16, threshold=0),
        PatientRule(),
        HospitalRule(PROMISE, 1e-5),
    )
    assert rules_of([{**SECAGG, "leads": ["lead"]}])[0].leads == ("lead",)


@pytest.mark.parametrize(
    "listed",
    [
        None,
        "patient",
        {"rule": "patient"},
        ["patient"],
        [{}],
        [None],
        [{"rule": "nothing"}],
        [{"rule": ["patient"]}],
        [PATIENT | {"epsilon": 8}],
        [{"rule": "hospital", "delta": 1e-5}],
        [HOSPITAL | {"promise": {"max_update_norm": 1.0}}],
        [HOSPITAL | {"promise": HOSPITAL["promise"] | {"epsilon": 8}}],
        [HOSPITAL | {"promise": 7}],
        [HOSPITAL | {"delta": None}],
        [{key: value for key, value in SECAGG.items() if key != "sites"}],
        [SECAGG | {"masks": "yes"}],
        [SECAGG | {"min_clients": 2}],
        [PATIENT, PATIENT],
        [HOSPITAL, SECAGG],
        [PATIENT, SECAGG],
    ],
    ids=str,
)
def test_a_list_that_makes_no_policy_is_refused_with_the_file_to_copy(listed):
    """Nothing fails open: a rule that is not understood is no rule that is left out."""
    with pytest.raises(ConfigRefused) as caught:
        SitePolicy(listed)
    assert "poc_workspace/privacy" in caught.value.fix or "dp" in caught.value.fix or "secagg" in caught.value.fix


def test_noise_that_others_share_is_no_promise_of_this_hospital():
    shared = dataclasses.asdict(dataclasses.replace(PROMISE, distributed=True))
    with pytest.raises(ConfigRefused, match="distributed"):
        rules_of([HOSPITAL | {"promise": shared}])
