"""Findings that are no tumour: they are seen, they are in no mask, and they keep away from the tumour."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from wardround.core.rng import stream
from wardround.synthetic.anatomy import RIM
from wardround.synthetic.findings import FINDINGS, brightness
from wardround.synthetic.hospitals import HOSPITALS
from wardround.synthetic.phantom_images import make_images
from wardround.synthetic.phantoms import make_labels

SHAPE = (32, 32, 32)
ALL = [profile.with_spread(1.0, 1.0, 1.0, 0.0) for profile in HOSPITALS]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("profile", ALL, ids=lambda p: p.name)
def test_a_finding_is_beside_the_tumour_and_in_no_mask(profile, index):
    tissue, labels = make_labels(profile, 5, SHAPE, index)
    found = tissue > RIM
    assert found.any()
    assert not (found & binary_dilation(labels > 0)).any()


@pytest.mark.parametrize("profile", ALL, ids=lambda p: p.name)
def test_the_tumour_is_the_one_that_the_patient_has_without_findings(profile):
    _, labels = make_labels(profile, 5, SHAPE, 1)
    _, alone = make_labels(profile.with_spread(1.0, 1.0, 0.0, 0.0), 5, SHAPE, 1)
    assert np.array_equal(labels, alone)


def test_every_kind_occurs_as_often_as_was_asked():
    profile = HOSPITALS[0].with_spread(1.0, 1.0, 0.5, 0.0)
    kinds = [set(np.unique(make_labels(profile, 5, SHAPE, index)[0])) for index in range(40)]
    for number in range(len(FINDINGS)):
        seen = sum(RIM + 1 + number in one for one in kinds)
        # Twenty are expected, less those for which there was no room; five standard deviations.
        assert 4 <= seen <= 36


def test_a_bleed_is_brighter_in_t1_than_the_brain():
    number = [finding.name for finding in FINDINGS].index("bleed")
    profile = ALL[0]
    for index in range(20):
        tissue, _ = make_labels(profile, 5, SHAPE, index)
        here = tissue == RIM + 1 + number
        if here.sum() > 20:
            image = make_images(profile, 5, index, tissue)["t1"]
            assert image[here].mean() > 1.2 * image[(tissue > 0) & (tissue <= RIM)].mean()
            return
    pytest.fail("no patient of twenty has a bleed")


def test_brightness_varies_from_patient_to_patient():
    first, second = (brightness(stream(0, "test", index)) for index in (1, 2))
    assert first.shape == (4, len(FINDINGS))
    assert not np.array_equal(first, second)
