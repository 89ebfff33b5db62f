from __future__ import annotations

import itertools

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.tasks.brain_tumours import REGIONS


def test_regions_of_every_label():
    labels = np.array([0, 1, 2, 3], np.uint8)
    regions = dict(zip(REGIONS.names, REGIONS.targets(labels, "brats").tolist(), strict=True))
    assert regions == {"ET": [0, 0, 0, 1], "TC": [0, 1, 0, 1], "WT": [0, 1, 1, 1]}


def test_whole_tumour_labels_tell_wt_only():
    regions = REGIONS.targets(np.array([[0, 1]], np.uint8), "whole_tumour")
    assert regions.dtype == np.uint8
    assert regions.tolist() == [[[0, 0]], [[0, 0]], [[0, 1]]]
    assert REGIONS.known("whole_tumour").tolist() == [False, False, True]
    assert REGIONS.known("brats").tolist() == [True, True, True]


@pytest.mark.parametrize(("kind", "highest"), [("brats", 3), ("whole_tumour", 1)])
def test_labels_come_back(kind, highest):
    labels = np.random.default_rng(0).integers(0, highest + 1, (3, 4, 5)).astype(np.uint8)
    back = REGIONS.labels(REGIONS.targets(labels, kind).astype(bool), kind)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)


def test_all_eight_combinations_become_nested():
    regions = np.array(list(itertools.product([False, True], repeat=3))).T
    expected = {"ET": [0, 0, 0, 0, 0, 0, 0, 1], "TC": [0, 0, 0, 1, 0, 0, 0, 1], "WT": [0, 1, 0, 1, 0, 1, 0, 1]}
    assert REGIONS.nested(regions).astype(int).tolist() == list(expected.values())
    assert REGIONS.labels(regions, "brats").tolist() == [0, 2, 0, 1, 0, 2, 0, 3]
    assert REGIONS.labels(regions, "whole_tumour").tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_unknown_labels_and_kinds_are_refused():
    with pytest.raises(DataRefused, match="0 to 3"):
        REGIONS.targets(np.array([4], np.uint8), "brats")
    with pytest.raises(DataRefused, match="0 to 1"):
        REGIONS.targets(np.array([2], np.uint8), "whole_tumour")
    for call in (
        lambda: REGIONS.known("liver"),
        lambda: REGIONS.targets(np.zeros(2, np.uint8), "liver"),
        lambda: REGIONS.labels(np.zeros((3, 2), bool), "liver"),
    ):
        with pytest.raises(ConfigRefused):
            call()
