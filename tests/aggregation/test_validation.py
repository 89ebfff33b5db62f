from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wardround.aggregation.validation import StepCheck
from wardround.core.arrays import norm
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import Part, require_fit
from wardround.dp.hospital_dp import HospitalDP
from wardround.dp.patient_dp import PatientDP

NAN = float("nan")
CHECK = StepCheck(margin=0.1, floor=0.5, max_norm=1.0)


@pytest.mark.parametrize(
    ("before", "after", "ruined"),
    [
        (0.7, 0.7, False),
        (0.7, 0.45, True),
        (0.7, 0.55, False),  # worse by more than the margin, but still above the floor
        (0.45, 0.40, False),  # below the floor, but hardly worse
        (0.30, 0.05, True),
        (0.2, 0.6, False),
        (0.7, NAN, True),
        (NAN, 0.2, True),
        (NAN, 0.6, False),
    ],
)
def test_a_step_is_ruinous_if_the_score_falls_far_and_low(before, after, ruined):
    assert CHECK.ruins(before, after) is ruined
    if ruined:
        with pytest.raises(RoundRefused, match=r"(?s)the step of this round.*the model of the round before is kept"):
            CHECK.require_unharmed(before, after)
    else:
        CHECK.require_unharmed(before, after)


def test_without_a_margin_no_score_is_compared():
    replace(CHECK, margin=0.0).require_unharmed(0.7, NAN)


def test_the_mean_of_shortened_updates_reaches_the_bound_where_sites_agree_and_never_more():
    direction = {"a": np.array([0.6], np.float32), "b": np.array([[0.8]], np.float32)}
    sent = [CHECK.shortened({name: block * length for name, block in direction.items()}) for length in (3.0, 70.0)]
    mean = {name: (3 * sent[0][name] + 0.5 * sent[1][name]) / 3.5 for name in direction}
    assert norm(mean) == pytest.approx(1.0, rel=1e-6)
    CHECK.require_within(mean, 0.0)
    with pytest.raises(RoundRefused, match=r"at most 1\.00001: validation\.max_norm"):
        CHECK.require_within({name: block * 1.01 for name, block in mean.items()}, 0.0)


def test_coding_widens_the_bound():
    mean = {"a": np.array([1.2], np.float32)}
    CHECK.require_within(mean, 0.25)
    with pytest.raises(RoundRefused):
        CHECK.require_within(mean, 0.1)


def test_an_update_that_is_short_enough_is_as_it_was():
    update = {"a": np.array([0.3, -0.4], np.float32)}
    assert CHECK.shortened(update)["a"] is update["a"]
    assert replace(CHECK, max_norm=0.0).shortened({"a": update["a"] * 1000})["a"].max() == 300


def test_a_norm_that_is_no_number_is_refused():
    with pytest.raises(RoundRefused, match="nan"):
        CHECK.require_within({"a": np.array([NAN], np.float32)}, 1.0)


@pytest.mark.parametrize("kind", [PatientDP, HospitalDP])
def test_under_differential_privacy_it_is_refused_because_no_noise_hides_a_refusal(kind):
    private = Part(kind.name, kind.traits)
    require_fit([private])
    require_fit([CHECK])
    with pytest.raises(ConfigRefused, match="a refusal is a function of the site's patients, and no noise hides it"):
        require_fit([private, CHECK])


@pytest.mark.parametrize(
    "changed",
    [
        {"margin": 0.0, "max_norm": 0.0},
        {"margin": -0.1},
        {"margin": 1.0},
        {"margin": True},
        {"margin": None},
        {"floor": NAN},
        {"floor": 0.0},
        {"max_norm": -1.0},
        {"max_norm": float("inf")},
    ],
)
def test_numbers_that_make_no_sense_are_refused(changed):
    with pytest.raises(ConfigRefused, match="--set validation=own_patients"):
        replace(CHECK, **changed)
