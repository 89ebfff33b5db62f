from __future__ import annotations

import math

import numpy as np
import pytest

from wardround.core.errors import DataRefused
from wardround.tasks.brain_tumours import REGIONS
from wardround.tasks.metrics import MISSED_MM, case_scores, dice, hd95_mm

UNIT = (1.0, 1.0, 1.0)

NAMES = REGIONS.names


def cube(low, high, shape=(20, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def ball(radius, spacing_mm=UNIT, shape=(31, 31, 31)):
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return sum(axis**2 for axis in grid) <= radius**2


def brute_surface(mask):
    """Slow oracle: a true voxel with a face neighbour that is false or outside."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                near = place.copy()
                near[axis] += step
                if not (0 <= near[axis] < mask.shape[axis]) or not mask[tuple(near)]:
                    found.append(tuple(place))
    return np.array(sorted(set(found)))


def brute_hd95(pred, truth, spacing_mm):
    a, b = (brute_surface(mask) * np.array(spacing_mm) for mask in (pred, truth))
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


def test_dice_of_half_shifted_cubes():
    # Two cubes of 4x4x4 that share 2x4x4: 2 * 32 / (64 + 64).
    assert dice(cube((0, 0, 0), (4, 4, 4)), cube((2, 0, 0), (6, 4, 4))) == 0.5
    assert dice(cube((0, 0, 0), (4, 4, 4)), cube((0, 0, 0), (4, 4, 4))) == 1
    assert dice(cube((0, 0, 0), (4, 4, 4)), cube((8, 0, 0), (9, 4, 4))) == 0
    # One voxel in eight: 2 * 1 / (1 + 8).
    assert dice(cube((0, 0, 0), (1, 1, 1)), cube((0, 0, 0), (2, 2, 2))) == pytest.approx(2 / 9)


def test_empty_masks_follow_brats():
    some, none = cube((0, 0, 0), (2, 2, 2)), np.zeros((20, 20, 20), bool)
    assert (dice(none, none), hd95_mm(none, none, UNIT)) == (1, 0)
    assert (dice(some, none), hd95_mm(some, none, UNIT)) == (0, 374)
    assert (dice(none, some), hd95_mm(none, some, UNIT)) == (0, 374)
    assert MISSED_MM == 374


@pytest.mark.parametrize("spacing_mm", [UNIT, (1.0, 2.0, 5.0)])
def test_single_voxels(spacing_mm):
    a, b = cube((2, 3, 4), (3, 4, 5)), cube((5, 7, 4), (6, 8, 5))
    expected = math.hypot(3 * spacing_mm[0], 4 * spacing_mm[1])
    assert hd95_mm(a, b, spacing_mm) == pytest.approx(expected)
    assert hd95_mm(a, a, spacing_mm) == 0


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 0.5), (1, 1.0), (2, 3.0)])
def test_plates_at_a_distance(axis, step_mm):
    """Two parallel plates one voxel thick, 7 voxels apart: every voxel is exactly 7 steps away."""
    masks = []
    for place in (4, 11):
        mask = np.zeros((20, 20, 20), bool)
        mask[(slice(None),) * axis + (place,)] = True
        masks.append(mask)
    assert hd95_mm(*masks, (0.5, 1.0, 3.0)) == pytest.approx(7 * step_mm)


def test_cubes_shifted_by_two():
    """Cubes of edge 6 shifted by 2 along axis 0.

    Each surface has 216 - 64 = 152 voxels. The 36 of the outer end face are 2 away from the other cube, and nothing is
    farther: more than 5 % of the distances are 2, none is larger.
    """
    a, b = cube((4, 4, 4), (10, 10, 10)), cube((6, 4, 4), (12, 10, 10))
    assert hd95_mm(a, b, UNIT) == pytest.approx(2)
    assert hd95_mm(a, b, (3.0, 10.0, 10.0)) == pytest.approx(6)


@pytest.mark.parametrize("spacing_mm", [UNIT, (1.0, 1.0, 2.0)])
def test_nested_spheres(spacing_mm):
    """The surfaces of balls of radius 5 and 9 mm are 4 mm apart, give or take one voxel diagonal."""
    inner, outer = ball(5, spacing_mm), ball(9, spacing_mm)
    assert abs(hd95_mm(inner, outer, spacing_mm) - 4) < math.hypot(*spacing_mm)
    assert dice(inner, outer) == pytest.approx(2 * inner.sum() / (inner.sum() + outer.sum()))


def test_the_larger_of_the_two_directions():
    """A small mask inside a long rod: near from the small one, far from the rod's end."""
    small, rod = cube((0, 9, 9), (1, 10, 10)), cube((0, 9, 9), (20, 10, 10))
    # Rod to voxel: distances 0..19, their 95th percentile is 18.05; voxel to rod: 0.
    assert hd95_mm(small, rod, UNIT) == hd95_mm(rod, small, UNIT) == pytest.approx(18.05)


def test_a_few_outliers_are_forgiven():
    plate = cube((5, 0, 0), (6, 20, 20))
    specked = plate.copy()
    specked[15, :2, :5] = True  # 10 of 410 voxels, below 5 %
    assert hd95_mm(specked, plate, UNIT) == 0
    specked[15, :2, :] = True  # 40 of 440, above 5 %
    assert hd95_mm(specked, plate, UNIT) == 10


def random_masks(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 10, 3))
    return [rng.random(shape) < share for share in rng.uniform(0.1, 0.9, 2)], tuple(rng.uniform(0.5, 4, 3))


@pytest.mark.parametrize("seed", range(12))
def test_against_all_pairs_of_surface_voxels(seed):
    (pred, truth), spacing_mm = random_masks(seed)
    assert hd95_mm(pred, truth, spacing_mm) == pytest.approx(brute_hd95(pred, truth, spacing_mm))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(6))
