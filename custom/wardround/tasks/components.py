"""What is left of predicted regions when parts that are probably no tumour are dropped?

A model that was trained on patches sometimes finds a few voxels of tumour far from the
tumour, or a few voxels of a kind of tissue that a patient does not have. Two filters
remove them: of a region only the largest connected part is kept, and a region that is
smaller than a limit is dropped. Where there are several lesions, or small ones, they
remove lesions. So a hospital uses them for a region only where they serve its
validation patients (training/component_choice.py).

Sources: Isensee et al. 2021 (nnU-Net's postprocessing: the largest part); Isensee et
al. 2018, arXiv:1809.10483 (enhancing tumour below a limit is dropped, BraTS 2018).
Deviations: the limit is for any region, and in mm^3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.tasks.regions import Regions

Bools = NDArray[np.bool_]
# Their names in a file of weights.
LARGEST, LEAST = "largest_component", "least_volume_mm3"


@dataclass(frozen=True)
class RegionFilter:
    """What a model drops from the regions that it finds; by default nothing.

    largest: The names of regions of which only the largest connected part is kept.
    least_mm3: By name, the volume below which a region counts as not there.
    """

    largest: tuple[str, ...] = ()
    least_mm3: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.largest or self.least_mm3)

    def applied(self, regions: Bools, outputs: Regions, spacing_mm: Sequence[float]) -> Bools:
        """Return regions [R, H, W, D] without what is dropped; without a filter these.

        outputs: Names the regions; inner ones are cut back to outer ones afterwards.
        spacing_mm: The sides of a voxel.

        A region that `outputs` does not have raises ConfigRefused.
        """
        if not self:
            return regions
        if strangers := sorted({*self.largest, *self.least_mm3} - set(outputs.names)):
            raise ConfigRefused(
                "the regions that are filtered",
                found=", ".join(strangers),
                expected=f"some of {', '.join(outputs.names)}",
                fix="use a file that this version of wardround wrote",
            )
        voxel_mm3 = math.prod(spacing_mm)
        kept = []
        for name, region in zip(outputs.names, regions, strict=True):
            part = largest_part(region) if name in self.largest else region
            small = np.count_nonzero(part) * voxel_mm3 < self.least_mm3.get(name, 0.0)
            kept.append(np.zeros_like(part) if small else part)
        return outputs.nested(np.stack(kept))

    @property
    def as_json(self) -> dict[str, Any]:
        """Return what a file of weights says about the filter; nothing where there is none."""
        largest = {LARGEST: list(self.largest)} if self.largest else {}
        return {**largest, **({LEAST: dict(self.least_mm3)} if self.least_mm3 else {})}


def filter_from_json(said: Mapping[str, Any], outputs: Regions, file: Path | str) -> RegionFilter:
    """Return the filter that a file of weights states; none where it says nothing.

    Names that are no regions of `outputs`, and volumes that are no finite numbers above
    0, raise ModelRefused.
    """
    largest, least = said.get(LARGEST, []), said.get(LEAST, {})
    named = isinstance(largest, list) and all(isinstance(one, str) and one in outputs.names for one in largest)
    sized = isinstance(least, dict) and all(
        name in outputs.names and type(limit) in (int, float) and 0 < limit < math.inf for name, limit in least.items()
    )
    if not (named and sized):
        raise ModelRefused(
            f"the filter of regions in {file}",
            found=f"a {type(largest).__name__} and a {type(least).__name__} with other names or numbers",
            expected=f"names among {', '.join(outputs.names)}, and volumes in mm^3 above 0",
            fix="use a file that this version of wardround wrote",
        )
    return RegionFilter(tuple(largest), {name: float(limit) for name, limit in least.items()})


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
