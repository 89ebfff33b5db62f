"""What are the phantom patients of a CT task?

They are a body in air with an organ in it, in Hounsfield-like numbers.

    <root>/phantom-north-p000/phantom-north-p000_{<image>, ..., seg}.nii.gz
    <root>/phantoms.json      written last: all parameters

Air is -1000, soft tissue about 40, the organ about 120. Several label values are nested
ellipsoids, the first outermost. Hospitals (the phantom scanners of
synthetic/hospitals.py) differ by noise, blur, spacing and orientation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.synthetic.anatomy import coordinates
from wardround.synthetic.hospitals import Hospital
from wardround.synthetic.phantoms import MARKER, SMALLEST, clear, finished, save

AIR = -1000.0
TISSUE = 40.0
ORGAN = 120.0
STEP = 60.0
# Hounsfield-like numbers for a noise of 1 in the units of synthetic/hospitals.py.
NOISE = 300.0
BODY = 0.86
LARGEST = 0.42
SMALLER = 0.6
# Raised when the same parameters give other phantoms: older cohorts are then rewritten.
VERSION = 1


def write_organs(
    root: Path,
    profile: Hospital,
    seed: int,
    shape: tuple[int, int, int],
    patients: int | None,
    images: Sequence[str],
    labels: Sequence[int],
) -> tuple[Path, ...]:
    """Write the patients of one hospital below `root` and return their folders.

    images: The words by which image files are recognised.
    labels: The values of the mask, the outermost region first.

    If they were finished before with the same parameters, nothing is written.
    DataRefused is raised if root holds anything but phantoms, ConfigRefused for a shape
    below SMALLEST, fewer than 1 patient, and without an image or label.
    """
    count = profile.patients if patients is None else patients
    if count < 1 or min(shape) < SMALLEST or not images or not labels:
        raise ConfigRefused(
            "a cohort of phantoms",
            found=f"{count} patients of shape {tuple(shape)}, images {list(images)}, labels {list(labels)}",
            expected=f"at least 1 patient, three axes of at least {SMALLEST} voxels, an image and a label",
            fix=f"--set phantoms.patients=4 --set phantoms.shape=[{SMALLEST},{SMALLEST},{SMALLEST}], or larger; images and "
            "labels are those of sampling.task",
        )
    wanted = {
        "version": VERSION,
        "profile": asdict(profile),
        "seed": seed,
        "shape": list(shape),
        "patients": count,
    }
    parameters = json.loads(
        json.dumps({**wanted, "images": list(images), "labels": list(labels)}),
    )
    folders = tuple(root / f"phantom-{profile.name}-p{i:03d}" for i in range(count))
    if finished(root, parameters) and all(folder.is_dir() for folder in folders):
        return folders
    clear(root)
    for index, folder in enumerate(folders):
        mask, drawn = organ(profile, seed, shape, index, labels)
        folder.mkdir(parents=True)
        for image in images:
            save(
                folder / f"{folder.name}_{image}.nii.gz",
                scan(profile, seed, index, image, drawn),
                profile,
            )
        save(folder / f"{folder.name}_seg.nii.gz", mask, profile)
    content = {"what": "synthetic phantoms, not patients", "parameters": parameters}
    # Last: a cohort without the marker was interrupted, and is written again.
    files.write(root / MARKER, json.dumps(content, indent=1) + "\n")
    return folders


def organ(
    profile: Hospital,
    seed: int,
    shape: tuple[int, int, int],
    index: int,
    labels: Sequence[int],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return (mask, clean image) of patient `index`, both [H, W, D]."""
    rng = stream(seed, "phantom organ", profile.name, index)
    xyz = coordinates(shape, profile.spacing_mm)
    half = np.array(shape, np.float32) * np.array(profile.spacing_mm, np.float32) / 2
    drawn = np.where(_inside(xyz, np.zeros(3), BODY * half), TISSUE, AIR).astype(np.float32)
    centre = half * rng.uniform(-0.25, 0.25, 3)
    semi = half * LARGEST * rng.uniform(0.75, 1.0, 3)
    mask = np.zeros(shape, np.uint8)
    for depth, value in enumerate(labels):
        inside = _inside(xyz, centre, semi * SMALLER**depth)
        mask[inside] = value
        drawn[inside] = ORGAN + STEP * depth
    return mask, drawn


def scan(
    profile: Hospital,
    seed: int,
    index: int,
    image: str,
    drawn: NDArray[np.float32],
) -> NDArray[np.int16]:
    """Return what the hospital's scanner makes of a clean image."""
    from scipy.ndimage import gaussian_filter

    rng = stream(seed, "phantom organ scanner", profile.name, index, image)
    seen = gaussian_filter(
        drawn,
        [profile.blur_mm / 2.355 / step for step in profile.spacing_mm],
        truncate=3.0,
    )
    noise = NOISE * profile.noise * rng.standard_normal(drawn.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(seen + noise), -1024, 3071), np.int16)


def _inside(
    xyz: NDArray[np.float32],
    centre: NDArray[np.floating],
    semi: NDArray[np.floating],
) -> NDArray[np.bool_]:
    scaled = (xyz - np.asarray(centre)[:, None, None, None]) / np.asarray(semi)[
        :,
        None,
        None,
        None,
    ]
    return np.asarray((scaled**2).sum(axis=0) < 1)
