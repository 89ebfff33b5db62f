"""How is a training patch cut out of a volume?

Only the crop is read, so volumes may be memory maps of any size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sample_patch(
    image: NDArray[Any],
    labels: NDArray[np.uint8],
    foreground: NDArray[np.integer[Any]],
    size: tuple[int, int, int],
    rng: np.random.Generator,
    tumour_probability: float = 0.67,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return (image float32 [C, *size], labels uint8 [*size]) of one random place.

    image: The images [C, H, W, D] of any float type.
    labels: The labels [H, W, D].
    foreground: The indices of foreground voxels, [N, 3].

    Both results are new arrays. With `tumour_probability` (for certain at 1) a random foreground voxel
    lies in the patch, at most a quarter of the size from its centre unless the volume
    ends. Otherwise, and without foreground, every place of the patch inside the volume
    is equally likely. If an axis is shorter than the patch, the volume lies in the
    middle with zeros around it.
    """
    shape = labels.shape
    slack = np.subtract(shape, size)
    if len(foreground) and rng.random() < tumour_probability:
        quarter = np.asarray(size) // 4
        start = foreground[rng.integers(len(foreground))] - np.asarray(size) // 2 + rng.integers(-quarter, quarter + 1)
        start = np.clip(start, 0, np.maximum(slack, 0))
    else:
        start = rng.integers(0, np.maximum(slack, 0) + 1)
    # A volume shorter than the patch lies in its middle.
    start = np.where(slack < 0, slack // 2, start)
    inside = tuple(slice(max(0, s), min(n, s + p)) for s, n, p in zip(start, shape, size, strict=True))
    target = tuple(slice(cut.start - s, cut.stop - s) for cut, s in zip(inside, start, strict=True))
    patch = np.zeros((image.shape[0], *size), np.float32)
    patch[(slice(None), *target)] = image[(slice(None), *inside)]
    label_patch = np.zeros(size, np.uint8)
    label_patch[target] = labels[inside]
    return patch, label_patch
