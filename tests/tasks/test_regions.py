from __future__ import annotations

import itertools

import numpy as np
import pytest

from wardround.errors import ConfigRefused, DataRefused
from wardround.tasks.regions import REGIONS, known_regions, labels_from_regions, nested, regions_from_labels


def test_regions_of_every_label():
    labels = np.array([0, 1, 2, 3], np.uint8)
    regions = dict(zip(REGIONS, regions_from_labels(labels, "brats").tolist(), strict=True))
    assert regions == {"ET": [0, 0, 0, 1], "TC": [0, 1, 0, 1], "WT": [0, 1, 1, 1]}


def test_whole_tumour_labels_tell_wt_only():
    regions = regions_from_labels(np.array([[0, 1]], np.uint8), "whole_tumour")
    assert regions.dtype == np.uint8
    assert regions.tolist() == [[[0, 0]], [[0, 0]], [[0, 1]]]
    assert known_regions("whole_tumour").tolist() == [False, False, True]
    assert known_regions("brats").tolist() == [True, True, True]


@pytest.mark.parametrize(("kind", "highest"), [("brats", 3), ("whole_tumour", 1)])
def test_labels_come_back(kind, highest):
    labels = np.random.default_rng(0).integers(0, highest + 1, (3, 4, 5)).astype(np.uint8)
    back = labels_from_regions(regions_from_labels(labels, kind).astype(bool), kind)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)


def test_all_eight_combinations_become_nested():
    regions = np.array(list(itertools.product([False, True], repeat=3))).T
    expected = {"ET": [0, 0, 0, 0, 0, 0, 0, 1], "TC": [0, 0, 0, 1, 0, 0, 0, 1], "WT": [0, 1, 0, 1, 0, 1, 0, 1]}
    assert nested(regions).astype(int).tolist() == list(expected.values())
    assert labels_from_regions(regions).tolist() == [0, 2, 0, 1, 0, 2, 0, 3]
    assert labels_from_regions(regions, "whole_tumour").tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_unknown_labels_and_kinds_are_refused():
    with pytest.raises(DataRefused, match="0 to 3"):
        regions_from_labels(np.array([4], np.uint8), "brats")
    with pytest.raises(DataRefused, match="0 to 1"):
        regions_from_labels(np.array([2], np.uint8), "whole_tumour")
    for call in (
        lambda: known_regions("liver"),
        lambda: regions_from_labels(np.zeros(2, np.uint8), "liver"),
        lambda: labels_from_regions(np.zeros((3, 2), bool), "liver"),
    ):
        with pytest.raises(ConfigRefused):
            call()
