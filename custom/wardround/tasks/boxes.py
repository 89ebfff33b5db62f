"""Where does a mask lie? In the smallest box around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return one slice per axis around all true voxels of a mask.

    An empty mask gives empty slices.
    """
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(
            mask.any(tuple(other for other in range(mask.ndim) if other != axis)),
        )
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
    return tuple(box)
