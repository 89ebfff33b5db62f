"""How does a hospital's scanner show one phantom patient?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.core.rng import stream
from wardround.data.layouts import MODALITIES
from wardround.synthetic.anatomy import CSF, WHITE, Labels, smooth_drift, smooth_noise
from wardround.synthetic.findings import brightness
from wardround.synthetic.hospitals import Hospital
from wardround.synthetic.subtypes import subtype_shifts

# How patients of one hospital differ: the brightness of a tissue, in the units of
# BASE_CONTRAST; the logarithm of noise, blur and bias field for every unit of
# `patients_vary` above 1.
PATIENT_JITTER = 0.03
PATIENT_SCANNER = 0.15
TEXTURE = 0.04


def make_images(
    profile: Hospital,
    seed: int,
    index: int,
    tissue: Labels,
) -> dict[str, NDArray[np.int16]]:
    """Return one image [H, W, D] per modality that the hospital has.

    Values are 0 outside the brain, 1 .. 32767 inside.
    """
    from scipy.ndimage import gaussian_filter

    rng = stream(seed, "phantom scanner", profile.name, index)
    inside = tissue > 0
    texture = np.float32(TEXTURE) * smooth_noise(rng, tissue.shape, 1.2)
    spots = _spots(rng, tissue, profile.spots)
    noise_factor, blur_factor, bias_factor = _scanner_of_the_day(profile, seed, index)
    sigma = [profile.blur_mm * blur_factor / 2.355 / step for step in profile.spacing_mm]
    table = profile.table() + rng.normal(0, PATIENT_JITTER * profile.patients_vary, (4, 6)).astype(np.float32)
    table = table + subtype_shifts(profile.subtypes, stream(seed, "phantom subtype", profile.name, index))
    beside = brightness(stream(seed, "phantom findings' brightness", profile.name, index))
    images = {}
    for row, modality in enumerate(MODALITIES):
        # Drawn for a missing modality too, so that the others do not depend on what is
        # missing.
        bias = np.exp(np.float32(profile.bias_field * bias_factor) * smooth_drift(rng, tissue.shape))
        noise = rng.standard_normal(tissue.shape, dtype=np.float32) * np.float32(profile.noise * noise_factor)
        if modality in profile.missing:
            continue
        clean = np.concatenate([table[row, :1], table[row], beside[row]])[tissue] + texture
        if modality in ("t2", "flair"):
            clean = np.where(spots, np.float32(0.9), clean)
        seen = np.maximum(gaussian_filter(clean, sigma, truncate=3.0) * bias + noise, 0)
        stored = np.clip(np.rint(profile.gain[row] * seen ** profile.gamma[row]), 1, 32767)
        images[modality] = np.where(inside, stored, 0).astype(np.int16)
    return images


def _scanner_of_the_day(profile: Hospital, seed: int, index: int) -> tuple[float, float, float]:
    """Return by what noise, blur and bias field are multiplied for one patient.

    All are exactly 1 for patients who vary as much as the constants say, or less.
    """
    spread = PATIENT_SCANNER * profile.extra_variety
    drawn = stream(seed, "phantom scanner of the day", profile.name, index).standard_normal(3)
    noise, blur, bias = (float(one) for one in np.exp(spread * np.clip(drawn, -2, 2)))
    return noise, blur, bias


def _spots(rng: np.random.Generator, tissue: Labels, count: int) -> NDArray[np.bool_]:
    """Return a mask of `count` small crosses in healthy white matter.

    There are fewer where there is not enough of it.
    """
    from scipy.ndimage import binary_dilation

    seeds = np.zeros(tissue.shape, bool)
    places = np.flatnonzero(tissue == WHITE)
    seeds.flat[rng.choice(places, min(count, len(places)), replace=False)] = True
    return np.asarray(binary_dilation(seeds) & (tissue >= CSF) & (tissue <= WHITE), bool)
