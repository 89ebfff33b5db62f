"""What are phantom patients with a type of tumour?

They have one axial slice per sequence, and a record that fits the type.

    <root>/dataset.json, cases.csv   as any folder of labelled images
                                     (description.py)
    <root>/images/phantom-north-p000_{t1,t1ce,t2,flair}.png
    <root>/phantoms.json             written last: all parameters

Patient i of a hospital has the brain and the tumour that synthetic/phantoms.py gives
patient i (same seed and shape), and the slice is where the tumour is largest. Types
differ by two signs, each shown by other sequences:

    ring         bright rim in t1ce, no oedema in t2 and flair
    halo         no rim in t1ce, bright oedema in t2 and flair
    ring_halo    both

So t1ce alone cannot tell ring from ring_halo, and t2 and flair cannot tell halo from
ring_halo; t1, shape and place tell nothing. The scanner effects and missing modalities
are those of the hospital.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.data.description import FILE, Description, Row, Spec, write_folder
from wardround.data.layouts import MODALITIES
from wardround.data.pictures import Grid, write_picture
from wardround.synthetic.anatomy import TISSUES, Labels, smooth_drift, smooth_noise
from wardround.synthetic.hospitals import Hospital
from wardround.synthetic.phantom_ehr import CLASSES, COLUMNS, HALO, RING, draw_record
from wardround.synthetic.phantom_images import PATIENT_JITTER, TEXTURE
from wardround.synthetic.phantoms import MARKER, SMALLEST, Shape, make_labels

# Raised when the same parameters give other phantoms: older cohorts are then rewritten.
VERSION = 1


def spec_of(size: int = 40) -> Spec:
    """Return what all phantom hospitals have in common."""
    return Spec(CLASSES, MODALITIES, COLUMNS, Grid(size))


def write_types(
    root: Path,
    profile: Hospital,
    seed: int,
    patients: int | None = None,
    shape: Shape = (40, 40, 40),
    priors: Sequence[float] = (1.0, 1.0, 1.0),
    strength: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the patients of one hospital and return `root`.

    It is a folder that `open_labelled` reads. Patient i depends on (profile, seed,
    shape, priors, strength, i) alone.
    priors: The shares of the types at this hospital, in any scale; 0 is absent.
    strength: See synthetic/phantom_ehr.py.
    progress: Called with (patients done, patients in all).

    If they were finished before with the same parameters, nothing is written; if they
    were interrupted or have other parameters, they are written again. DataRefused is
    raised if root holds anything but such phantoms, ConfigRefused for numbers out of
    range.
    """
    count = profile.patients if patients is None else patients
    share = np.asarray(priors, np.float64)
    sound = share.shape == (len(CLASSES),) and np.isfinite(share).all() and share.min() >= 0 and share.sum() > 0
    if count < 1 or len(shape) != 3 or min(shape) < SMALLEST or not sound or not 0 <= strength <= 2:
        raise ConfigRefused(
            "phantoms with a type",
            found=f"{count} patients of shape {tuple(shape)}, priors {tuple(priors)}, strength {strength}",
            expected=f"1 patient, axes of {SMALLEST} voxels or more, three shares (sum above 0), strength 0..2",
            fix="set these numbers within the limits",
        )
    parameters = {
        "version": VERSION,
        "profile": asdict(profile),
        "seed": seed,
        "shape": list(shape),
        "patients": count,
        "priors": [float(p) for p in priors],
        "strength": strength,
    }
    content = (
        json.dumps(
            {"what": "synthetic phantoms, not patients", "parameters": parameters},
            indent=1,
        )
        + "\n"
    )
    if _finished(root, content):
        return root
    rows = []
    for i in range(count):
        case = f"phantom-{profile.name}-p{i:03d}"
        kind, record = _patient(profile, seed, i, share / share.sum(), strength)
        images = {}
        for modality, image in make_slices(profile, seed, shape, i, kind).items():
            images[modality] = f"{case}_{modality}.png"
            write_picture(root / "images" / images[modality], image)
        rows.append(Row(case, case, CLASSES[kind], images, record))
        if progress is not None:
            progress(i + 1, count)
    grid = max(shape[:2])
    write_folder(
        root,
        Description(spec_of(grid), root.resolve() / "images", root / "cases.csv"),
        rows,
    )
    # Last: a cohort without the marker was interrupted, and is written again.
    files.write(root / MARKER, content)
    return root


