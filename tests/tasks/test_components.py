from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.tasks.brain_tumours import REGIONS
from wardround.tasks.components import RegionFilter, filter_from_json, largest_part


def blob(*boxes):
    mask = np.zeros((8, 9, 10), bool)
    for start, size in boxes:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


MM = (1.0, 1.0, 1.0)
BIG, SMALL = ((1, 1, 1), (2, 2, 2)), ((6, 6, 6), (1, 1, 3))


def test_the_largest_part_alone_is_left():
    mask = blob(BIG, SMALL)
    assert np.array_equal(largest_part(mask), blob(BIG))
    assert np.array_equal(mask, blob(BIG, SMALL)), "the mask itself is kept"
    for whole in (blob(), blob(SMALL)):
        assert np.array_equal(largest_part(whole), whole)


def test_voxels_that_touch_at_a_corner_are_one_part():
    mask = blob(((1, 1, 1), (1, 1, 1)), ((2, 2, 2), (1, 1, 1)), ((5, 5, 5), (1, 1, 1)))
    assert largest_part(mask).sum() == 2


def test_of_equally_large_parts_the_first_is_left():
    first, second = ((0, 0, 0), (1, 1, 2)), ((6, 6, 6), (1, 1, 2))
    assert np.array_equal(largest_part(blob(first, second)), blob(first))


def test_only_chosen_regions_are_filtered_and_inner_ones_follow_outer_ones():
    """ET lies in TC, TC in WT: a part of WT that is left out takes along what lies in it."""
    whole = blob(BIG, SMALL)
    regions = np.stack([blob(SMALL), whole, whole])
    found = RegionFilter(("WT",)).applied(regions, REGIONS, MM)
    assert [int(one.sum()) for one in found] == [0, 8, 8]
    found = RegionFilter(("TC",)).applied(regions, REGIONS, MM)
    assert [int(one.sum()) for one in found] == [0, 8, 11]
    assert RegionFilter().applied(regions, REGIONS, MM) is regions


def test_a_region_below_its_limit_is_dropped_after_the_largest_part_was_taken():
    whole = blob(BIG, SMALL)  # 8 and 3 voxels
    regions = np.stack([whole, whole, whole])
    for limit, left in ((22.0, 11), (22.1, 0)):
        found = RegionFilter(least_mm3={"ET": limit}).applied(regions, REGIONS, (1.0, 1.0, 2.0))
        assert [int(one.sum()) for one in found] == [left, 11, 11], "11 voxels of 2 mm^3 are 22 mm^3"
    found = RegionFilter(("ET",), {"ET": 17.0}).applied(regions, REGIONS, (1.0, 1.0, 2.0))
    assert [int(one.sum()) for one in found] == [0, 11, 11], "its largest part has 16 mm^3"
    found = RegionFilter(least_mm3={"WT": 100.0}).applied(regions, REGIONS, MM)
    assert not found.any(), "what lies in a region goes with it"


def test_a_file_says_what_the_filter_is():
    for one in (RegionFilter(), RegionFilter(("WT", "ET")), RegionFilter(("ET",), {"ET": 3.5, "TC": 1.0})):
        assert filter_from_json(one.as_json, REGIONS, Path("m")) == one
        assert bool(one) == bool(one.as_json)


def test_other_names_and_numbers_are_refused():
    for one in (RegionFilter(("liver",)), RegionFilter(least_mm3={"liver": 1.0})):
        with pytest.raises(ConfigRefused, match="liver"):
            one.applied(np.stack([blob()] * 3), REGIONS, MM)
    for said in ("WT", ["liver"], [1], {"WT": 1}, None):
        with pytest.raises(ModelRefused, match="filter of regions"):
            filter_from_json({"largest_component": said}, REGIONS, Path("m"))
    for said in (
        ["WT"],
        {"liver": 1.0},
        {"WT": 0},
        {"WT": -1.0},
        {"WT": float("nan")},
        {"WT": float("inf")},
        {"WT": "1"},
        {"WT": True},
    ):
        with pytest.raises(ModelRefused, match="filter of regions"):
            filter_from_json({"least_volume_mm3": said}, REGIONS, Path("m"))
