from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wardround.core.errors import DataRefused
from wardround.reports.overlay import busiest_slice, draw_overlay

SHAPE = (24, 30, 6)
REGIONS = ("ET", "TC", "WT")


def pixels(path: Path) -> NDArray[np.float64]:
    from matplotlib.image import imread

    return np.asarray(imread(path), dtype=np.float64)[..., :3]


NOTHING = np.zeros((3, *SHAPE), bool)
WHOLE = np.zeros((3, *SHAPE), bool)
WHOLE[2, 2:8, 3:9, 4] = True


def blue(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Pixels in the colour of WT, without the legend below and the title above."""
    near = np.abs(picture - np.array([0x56, 0xB4, 0xE9]) / 255).max(axis=-1) < 0.12
    near[:50], near[-30:] = False, False
    return near


def test_the_slice_with_most_tumour() -> None:
    assert busiest_slice(WHOLE, NOTHING) == 4
    assert busiest_slice(NOTHING, WHOLE) == 4
    assert busiest_slice(NOTHING, NOTHING) == 3


def test_contours_lie_where_radiologists_look(tmp_path: Path) -> None:
    """Low x is the patient's left, drawn right; low y is the back, drawn below. Only the left panel has truth."""
    path = draw_overlay(np.zeros(SHAPE, np.float32), WHOLE, NOTHING, "t", tmp_path / "a" / "o.png", REGIONS)
    found = blue(pixels(path))
    rows, columns = np.nonzero(found)
    height, width = found.shape
    assert found.any()
    assert columns.max() < width / 2
    assert columns.mean() > width / 4
    assert rows.mean() > height / 2


def test_the_contour_hugs_the_mask(tmp_path: Path) -> None:
    """The picture is bright exactly where the mask is: the middle of the contour is the middle of the bright box."""
    image = WHOLE[2].astype(np.float32)
    picture = pixels(draw_overlay(image, WHOLE, NOTHING, "t", tmp_path / "o.png", REGIONS))
    bright = (picture.min(axis=-1) > 0.9) & (np.arange(picture.shape[1]) < picture.shape[1] / 2)
    bright[:50] = False
    for axis in (0, 1):
        line, box = np.nonzero(blue(picture))[axis], np.nonzero(bright)[axis]
        assert (line.min() + line.max()) / 2 == pytest.approx((box.min() + box.max()) / 2, abs=1.5)


def test_what_lies_outside_the_head_is_black(tmp_path: Path) -> None:
    """Normalised intensities are below and above 0 in the head, and 0 outside."""
    image = np.zeros(SHAPE, np.float32)
    image[6:18, 8:22] = np.linspace(-2, 2, 12)[:, None, None]
    picture = pixels(draw_overlay(image, NOTHING, NOTHING, "t", tmp_path / "o.png", REGIONS))
    grey = picture[60:-40, 60:-60]
    assert (grey.max(axis=-1) == 0).mean() > 0.4


def test_empty_masks_nan_and_odd_titles_are_drawn(tmp_path: Path) -> None:
    image = np.full(SHAPE, np.nan, np.float32)
    for title in ("$x", "case_1 $\\frac$", ""):
        assert draw_overlay(image, NOTHING, NOTHING, title, tmp_path / "o.png", REGIONS).stat().st_size > 1000
    full = np.ones((3, *SHAPE), bool)
    draw_overlay(np.ones(SHAPE, np.float32), full, full, "all", tmp_path / "o.png", REGIONS, spacing_mm=(1.0, 2.0, 5.0))


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    image = np.zeros(SHAPE, np.float32)
    for bad in (WHOLE[:2], WHOLE[0], WHOLE[..., :5]):
        with pytest.raises(DataRefused):
            draw_overlay(image, bad, bad, "t", tmp_path / "o.png", REGIONS)
    with pytest.raises(DataRefused):
        draw_overlay(image[0], WHOLE, WHOLE, "t", tmp_path / "o.png", REGIONS)