def test_against_monai_on_masks_that_are_not_empty(seed):
    import torch
    from monai.metrics import compute_hausdorff_distance

    (pred, truth), spacing_mm = random_masks(seed)
    a, b = (torch.from_numpy(mask)[None, None] for mask in (pred, truth))
    theirs = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=list(spacing_mm))
    assert hd95_mm(pred, truth, spacing_mm) == pytest.approx(theirs.item(), rel=1e-5)


def test_other_shapes_are_refused():
    for score in (dice, lambda a, b: hd95_mm(a, b, UNIT)):
        with pytest.raises(DataRefused, match="shape"):
            score(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool))


def test_scores_of_a_case():
    truth = np.stack([cube((9, 9, 9), (9, 9, 9)), cube((4, 4, 4), (8, 8, 8)), cube((4, 4, 4), (12, 8, 8))])
    pred = np.stack([cube((0, 0, 0), (1, 1, 1)), cube((4, 4, 4), (8, 8, 8)), cube((4, 4, 4), (8, 8, 8))])
    scores = case_scores(pred, truth, np.array([True, True, True]), (1.0, 1.0, 1.0), NAMES)
    assert (scores["dice_ET"], scores["hd95_mm_ET"]) == (0, 374)
    assert (scores["dice_TC"], scores["hd95_mm_TC"]) == (1, 0)
    assert scores["dice_WT"] == pytest.approx(2 * 64 / (64 + 128))
    assert scores["dice_mean"] == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert scores["hd95_mm_WT"] == pytest.approx(brute_hd95(pred[2], truth[2], UNIT))
    assert len(scores) == 7


def test_only_known_regions_are_scored():
    truth, pred = np.zeros((3, 4, 4, 4), bool), np.ones((3, 4, 4, 4), bool)
    truth[2] = True
    known = np.array([False, False, True])
    assert case_scores(pred, truth, known, UNIT, NAMES) == {"dice_WT": 1.0, "dice_mean": 1.0, "hd95_mm_WT": 0.0}
    assert case_scores(pred, truth, known, UNIT, NAMES, with_hd95=False) == {"dice_WT": 1.0, "dice_mean": 1.0}
    with pytest.raises(DataRefused):
        case_scores(pred, truth, np.zeros(3, bool), UNIT, NAMES)
