"""What is left of a predicted region when only its largest connected part is kept?

A model that was trained on patches sometimes finds a few voxels of tumour far from the
tumour. Where there is one lesion, keeping the largest part removes them; where there
are several, it removes lesions. So a hospital uses it for a region only where it helps
its validation patients (training/component_choice.py).

Source: Isensee et al. 2021 (nnU-Net's postprocessing).
Deviations: none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.tasks.regions import Regions

Bools = NDArray[np.bool_]


def largest_part(mask: Bools) -> Bools:
    """Return the largest connected part of a mask [H, W, D].

    Voxels that touch at a face, an edge or a corner are connected. Of equally large
    parts it is the one whose first voxel comes first. An empty mask stays empty.
    """
    # Only a model with this filter needs scipy: a bundle without it runs without scipy.
    from scipy.ndimage import label

    parts, count = label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask.copy()
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    found: Bools = parts == sizes.argmax()
    return found


def with_largest_parts(regions: Bools, outputs: Regions, chosen: Collection[str]) -> Bools:
    """Return regions [R, H, W, D] with the largest part alone of each chosen one.

    outputs: Names the regions; inner ones are cut back to outer ones afterwards.
    chosen: Names of regions; none returns `regions` itself. A name that is none of them
        raises ConfigRefused.
    """
    if not chosen:
        return regions
    if strangers := sorted(set(chosen) - set(outputs.names)):
        raise ConfigRefused(
            "the regions of which the largest part is kept",
            found=", ".join(strangers),
            expected=f"some of {', '.join(outputs.names)}",
            fix="use a file that this version of wardround wrote",
        )
    kept = [
        largest_part(region) if name in chosen else region for name, region in zip(outputs.names, regions, strict=True)
    ]
    return outputs.nested(np.stack(kept))


def largest_in(meta: Mapping[str, Any], outputs: Regions, file: Path) -> tuple[str, ...]:
    """Return the regions of which a file of weights says that only the largest part is
    kept; none where it says nothing. Other names raise ModelRefused.
    """
    said = meta.get("largest_component", [])
    if not isinstance(said, list) or not all(isinstance(one, str) and one in outputs.names for one in said):
        raise ModelRefused(
            f"the filter of regions in {file}",
            found=f"a {type(said).__name__} of other names",
            expected=f"a list of some of {', '.join(outputs.names)}",
            fix="use a file that this version of wardround wrote",
        )
    return tuple(said)
