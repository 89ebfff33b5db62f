from __future__ import annotations

import numpy as np
import pytest

from wardround.aggregation.validation import StepCheck, largest_sum, require_accepted, require_sum_within
from wardround.core.errors import ConfigRefused, RoundRefused

NAN = float("nan")


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
    assert StepCheck(margin=0.1, floor=0.5).ruins(before, after) is ruined


def test_f_liars_alone_can_stop_nothing():
    sites = ["a", "b", "c", "d"]
    require_accepted(["d"], sites, f=1)
    require_accepted(["d", "d", "stranger"], sites, f=1)
    with pytest.raises(RoundRefused, match=r"2 of 4 sites .*: c, d"):
        require_accepted(["d", "c"], sites, f=1)


def test_the_bound_is_reached_by_sites_that_agree_and_by_no_others():
    clips, weights = {"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 0.5}
    bound = largest_sum(clips, weights)
    assert bound == 4.0
    direction = np.array([0.6, 0.8])
    aligned = 3 * 1.0 * direction + 0.5 * 2.0 * direction
    require_sum_within(float(np.linalg.norm(aligned)) * (1 - 1e-12), bound)
    with pytest.raises(RoundRefused, match="at most 4"):
        require_sum_within(float(np.linalg.norm(aligned * 1.01)), bound)


def test_rounding_widens_the_bound():
    assert largest_sum({"a": 1.0}, {"a": 2.0}, rounding=0.25) == 2.25


def test_a_norm_that_is_no_number_is_refused():
    with pytest.raises(RoundRefused, match="nan"):
        require_sum_within(NAN, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StepCheck(margin=0.0, floor=0.5),
        lambda: StepCheck(margin=0.1, floor=NAN),
        lambda: largest_sum({}, {}),
        lambda: largest_sum({"a": 1.0}, {"b": 1.0}),
        lambda: largest_sum({"a": float("inf")}, {"a": 1.0}),
        lambda: largest_sum({"a": 1.0}, {"a": 1.0}, rounding=-1.0),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make):
    with pytest.raises(ConfigRefused):
        make()
