"""What is the geometry of one phantom patient?

It is an ellipsoidal brain with inner structure, and a nested irregular tumour.
Everything is drawn in millimetres around the centre of the volume, axes right,
anterior, superior, with H, W, D voxels. Labels are those of BraTS files: 1 necrotic (or
non-enhancing) core, 2 oedema, 4 enhancing rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Field = NDArray[np.float32]

TISSUES = ("csf", "grey", "white", "core", "oedema", "rim")
CSF = 1
GREY = 2
WHITE = 3
CORE = 4
OEDEMA = 5
RIM = 6
BRAIN_FRACTION = (0.80, 0.90, 0.78)
WAVES = 6


@dataclass(frozen=True)
class Tumour:
    """A blob with an irregular surface.

    The surface lies at radius_mm * (1 + irregularity * a smooth function of direction
    with unit variance). The tumour core reaches to core_fraction of that surface, the
    necrosis to necrosis_fraction of it.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    irregularity: float = 0.12
    core_fraction: float = 0.68
    necrosis_fraction: float = 0.42
    enhancing: bool = True


def coordinates(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Field:
    """Return the position of every voxel centre in mm, [3, H, W, D].

    The centre of the volume is 0.
    """
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def semi_axes_mm(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Field:
    """Return the half lengths [3] of the largest brain in mm.

    They are BRAIN_FRACTION of the volume along every axis.
    """
    return np.array(
        [f * n * step / 2 for f, n, step in zip(BRAIN_FRACTION, shape, spacing_mm, strict=True)],
        np.float32,
    )


def smooth_noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    sigma_voxels: float,
) -> Field:
    """Return Gaussian noise [shape] of mean 0 and variance 1.

    It is filtered to a correlation length of sigma_voxels.
    """
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32),
        sigma_voxels,
        mode="wrap",
        truncate=3.0,
    )
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def smooth_drift(rng: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Return a smooth field [shape] of mean 0 and variance 1.

    It is a random polynomial of degree 2.
    """
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    a = rng.standard_normal(9).astype(np.float32)
    field = a[0] * x + a[1] * y + a[2] * z + a[3] * x * y + a[4] * y * z + a[5] * x * z
    field = field + a[6] * x**2 + a[7] * y**2 + a[8] * z**2
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def brain(xyz: Field, semi_mm: Field, rng: np.random.Generator) -> Labels:
    """Return a tissue map [H, W, D], 0 outside the brain.

    CSF is the outer layer and two ventricles, GREY the cortex and islands, WHITE the
    rest.
    """
    r = np.sqrt(np.sum((xyz / semi_mm[:, None, None, None]) ** 2, axis=0))
    folds = smooth_noise(rng, r.shape, 1.6)
    tissue = np.where(r + 0.07 * folds < 0.74, WHITE, GREY).astype(np.uint8)
    tissue[(folds > 1.5) & (r < 0.6)] = GREY
    swollen = rng.uniform(0.8, 1.3)
    for side in (-1.0, 1.0):
        centre = semi_mm * np.array([0.17 * side, -0.05, 0.08], np.float32)
        half = swollen * semi_mm * np.array([0.10, 0.36, 0.16], np.float32)
        tissue[
            np.sum(
                ((xyz - centre[:, None, None, None]) / half[:, None, None, None]) ** 2,
                axis=0,
            )
            < 1
        ] = CSF
    tissue[r > 0.95] = CSF
    tissue[r > 1] = 0
    return tissue


def place_tumour(
    rng: np.random.Generator,
    semi_mm: Field,
    radius_mm: tuple[float, float],
    enhancing: bool,
) -> Tumour:
    """Return a tumour of random size at a random place where it fits in the brain.

    A radius above 55 % of the shortest half axis (very small volumes) is reduced to
    that.
    """
    shortest = float(semi_mm.min())
    radius = min(float(rng.uniform(*radius_mm)), 0.55 * shortest)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    reach = max(0.0, 1 - 1.25 * radius / shortest) * rng.uniform() ** (1 / 3)
    x, y, z = (float(v) for v in direction * reach * semi_mm)
    return Tumour(
        centre_mm=(x, y, z),
        radius_mm=radius,
        irregularity=float(rng.uniform(0.08, 0.18)),
        core_fraction=float(rng.uniform(0.65, 0.8)),
        necrosis_fraction=float(rng.uniform(0.35, 0.5)),
        enhancing=enhancing,
    )


def tumour_labels(xyz: Field, inside: Mask, tumour: Tumour, rng: np.random.Generator) -> Labels:
    """Return labels [H, W, D] in {0, 1, 2, 4}, zero outside `inside`.

    They are nested: no voxel of the core (1, 4) has a face in common with a voxel
    outside the tumour, none of the necrosis (1) with oedema. Irregularity 0 gives a
    ball, clipped by `inside`. If the tumour does not enhance, the whole core is 1 and
    ET is empty.
    """
    from scipy.ndimage import binary_erosion

    away = xyz - np.array(tumour.centre_mm, np.float32)[:, None, None, None]
    distance = np.sqrt(np.sum(away**2, axis=0))
    ratio = distance / (tumour.radius_mm * _radial(away, distance, tumour.irregularity, rng))
    whole = (ratio < 1) & inside
    core = (ratio < tumour.core_fraction) & binary_erosion(whole)
    necrosis = (ratio < tumour.necrosis_fraction) & binary_erosion(core)
    labels = np.zeros(inside.shape, np.uint8)
    labels[whole] = 2
    labels[core] = 4 if tumour.enhancing else 1
    labels[necrosis] = 1
    return labels


def add_tumour(tissue: Labels, labels: Labels) -> Labels:
    """Return the tissue map with the tumour in it; values are CSF .. RIM."""
    table = np.array([0, CORE, OEDEMA, 0, RIM], np.uint8)
    return np.where(labels > 0, table[labels], tissue)


def _radial(
    away: Field,
    distance: Field,
    irregularity: float,
    rng: np.random.Generator,
) -> Field:
    """Return 1 + irregularity * (a sum of plane waves on the unit sphere), at least 0.5."""
    unit = away / np.maximum(distance, 1e-3)
    total = np.zeros(distance.shape, np.float32)
    for _ in range(WAVES):
        wave = rng.standard_normal(3) * 1.8
        phase = rng.uniform(0, 2 * np.pi)
        total += np.cos(np.tensordot(wave.astype(np.float32), unit, axes=1) + np.float32(phase))
    surface = 1 + np.float32(irregularity * np.sqrt(2 / WAVES)) * total
    return np.asarray(np.maximum(surface, 0.5), np.float32)
