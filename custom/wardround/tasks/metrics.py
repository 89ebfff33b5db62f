"""How well does a predicted mask match the expert's? By Dice and HD95 per region.

Empty regions follow the BraTS rules:

| prediction | truth | Dice     | HD95     |
|------------|-------|----------|----------|
| empty      | empty | 1        | 0 mm     |
| empty      | some  | 0        | 374 mm   |
| some       | empty | 0        | 374 mm   |
| some       | some  | 2I/(P+T) | as below |

HD95: The surface of a mask is its voxels with a face neighbour outside the mask
(outside the volume counts as outside). Take each surface voxel's distance (mm, between
voxel centres) to the nearest surface voxel of the other mask, and the 95th percentile
of these (linear interpolation) from prediction to truth and from truth to prediction.
HD95 is the larger of the two.

Sources: Menze et al. 2015, doi:10.1109/TMI.2014.2377694; the BraTS evaluation (374 mm
is about its volumes' diagonal).
Deviations: none. MONAI's HausdorffDistanceMetric agrees on masks that are not empty,
and drops the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import DataRefused
from wardround.tasks.boxes import bounding_box

Mask = NDArray[np.bool_]
# About the diagonal of a BraTS volume; see the sources above.
MISSED_MM = 374.0
PERCENTILE = 95


def dice(pred: Mask, truth: Mask) -> float:
    """Return the Dice overlap, from 0 to 1, of two masks of the same shape.

    Other shapes raise DataRefused.
    """
    pred, truth = _masks(pred, truth)
    total = int(pred.sum()) + int(truth.sum())
    return 2 * int((pred & truth).sum()) / total if total else 1.0


def hd95_mm(
    pred: Mask,
    truth: Mask,
    spacing_mm: Sequence[float],
    missed_mm: float = MISSED_MM,
) -> float:
    """Return the 95th percentile Hausdorff distance in mm.

    spacing_mm: The voxel size along each axis.
    missed_mm: What counts if one of the masks is empty and the other is not.

    Masks of different shapes raise DataRefused.
    """
    pred, truth = _masks(pred, truth)
    if not pred.any() or not truth.any():
        return 0.0 if pred.any() == truth.any() else missed_mm
    from scipy.spatial import cKDTree

    a, b = (_surface(mask) * np.asarray(spacing_mm, np.float64) for mask in (pred, truth))
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE)))


def case_scores(
    pred: Mask,
    truth: Mask,
    known: Mask,
    spacing_mm: Sequence[float],
    regions: Sequence[str],
    with_hd95: bool = True,
    missed_mm: float = MISSED_MM,
) -> dict[str, float]:
    """Return the scores of one case.

    pred, truth: The regions, bool [R, H, W, D], in the order of `regions`.
    known: Which regions are known, bool [R].

    The keys are dice_<region> and hd95_mm_<region> of the known regions, and dice_mean
    over them. DataRefused is raised if no region is known.
    """
    chosen = [(index, name) for index, name in enumerate(regions) if known[index]]
    if not chosen:
        raise DataRefused(
            "scores of a case",
            found="no known region",
            expected="at least one",
            fix="check the kind of labels",
        )
    scores = {f"dice_{name}": dice(pred[index], truth[index]) for index, name in chosen}
    scores["dice_mean"] = sum(scores.values()) / len(chosen)
    if with_hd95:
        scores |= {
            f"hd95_mm_{name}": hd95_mm(pred[index], truth[index], spacing_mm, missed_mm) for index, name in chosen
        }
    return scores


def case_volumes(
    pred: Mask,
    truth: Mask,
    known: Mask,
    spacing_mm: Sequence[float],
    regions: Sequence[str],
) -> dict[str, float]:
    """Return volumes in ml, and which regions are there on one side alone.

    Arguments are those of `case_scores`. For each known region R the keys are ml_R and
    ml_expert_R, missed_R (1 if the expert's is not empty and the prediction's is), and
    invented_R (1 for the reverse).
    """
    millilitres = float(np.prod(np.asarray(spacing_mm, np.float64))) / 1000
    found: dict[str, float] = {}
    for name, mine, expert in [
        (regions[i], int(pred[i].sum()), int(truth[i].sum())) for i in range(len(regions)) if known[i]
    ]:
        found |= {
            f"ml_{name}": mine * millilitres,
            f"ml_expert_{name}": expert * millilitres,
        }
        found |= {
            f"missed_{name}": float(expert > 0 and mine == 0),
            f"invented_{name}": float(mine > 0 and expert == 0),
        }
    return found


def _masks(pred: Mask, truth: Mask) -> tuple[Mask, Mask]:
    if pred.shape != truth.shape:
        raise DataRefused(
            "two masks to compare",
            found=f"shapes {pred.shape} and {truth.shape}",
            expected="the same shape",
            fix="bring the prediction into the geometry of the truth",
        )
    return pred.astype(bool, copy=False), truth.astype(bool, copy=False)


def _surface(mask: Mask) -> NDArray[np.intp]:
    """Return the indices [N, ndim] of the surface voxels of a mask that is not empty."""
    cuts = bounding_box(mask)
    box = np.pad(mask[cuts], 1)
    inner = box.copy()
    for axis in range(box.ndim):
        inner &= np.roll(box, 1, axis) & np.roll(box, -1, axis)
    surface: NDArray[np.intp] = np.argwhere(box & ~inner) - 1 + [cut.start for cut in cuts]
    return surface
