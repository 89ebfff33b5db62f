from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.tasks.brain_tumours import REGIONS
from wardround.tasks.components import largest_in, largest_part, with_largest_parts


def blob(*boxes):
    mask = np.zeros((8, 9, 10), bool)
    for start, size in boxes:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


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
    found = with_largest_parts(regions, REGIONS, ("WT",))
    assert [int(one.sum()) for one in found] == [0, 8, 8]
    found = with_largest_parts(regions, REGIONS, ("TC",))
    assert [int(one.sum()) for one in found] == [0, 8, 11]
    assert with_largest_parts(regions, REGIONS, ()) is regions


def test_other_names_are_refused():
    with pytest.raises(ConfigRefused, match="liver"):
        with_largest_parts(np.stack([blob()] * 3), REGIONS, ("liver",))
    assert largest_in({}, REGIONS, Path("m")) == ()
    assert largest_in({"largest_component": ["WT", "ET"]}, REGIONS, Path("m")) == ("WT", "ET")
    for said in ("WT", ["liver"], [1], {"WT": 1}, None):
        with pytest.raises(ModelRefused, match="filter of regions"):
            largest_in({"largest_component": said}, REGIONS, Path("m"))
