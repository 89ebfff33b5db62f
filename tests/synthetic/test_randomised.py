"""Domain-randomised phantoms: the same by seed and index, inside their ranges, and unlike the hospitals' phantoms."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from wardround.synthetic import randomised
from wardround.synthetic.randomised import CHANNELS, CROP, look, patient

LOOKS = [look(5, index) for index in range(600)]


def within(values: object, low: float, high: float) -> bool:
    found = np.asarray(values, float)
    # float32 rounds the ends of a range.
    return bool((found >= low - 1e-6).all() and (found <= high + 1e-6).all())


def test_a_patient_depends_on_seed_and_index_alone() -> None:
    one, other = patient(5, 3), patient(5, 4)
    again = patient(5, 3)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.image, other.image)
    assert not np.array_equal(one.image, patient(6, 3).image)


def test_what_is_drawn_lies_in_its_range() -> None:
    for one in LOOKS:
        plane = [size for axis, size in enumerate(one.spacing_mm) if axis != one.slice_axis]
        assert within(plane, *randomised.PLANE_MM)
        assert within(one.spacing_mm[one.slice_axis], *randomised.SLICE_MM)
        assert within(one.half_axes_mm / np.array(randomised.HALF_AXES_MM), *randomised.HALF_AXES_SCALE)
        assert within(one.means[:, 1:7], 0.0, max(randomised.ANY[1], float(randomised.LIKELY.max())))
        assert within(one.spreads[:, 1:], *randomised.SPREAD)
        assert within(one.bias, *randomised.BIAS)
        assert within(one.noise, *randomised.NOISE)
        assert within(one.blur_mm, min(randomised.BLUR_MM[0], 1.0), randomised.SLICE_MM[1])
        assert one.present.any()
        assert 0 <= one.spots <= randomised.MOST_SPOTS
        assert len(one.tumours) <= 2
        for tumour in one.tumours:
            assert within(tumour.irregularity, *randomised.IRREGULARITY)
            assert within(tumour.core_fraction, *randomised.CORE_FRACTION)
            assert tumour.necrosis_fraction <= randomised.NECROSIS_SHARE[1] * tumour.core_fraction
            assert tumour.radius_mm <= randomised.RADIUS_MM[1]


def test_every_kind_of_look_occurs() -> None:
    """A range that is never used would be a promise of the docstring that nobody keeps."""
    assert {len(one.tumours) for one in LOOKS} == {0, 1, 2}
    assert {tumour.enhancing for one in LOOKS for tumour in one.tumours} == {True, False}
    assert {one.unstripped for one in LOOKS} == {True, False}
    assert {one.slice_axis for one in LOOKS} == {0, 1, 2}
    assert {int(one.present.sum()) for one in LOOKS} == {1, 2, 3, 4}
    slices = [one.spacing_mm[one.slice_axis] for one in LOOKS]
    assert (min(slices), max(slices)) == pytest.approx(randomised.SLICE_MM, abs=0.25)
    # Any tissue may be the brightest of any channel.
    assert {(c, int(one.means[c, 1:7].argmax())) for one in LOOKS for c in range(CHANNELS)} == {
        (c, tissue) for c in range(CHANNELS) for tissue in range(6)
    }


def test_a_patient_is_what_a_network_is_shown() -> None:
    patients = [patient(7, index) for index in range(12)]
    assert {int(label) for one in patients for label in np.unique(one.labels)} == {0, 1, 2, 3}
    for one in patients:
        assert (one.image.shape, one.image.dtype) == ((CHANNELS, *CROP), np.float32)
        assert (one.labels.shape, one.labels.dtype) == (CROP, np.uint8)
        assert within(one.image, -5, 5)
        assert not one.image[~one.present].any()
        # What is outside the head is outside it in every channel.
        outside = (one.image[one.present] == 0).all(0)
        assert not one.labels[outside].any()


def test_z_scores_are_those_of_the_whole_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a crop that holds the whole head they have mean 0 and standard deviation 1, whatever was drawn."""
    monkeypatch.setattr(randomised, "PLANE_MM", (5.0, 5.0))
    monkeypatch.setattr(randomised, "SLICE_MM", (6.0, 6.0))
    monkeypatch.setattr(randomised, "BIAS", (0.0, 0.0))
    monkeypatch.setattr(randomised, "_centre", lambda *_: np.zeros(3, np.float32))
    for index in range(8):
        one = patient(9, index)
        for channel in np.flatnonzero(one.present):
            inside = one.image[channel][one.image[channel] != 0]
            # The shares are counted on a coarse grid, and blur moves variance between tissues.
            assert abs(inside.mean()) < 0.35
            assert 0.6 < inside.std() < 1.3


def test_no_profile_of_a_hospital_is_read() -> None:
    """What a job's own phantoms look like must not be what its first weights were trained on."""
    tree = ast.parse(Path(randomised.__file__).read_text(encoding="utf-8"))
    read = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "wardround.synthetic.anatomy" in read
    assert not read & {"wardround.synthetic.hospitals", "wardround.synthetic.phantoms"}
