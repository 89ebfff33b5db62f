"""The one component that says what leaves: what it refuses to be built from, and what its readers find in it."""

from dataclasses import dataclass, replace

import pytest
from nvflare_federation import secagg
from outbounds import outbound

from wardround.core.errors import ConfigRefused
from wardround.core.traits import ADDITIVE, PLAINTEXT, READABLE, Traits
from wardround.data.cases import MODALITIES
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.hospital_release import HospitalRelease
from wardround.dp.patient_dp import PatientDP
from wardround.dp.patient_release import PatientRelease
from wardround.flare.outbound import NONE, Asked, Outbound

PATIENT = PatientRelease(PatientDP(1.0, 1.5, 0.25, 16), work=4, num_rounds=2, delta=1e-5, accept_vacuous=False)
HOSPITAL = HospitalRelease(HospitalDP(1.0, 2.0, 16, 3, 0, True, 16), num_rounds=2, delta=1e-5, accept_vacuous=False)
SUM = secagg("masked", bits=16, weights="equal")
NEEDS_READERS = Traits(needs=frozenset({READABLE}), breaks=frozenset({ADDITIVE}))
NOTHING = {"privacy": NONE, "compression": NONE, "secagg": NONE, "allowed_names": []}


@dataclass(frozen=True)
class Fewer:
    """A compression of which only the traits matter."""

    traits: Traits = NEEDS_READERS
    name: str = "fewer"
    leaves: str = "as less"

    def stage(self, blocks, site):
        return self


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("value", [None, 0, "non", "None", {"path": "a.B", "args": {}}])
def test_nothing_may_be_left_open(name, value):
    """NVFlare turns an undefined variable into None, and a class that it does not find stays a dictionary."""
    with pytest.raises(ConfigRefused, match="allowed_names" if name == "allowed_names" else name):
        Outbound(**NOTHING | {name: value})


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_may_be_left_out(name):
    with pytest.raises(TypeError, match=name):
        Outbound(**{key: value for key, value in NOTHING.items() if key != name})


def test_a_stage_without_a_cost_is_no_privacy():
    with pytest.raises(ConfigRefused, match="privacy"):
        outbound(Fewer())
    with pytest.raises(ConfigRefused, match="privacy"):
        outbound(PATIENT.promise)


def test_what_the_readers_find():
    nothing, patient, hospital = outbound(), outbound(PATIENT), outbound(HOSPITAL, SUM)
    assert (nothing.charged, nothing.noise, nothing.training_noise, nothing.session) == (None,) * 4
    assert (patient.charged, patient.noise, patient.training_noise) == (PATIENT, None, PATIENT.promise)
    assert (hospital.charged, hospital.noise, hospital.training_noise) == (HOSPITAL, HOSPITAL.promise, None)
    assert (hospital.session.secagg, hospital.session.noise) == (SUM, HOSPITAL.promise)
    assert nothing.allowed_names == MODALITIES


def test_parts_come_in_one_order():
    """The proof of noise is of the bytes that training made, so the compression comes after."""
    assert [part.name for part in outbound(PATIENT, compression=Fewer()).parts[:2]] == [PATIENT.name, "fewer"]
    assert [part.name for part in outbound(HOSPITAL, SUM).parts] == [HOSPITAL.name, SUM.name]
    assert [part.name for part in outbound().parts] == [PLAINTEXT.name]


@pytest.mark.parametrize(
    ("promised", "words"),
    [
        ({"compression": Fewer(), "secagg": SUM}, "since fewer"),
        ({"compression": Fewer(Traits(breaks=frozenset({READABLE})))}, "nobody opens one by one .since fewer"),
        ({"privacy": HOSPITAL}, "without a number of patients"),
        (
            {"privacy": replace(HOSPITAL, promise=replace(HOSPITAL.promise, min_clients=4)), "secagg": SUM},
            "min_clients",
        ),
        ({"privacy": HOSPITAL, "secagg": secagg("he", bits=16, weights="equal")}, "distributed"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(promised, words):
    with pytest.raises(ConfigRefused, match=words):
        outbound(**promised)


def test_no_order_is_answered_before_one_has_come():
    made = Outbound(**NOTHING)
    with pytest.raises(ConfigRefused, match="no order to answer"):
        _ = made.asked
    made.begin(Asked(1, "aa", 1))
    assert made.asked == Asked(1, "aa", 1)


def test_what_is_promised_is_told_whole():
    """Kept state and reservations are bound to its `repr`: no address in memory, and another promise is another text."""
    one, other = outbound(PATIENT), outbound(replace(PATIENT, work=8))
    assert repr(one.promised) == repr(outbound(PATIENT).promised) != repr(other.promised)
    assert " at 0x" not in repr(outbound(HOSPITAL, SUM).promised)
