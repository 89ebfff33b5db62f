"""What are domain-randomised phantoms, from which a network learns before any hospital?

The idea is that of SynthSeg: a network that has seen every contrast, resolution and
artefact on maps of labels does not rely on any of them. A patient is a crop of a head in
millimetres with tumours in it. How it looks is drawn anew for every patient (`look`):

    anatomy       half axes of the head; a stripped brain, or skull and scalp around it
    tumours       none, one or two; size, surface, core, necrosis, with a rim or without
    contrast      mean and spread of every tissue in every channel: four channels of five
                  within the wide intervals LIKELY of their own sequence, the fifth
                  uniform in ANY whatever the sequence
    resolution    spacing in the plane, slice thickness along one axis, blur by channel
    artefacts     a smooth bias field, noise, spots that are no tumour
    channels      some are missing

Nothing here reads a profile of hospitals.py: what is drawn are intervals of textbook
appearance, and the random streams have a purpose of their own.

Source: Billot et al. 2023, doi:10.1016/j.media.2023.102789 (SynthSeg).
Deviations: 1. The label maps are the ellipsoidal phantoms of anatomy.py; no real
segmentation is used and nothing is deformed. 2. Four channels of five are drawn
around their sequence: the task names its sequences, and a small network learns from
contrast that means something in minutes. 3. Intensities become z-scores over
the tissues' shares of the whole head, of which the crop shows a part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wardround.core.rng import stream
from wardround.synthetic.anatomy import (
    CSF,
    WHITE,
    Field,
    Labels,
    Tumour,
    add_tumour,
    brain,
    coordinates,
    place_tumour,
    smooth_drift,
    smooth_noise,
    tumour_labels,
)

CROP = (48, 48, 32)
CHANNELS = 4
# Tissues beyond those of anatomy.py: CSF is 1, the rim 6.
BONE, SCALP, SPOT = 7, 8, 9
KINDS = 10

# Lowest and highest mean brightness of csf, grey, white, core, oedema, rim in t1, t1ce,
# t2, flair; white matter in T1 is about .8. The intervals are wide: textbook order, no
# scanner's values.
LIKELY = np.array(
    [
        [(0.05, 0.35), (0.40, 0.70), (0.60, 0.95), (0.20, 0.60), (0.30, 0.70), (0.35, 0.80)],
        [(0.05, 0.35), (0.40, 0.70), (0.60, 0.95), (0.20, 0.60), (0.30, 0.70), (0.70, 1.40)],
        [(0.80, 1.20), (0.50, 0.75), (0.30, 0.55), (0.55, 1.10), (0.60, 1.10), (0.45, 0.90)],
        [(0.05, 0.40), (0.45, 0.70), (0.35, 0.60), (0.25, 0.95), (0.70, 1.20), (0.50, 0.95)],
    ],
    np.float32,
)
ANY = (0.0, 1.3)
LIKELY_SHARE = 0.8
SPREAD = (0.01, 0.12)
BONE_MEAN, SCALP_MEAN, SPOT_MEAN = (0.0, 0.3), (0.3, 1.5), (0.3, 1.3)

HALF_AXES_MM = (66.0, 80.0, 62.0)
HALF_AXES_SCALE = (0.82, 1.15)
UNSTRIPPED_SHARE = 0.35
RADIUS_MM = (8.0, 34.0)
IRREGULARITY = (0.05, 0.40)
CORE_FRACTION = (0.30, 0.95)
# Of the core's own fraction.
NECROSIS_SHARE = (0.15, 0.90)
ENHANCING_SHARE = 0.65
# The chances of no tumour, one, two.
TUMOURS = (0.03, 0.85, 0.12)

PLANE_MM = (1.0, 4.5)
SLICE_MM = (1.0, 6.0)
BLUR_MM = (0.5, 4.0)
THICK_SHARE = 0.2
TEXTURE_VOXELS = (0.6, 3.0)
BIAS = (0.0, 0.25)
NOISE = (0.01, 0.10)
MOST_SPOTS = 12
MISSING_SHARE = 0.15


@dataclass(frozen=True)
class Look:
    """Everything that was drawn for one patient, before a voxel exists.

    half_axes_mm: Of the brain, [3].
    tumours: At most two.
    centre_mm: Where the crop's centre lies.
    spacing_mm: Of the voxels; the slice thickness along `slice_axis`.
    means, spreads: Brightness of every kind of tissue, [CHANNELS, KINDS].
    blur_mm: The full width at half maximum of each channel along each axis,
        [CHANNELS, 3].
    texture_voxels, bias, noise: One number for each channel.
    present: Which channels exist; at least one does.
    """

    half_axes_mm: Field
    tumours: tuple[Tumour, ...]
    centre_mm: Field
    spacing_mm: tuple[float, float, float]
    slice_axis: int
    unstripped: bool
    spots: int
    means: Field
    spreads: Field
    blur_mm: Field
    texture_voxels: Field
    bias: Field
    noise: Field
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class RandomisedPatient:
    """One crop as a network is shown it.

    image: z-scores [4, *CROP], float32; 0 outside the head and in missing channels.
    labels: uint8 [*CROP]: 1 necrotic core, 2 oedema, 3 enhancing.
    present: Which channels exist, bool [4].
    spacing_mm: Of the voxels.
    """

    image: Field
    labels: Labels
    present: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


def look(seed: int, index: int) -> Look:
    """Return how patient `index` looks; it depends on (seed, index) alone."""
    rng = stream(seed, "randomised look", index)
    half = np.array(HALF_AXES_MM, np.float32) * rng.uniform(*HALF_AXES_SCALE, 3).astype(np.float32)
    tumours = tuple(_tumour(rng, half) for _ in range(int(rng.choice(3, p=TUMOURS))))
    axis = int(rng.choice(3, p=(0.1, 0.1, 0.8)))
    spacing = [float(np.exp(rng.uniform(*np.log(PLANE_MM))))] * 3
    spacing[axis] = float(rng.uniform(*SLICE_MM))
    blur = np.repeat(rng.uniform(*BLUR_MM, (CHANNELS, 1)), 3, 1)
    blur[:, axis] = np.maximum(blur[:, axis], spacing[axis])
    # A channel that was scanned in other thick slices and brought to this grid.
    for channel in np.flatnonzero(rng.uniform(size=CHANNELS) < THICK_SHARE):
        blur[channel, rng.integers(3)] = rng.uniform(*SLICE_MM)
    means, spreads = _contrast(rng)
    return Look(
        half_axes_mm=half,
        tumours=tumours,
        centre_mm=_centre(rng, half, tumours, np.array(spacing) * CROP),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        slice_axis=axis,
        unstripped=bool(rng.uniform() < UNSTRIPPED_SHARE),
        spots=int(rng.integers(0, MOST_SPOTS + 1)) if rng.uniform() < 0.5 else 0,
        means=means,
        spreads=spreads,
        blur_mm=blur.astype(np.float32),
        texture_voxels=rng.uniform(*TEXTURE_VOXELS, CHANNELS).astype(np.float32),
        bias=rng.uniform(*BIAS, CHANNELS).astype(np.float32),
        noise=rng.uniform(*NOISE, CHANNELS).astype(np.float32),
        present=_present(rng),
    )


def patient(seed: int, index: int) -> RandomisedPatient:
    """Return patient `index` of this seed."""
    from scipy.ndimage import gaussian_filter

    drawn = look(seed, index)
    rng = stream(seed, "randomised patient", index)
    tissue, labels = _maps(drawn, rng)
    inside = tissue > 0
    shares = _shares(drawn, seed, index)
    image = np.zeros((CHANNELS, *CROP), np.float32)
    for channel in np.flatnonzero(drawn.present):
        means, spreads = drawn.means[channel], drawn.spreads[channel]
        texture = smooth_noise(rng, CROP, float(drawn.texture_voxels[channel]))
        clean = means[tissue] + spreads[tissue] * texture
        # Full width at half maximum to standard deviation, in voxels.
        sigma = drawn.blur_mm[channel] / 2.355 / np.array(drawn.spacing_mm)
        seen = gaussian_filter(clean, sigma, truncate=3.0)
        seen = seen * np.exp(drawn.bias[channel] * smooth_drift(rng, CROP))
        seen = seen + drawn.noise[channel] * rng.standard_normal(CROP, dtype=np.float32)
        mean = float(shares @ means)
        variance = float(shares @ ((means - mean) ** 2 + spreads**2)) + float(drawn.noise[channel]) ** 2
        image[channel] = np.where(inside, np.clip((seen - mean) / np.sqrt(variance), -5, 5), 0)
    return RandomisedPatient(image, labels, drawn.present, drawn.spacing_mm)


def _tumour(rng: np.random.Generator, half_axes_mm: Field) -> Tumour:
    placed = place_tumour(rng, half_axes_mm, RADIUS_MM, bool(rng.uniform() < ENHANCING_SHARE))
    core = float(rng.uniform(*CORE_FRACTION))
    return replace(
        placed,
        irregularity=float(rng.uniform(*IRREGULARITY)),
        core_fraction=core,
        necrosis_fraction=core * float(rng.uniform(*NECROSIS_SHARE)),
    )


def _centre(
    rng: np.random.Generator,
    half_axes_mm: Field,
    tumours: tuple[Tumour, ...],
    extent_mm: NDArray[np.float64],
) -> Field:
    """Return the centre of the crop: near a tumour nine times of ten, else anywhere."""
    near, jitter = rng.uniform() < 0.9, rng.uniform(-0.3, 0.3, 3) * extent_mm
    direction = rng.standard_normal(3)
    anywhere = direction / np.linalg.norm(direction) * rng.uniform() ** (1 / 3) * half_axes_mm
    if near and tumours:
        chosen = tumours[int(rng.integers(len(tumours)))]
        return np.asarray(np.array(chosen.centre_mm) + jitter, np.float32)
    return np.asarray(anywhere, np.float32)


def _contrast(rng: np.random.Generator) -> tuple[Field, Field]:
    """Return (means, spreads), [CHANNELS, KINDS]; kind 0 is the background."""
    means = np.zeros((CHANNELS, KINDS))
    for channel in range(CHANNELS):
        likely = rng.uniform(LIKELY[channel, :, 0], LIKELY[channel, :, 1])
        free = rng.uniform(*ANY, len(likely))
        means[channel, CSF:BONE] = likely if rng.uniform() < LIKELY_SHARE else free
    means[:, BONE] = rng.uniform(*BONE_MEAN, CHANNELS)
    means[:, SCALP] = rng.uniform(*SCALP_MEAN, CHANNELS)
    means[:, SPOT] = rng.uniform(*SPOT_MEAN, CHANNELS)
    spreads = rng.uniform(*SPREAD, (CHANNELS, KINDS))
    spreads[:, 0] = 0
    return means.astype(np.float32), spreads.astype(np.float32)


def _present(rng: np.random.Generator) -> NDArray[np.bool_]:
    present = np.asarray(rng.uniform(size=CHANNELS) >= MISSING_SHARE)
    present[rng.integers(CHANNELS)] = True
    return present


def _maps(drawn: Look, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Return (kinds of tissue, labels 0..3) of the crop, uint8 [*CROP]."""
    xyz = coordinates(CROP, drawn.spacing_mm) + drawn.centre_mm[:, None, None, None]
    tissue = brain(xyz, drawn.half_axes_mm, rng)
    inside = tissue > 0
    labels = np.zeros(CROP, np.uint8)
    for tumour in drawn.tumours:
        found = tumour_labels(xyz, inside, tumour, rng)
        labels = np.where(found > 0, found, labels)
    tissue = np.where(_spots(rng, tissue, drawn.spots), np.uint8(SPOT), tissue)
    tissue = add_tumour(tissue, labels)
    if drawn.unstripped:
        tissue = _with_skull(tissue, xyz, drawn.half_axes_mm)
    # Enhancing tumour is 4 in files and 3 in the task.
    return tissue, np.where(labels == 4, np.uint8(3), labels)