def make_slices(
    profile: Hospital,
    seed: int,
    shape: Shape,
    index: int,
    kind: int,
) -> dict[str, NDArray[np.uint16]]:
    """Return one slice [H, W] per modality that the hospital has.

    Values are 0 outside the brain, 1 or more inside.
    """
    from scipy.ndimage import gaussian_filter

    tissue, labels = make_labels(replace(profile, quiet_every=10**9), seed, shape, index)
    plane = int(np.argmax(np.count_nonzero(labels, axis=(0, 1))))
    tissue = tissue[:, :, plane]
    rng = stream(seed, "phantom type scanner", profile.name, index)
    inside = tissue > 0
    texture = np.float32(TEXTURE) * smooth_noise(rng, tissue.shape, 1.2)
    spots = _spots(rng, tissue, profile.spots)
    sigma = [profile.blur_mm / 2.355 / step for step in profile.spacing_mm[:2]]
    table = contrast(profile, kind) + rng.normal(0, PATIENT_JITTER, (4, 6)).astype(np.float32)
    images = {}
    for row, modality in enumerate(MODALITIES):
        # Drawn for a missing modality too, so that the others do not depend on what is
        # missing.
        bias = np.exp(np.float32(profile.bias_field) * smooth_drift(rng, (*tissue.shape, 1))[:, :, 0])
        noise = rng.standard_normal(tissue.shape, dtype=np.float32) * np.float32(profile.noise)
        if modality in profile.missing:
            continue
        clean = np.concatenate([table[row, :1], table[row]])[tissue] + texture
        if modality in ("t2", "flair"):
            clean = np.where(spots, np.float32(0.9), clean)
        seen = np.maximum(gaussian_filter(clean, sigma, truncate=3.0) * bias + noise, 0)
        stored = np.clip(np.rint(profile.gain[row] * seen ** profile.gamma[row]), 1, 65535)
        images[modality] = np.where(inside, stored, 0).astype(np.uint16)
    return images


def contrast(profile: Hospital, kind: int) -> NDArray[np.float32]:
    """Return the hospital's contrast [4, 6] for a tumour of this type.

    A sign that the type lacks is erased from the sequences that would show it: without
    ring the rim in t1ce is as in t1, without halo the oedema in t2 and flair is as
    white matter there.
    """
    table = profile.table()
    t1, t1ce, t2, flair = range(4)
    white, oedema, rim = (TISSUES.index(name) for name in ("white", "oedema", "rim"))
    if not RING[kind]:
        table[t1ce, rim] = table[t1, rim]
    if not HALO[kind]:
        for row in (t2, flair):
            table[row, oedema] = table[row, white]
    return table


def _patient(
    profile: Hospital,
    seed: int,
    index: int,
    share: NDArray[np.float64],
    strength: float,
) -> tuple[int, dict[str, str]]:
    rng = stream(seed, "phantom type", profile.name, index)
    kind = int(rng.choice(len(CLASSES), p=share))
    return kind, draw_record(kind, rng, strength)


def _spots(rng: np.random.Generator, tissue: Labels, count: int) -> NDArray[np.bool_]:
    """Return single bright pixels in healthy white matter.

    A slice shows a fifth of the patient's.
    """
    spots = np.zeros(tissue.shape, bool)
    places = np.flatnonzero(tissue == 1 + TISSUES.index("white"))
    spots.flat[rng.choice(places, min(-(-count // 5), len(places)), replace=False)] = True
    return spots


def _finished(root: Path, content: str) -> bool:
    """Return whether root holds exactly these phantoms.

    If not, it is made ready for them, or refused.
    """
    ours = {FILE, "cases.csv", "images", MARKER}
    root.mkdir(parents=True, exist_ok=True)
    foreign = sorted(entry.name for entry in root.iterdir() if entry.name.removesuffix(".partial") not in ours)
    images = root / "images"
    foreign += [e.name for e in images.iterdir() if not e.name.startswith("phantom-")] if images.is_dir() else []
    if foreign:
        raise DataRefused(
            f"phantoms are not written into {root}",
            found=f"{len(foreign)} entries that are no phantoms, first {foreign[0]!r}",
            expected="an empty or new folder, or earlier phantoms",
            fix="name another folder",
        )
    marker = root / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == content:
        return True
    marker.unlink(missing_ok=True)
    for image in images.iterdir() if images.is_dir() else ():
        image.unlink()
    return False
