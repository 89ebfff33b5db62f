"""What else does a phantom patient have in the brain that is no tumour?

Real patients bring findings beside the one that is asked for: an old infarct, a cyst, a
bleed. Each is rare, so a hospital with few patients has not seen most of them, and a
model that has not seen one takes it for tumour. That is a part of what hospitals gain
from one another, and phantoms without such findings cannot show it.

Shapes and brightness are invented in the manner of textbooks. They are no model of any
disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.synthetic.anatomy import CSF, GREY, RIM, WHITE, Field, Labels, Mask, Tumour, tumour_labels

TRIES = 40
# A finding keeps so many voxels away from the tumour, so that no mask is in doubt.
GAP = 1
# The standard deviation of a finding's brightness from patient to patient.
JITTER = 0.06


@dataclass(frozen=True)
class Finding:
    """One kind.

    brightness: In t1, t1ce, t2 and flair, in the units of hospitals.BASE_CONTRAST.
    radius_mm: The range of its size.
    tissues: In which its centre lies.
    flat: How much shorter it is along one axis than along the others, 1 for a ball.
    """

    name: str
    brightness: tuple[float, float, float, float]
    radius_mm: tuple[float, float]
    tissues: tuple[int, ...]
    flat: float = 1.0


FINDINGS: tuple[Finding, ...] = (
    Finding("old infarct", (0.34, 0.34, 0.95, 0.92), (11.0, 18.0), (GREY,)),
    Finding("cyst", (0.24, 0.24, 1.00, 0.22), (10.0, 16.0), (WHITE, GREY)),
    Finding("bleed", (1.00, 1.02, 0.35, 0.75), (10.0, 16.0), (WHITE, GREY)),
    Finding("meningioma", (0.52, 1.12, 0.62, 0.62), (10.0, 17.0), (CSF,)),
    Finding("calcification", (0.22, 0.26, 0.20, 0.20), (8.0, 13.0), (WHITE, GREY)),
    Finding("abscess", (0.36, 0.95, 0.98, 0.85), (9.0, 14.0), (WHITE,)),
    Finding("white matter disease", (0.52, 0.52, 0.86, 0.96), (13.0, 20.0), (WHITE,), 0.5),
)


def add_findings(
    tissue: Labels,
    labels: Labels,
    xyz: Field,
    chance: float,
    rng: np.random.Generator,
) -> Labels:
    """Return the tissue map [H, W, D] with the findings of one patient.

    The voxels of FINDINGS[i] have the value RIM + 1 + i. Each kind is there with this
    chance, and left out where there is no room for it beside the tumour.

    labels: BraTS labels; tumour and its neighbours are never touched.
    xyz: Positions in mm, as `anatomy.coordinates` gives them.
    """
    from scipy.ndimage import binary_dilation

    found = tissue.copy()
    taken = binary_dilation(labels > 0, iterations=GAP)
    for number, finding in enumerate(FINDINGS):
        here = rng.uniform() < chance
        shape = _drawn(finding, rng)
        if not here:
            continue
        places = np.flatnonzero(np.isin(tissue, finding.tissues) & ~taken)
        for place in rng.choice(places, min(TRIES, len(places)), replace=False):
            mask = _mask(shape, finding.flat, int(place), tissue > 0, xyz, rng)
            if not (mask & taken).any():
                found[mask] = RIM + 1 + number
                taken = taken | binary_dilation(mask, iterations=GAP)
                break
    return found


def brightness(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the brightness of every kind in one patient, [4 modalities, kinds]."""
    base = np.array([finding.brightness for finding in FINDINGS], np.float32).T
    return np.asarray(base + rng.normal(0, JITTER, base.shape), np.float32)


def _drawn(finding: Finding, rng: np.random.Generator) -> Tumour:
    return Tumour(
        centre_mm=(0.0, 0.0, 0.0),
        radius_mm=float(rng.uniform(*finding.radius_mm)),
        irregularity=float(rng.uniform(0.1, 0.25)),
    )


def _mask(shape: Tumour, flat: float, place: int, inside: Mask, xyz: Field, rng: np.random.Generator) -> Mask:
    """Return the voxels of one finding whose centre is the voxel with this number."""
    away = xyz - xyz.reshape(3, -1)[:, place][:, None, None, None]
    if flat != 1:
        away[int(rng.integers(3))] /= np.float32(flat)
    return np.asarray(tumour_labels(away, inside, shape, rng) > 0)