def _with_skull(tissue: Labels, xyz: Field, half_axes_mm: Field) -> Labels:
    """Return the map with bone and scalp around the brain."""
    r = np.sqrt(np.sum((xyz / half_axes_mm[:, None, None, None]) ** 2, axis=0))
    around = np.where(r < 1.1, BONE, np.where(r < 1.22, SCALP, 0)).astype(np.uint8)
    return np.where(tissue > 0, tissue, around)


def _spots(rng: np.random.Generator, tissue: Labels, count: int) -> NDArray[np.bool_]:
    """Return a mask of small blobs in white matter that are no tumour."""
    from scipy.ndimage import binary_dilation

    seeds = np.zeros(tissue.shape, bool)
    places = np.flatnonzero(tissue == WHITE)
    if not (count and len(places)):
        return seeds
    seeds.flat[rng.choice(places, min(count, len(places)), replace=False)] = True
    grown = binary_dilation(seeds, iterations=int(rng.integers(1, 3)))
    return np.asarray(grown & (tissue >= CSF) & (tissue <= WHITE), bool)


def _shares(drawn: Look, seed: int, index: int) -> Field:
    """Return the share of each kind of tissue in the whole head, [KINDS], sum 1.

    They are counted on a coarse grid: z-scores are those of the whole head, as in
    data/normalise.py, although only a crop is drawn.
    """
    rng = stream(seed, "randomised shares", index)
    wide = 1.25 * float(drawn.half_axes_mm.max())
    xyz = coordinates((20, 20, 20), (wide / 10, wide / 10, wide / 10))
    tissue = brain(xyz, drawn.half_axes_mm, rng)
    for tumour in drawn.tumours:
        tissue = add_tumour(tissue, tumour_labels(xyz, tissue > 0, tumour, rng))
    if drawn.unstripped:
        tissue = _with_skull(tissue, xyz, drawn.half_axes_mm)
    counts = np.bincount(tissue[tissue > 0], minlength=KINDS).astype(np.float32)
    return np.asarray(counts / counts.sum(), np.float32)
