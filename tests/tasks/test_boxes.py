from __future__ import annotations

import numpy as np

from wardround.tasks.boxes import bounding_box


def test_box_of_two_corners():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 5, 2] = mask[3, 2, 2] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 6), slice(2, 3))


def test_full_and_empty_masks():
    assert bounding_box(np.ones((2, 3), bool)) == (slice(0, 2), slice(0, 3))
    assert bounding_box(np.zeros((2, 3), bool)) == (slice(0, 0), slice(0, 0))
