"""One image volume to comparable intensities, whatever the scanner's scale.

Source: z-scores inside the brain as in Isensee et al. 2021,
  doi:10.1038/s41592-020-01008-z (nnU-Net), after clipping at percentiles.
Deviations: 1. An image that is not skull-stripped gets a foreground: the head. 2. The
  result is clipped to +-5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Shares of voxels (STRIPPED, DARK_SHARE) and of the range of intensities (DARK); see
# `foreground`.
STRIPPED = 0.2
DARK = 0.1
DARK_SHARE = 0.25
# The edges in which air is looked for are a sixteenth of the width of the image.
CORNER = 16
CLIP_PERCENTILES = (0.5, 99.5)
CLIP = 5.0


def foreground(raw: Field) -> Mask:
    """Return bool [H, W, D], true in the brain (skull-stripped) or in the head.

    raw: [H, W, D], with axes 0 and 1 left-right and front-back.

    An image is skull-stripped when at least 20 % of its voxels equal exactly 0, and
    under 25 % of the others are dark (below a tenth of the way from their 1st to their
    99th percentile). Then the foreground is all that is not 0. Many dark voxels mean
    air that was only partly set to 0.

    Otherwise air is whatever lies within a tenth of that range around the median of the
    four edges along axis 2, which is not always dark. The head is all that lies between
    voxels other than air along each of the three axes: a dark cyst is not air.
    """
    inside: Mask = raw != 0
    if 0 < np.count_nonzero(inside) <= (1 - STRIPPED) * raw.size:
        low, span = _range(raw[inside])
        if np.count_nonzero(
            raw[inside] <= low + DARK * span,
        ) < DARK_SHARE * np.count_nonzero(inside):
            return inside
    h, w = (max(1, n // CORNER) for n in raw.shape[:2])
    air = float(
        np.median(raw[np.ix_([*range(h), *range(-h, 0)], [*range(w), *range(-w, 0)])]),
    )
    return _between(np.abs(raw - air) > DARK * _range(raw)[1])


def normalise(raw: Field) -> Field:
    """Return float32 [H, W, D]: the foreground clipped to its 0.5..99.5 percentiles,
    with mean 0 and standard deviation 1, within +-5; 0 outside.

    raw: finite intensities [H, W, D].

    raw * s with s > 0 gives the same result up to rounding. A constant foreground gives
    zeros.
    """
    inside = foreground(raw)
    result = np.zeros(raw.shape, np.float32)
    values = raw[inside].astype(np.float64)
    if not values.size:
        return result
    low, high = np.percentile(values, CLIP_PERCENTILES)
    values = np.clip(values, low, high)
    deviation = float(values.std())
    if deviation > 0:
        result[inside] = np.clip((values - values.mean()) / deviation, -CLIP, CLIP)
    return result


def _range(values: Field) -> tuple[float, float]:
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high - low)


def _between(mask: Mask) -> Mask:
    """Return where there is a true voxel on both sides (or right here), along every
    axis.
    """
    result = np.ones_like(mask)
    for axis in range(mask.ndim):
        result &= np.logical_or.accumulate(mask, axis)
        result &= np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)
    return result
