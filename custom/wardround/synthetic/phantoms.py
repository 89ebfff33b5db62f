"""What is a cohort of phantom patients with masks?

The patients are real NIfTI files in BraTS layout. No person was scanned for them.

    <root>/phantom-north-p000/phantom-north-p000_{t1,t1ce,t2,flair,seg}.nii.gz
    <root>/record.csv       a record that fits the tumour in part (phantom_ehr.py),
                            for jobs that use one (ehr_table.py)
    <root>/phantoms.json    written last: all parameters, and the volume of every
                            region of every case in mm^3

Background is exactly 0 (as after skull stripping), the brain is 1 or more.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core import files
from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.rng import stream
from wardround.core.tables import csv_text
from wardround.data.ehr_table import PATIENT
from wardround.synthetic.anatomy import (
    Labels,
    add_tumour,
    brain,
    coordinates,
    place_tumour,
    semi_axes_mm,
    tumour_labels,
)
from wardround.synthetic.findings import add_findings
from wardround.synthetic.hospitals import HOSPITALS, Hospital, hospital
from wardround.synthetic.parts import case_name
from wardround.synthetic.phantom_ehr import COLUMNS, draw_record, kind_of
from wardround.synthetic.phantom_images import make_images

__all__ = [
    "HOSPITALS",
    "MARKER",
    "RECORD",
    "Hospital",
    "are_phantoms",
    "hospital",
    "write_cohort",
]

MARKER = "phantoms.json"
RECORD = "record.csv"
# Raised when the same parameters give other phantoms: older cohorts are then rewritten.
VERSION = 2
# Below this a tumour has no room for three nested parts.
SMALLEST = 12
# How much wider the range of tumour radii is, as a logarithm, for every unit of
# `patients_vary` above 1.
PATIENT_RADIUS = 0.10
Shape = tuple[int, int, int]


def are_phantoms(root: Path, cases: Iterable[str]) -> bool:
    """Return whether a folder says that its patients are synthetic.

    All cases must have a phantom's name too.
    """
    return (root / MARKER).is_file() and all(case.startswith("phantom-") for case in cases)


def write_cohort(
    root: Path,
    profile: Hospital,
    seed: int,
    shape: Shape = (40, 40, 40),
    patients: int | Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Write the patients of one hospital below `root` and return their folders.

    Patient i depends on (profile, seed, shape, i) alone: a larger cohort begins with
    the smaller one.
    patients: How many patients, the first ones; or the numbers of the patients, as
        `parts.patients_of_parts` gives them; None for as many as the profile says.
    progress: Called with (patients done, patients in all).

    If they were finished before with the same parameters, nothing is written; if they
    were interrupted or have other parameters, they are written again. DataRefused is
    raised, and nothing touched, if root holds anything but phantoms; ConfigRefused for
    a shape below 12 or fewer than 1 patient.
    """
    wish = profile.patients if patients is None else patients
    numbers = tuple(range(wish)) if isinstance(wish, int) else tuple(wish)
    many = len(numbers)
    if many < 1 or len(shape) != 3 or min(shape) < SMALLEST:
        raise ConfigRefused(
            "a cohort of phantoms",
            found=f"{many} patients of shape {tuple(shape)}",
            expected=f"at least 1 patient, three axes of at least {SMALLEST} voxels",
            fix="set these numbers within the limits",
        )
    wanted = {
        "version": VERSION,
        "profile": asdict(profile),
        "seed": seed,
        "shape": list(shape),
        "patients": many if isinstance(wish, int) else list(numbers),
    }
    parameters = json.loads(json.dumps(wanted))
    folders = tuple(root / case_name(profile, i) for i in numbers)
    if finished(root, parameters) and all(folder.is_dir() for folder in folders):
        return folders
    clear(root)
    volumes = {}
    for done, (i, folder) in enumerate(zip(numbers, folders, strict=True), 1):
        volumes[folder.name] = _write_case(folder, profile, seed, shape, i)
        if progress is not None:
            progress(done, many)
    files.write(root / RECORD, _record(profile, seed, dict(zip(numbers, volumes.items(), strict=True))))
    content = {
        "what": "synthetic phantoms, not patients",
        "parameters": parameters,
        "volumes_mm3": volumes,
    }
    # Last: a cohort without the marker was interrupted, and is written again.
    files.write(root / MARKER, json.dumps(content, indent=1) + "\n")
    return folders


def make_labels(
    profile: Hospital,
    seed: int,
    shape: Shape,
    index: int,
) -> tuple[Labels, Labels]:
    """Return (tissue map, BraTS labels) of patient `index`, [H, W, D] in RAS order.

    The tissue map has the values of anatomy.py, and those of findings.py above them.
    """
    rng = stream(seed, "phantom anatomy", profile.name, index)
    xyz = coordinates(shape, profile.spacing_mm)
    semi = semi_axes_mm(shape, profile.spacing_mm) * np.float32(rng.uniform(0.92, 1.0))
    tissue = brain(xyz, semi, rng)
    enhancing = (index + 1) % profile.quiet_every != 0
    wider = np.exp(PATIENT_RADIUS * profile.extra_variety)
    low, high = profile.tumour_radius_mm
    tumour = place_tumour(rng, semi, (float(low / wider), float(high * wider)), enhancing)
    labels = tumour_labels(xyz, tissue > 0, tumour, rng)
    tissue = add_tumour(tissue, labels)
    if profile.findings:
        beside = stream(seed, "phantom findings", profile.name, index)
        tissue = add_findings(tissue, labels, xyz, profile.findings, beside)
    return tissue, labels


def _write_case(
    folder: Path,
    profile: Hospital,
    seed: int,
    shape: Shape,
    index: int,
) -> dict[str, float]:
    tissue, labels = make_labels(profile, seed, shape, index)
    folder.mkdir(parents=True)
    for modality, image in make_images(profile, seed, index, tissue).items():
        save(folder / f"{folder.name}_{modality}.nii.gz", image, profile)
    save(folder / f"{folder.name}_seg.nii.gz", labels, profile)
    voxel = float(np.prod(profile.spacing_mm))
    regions = {
        "ET": labels == 4,
        "TC": (labels == 1) | (labels == 4),
        "WT": labels > 0,
        "brain": tissue > 0,
    }
    return {region: int(mask.sum()) * voxel for region, mask in regions.items()}


def _record(profile: Hospital, seed: int, volumes: dict[int, tuple[str, dict[str, float]]]) -> str:
    lines = [[PATIENT, *(column.header for column in COLUMNS.columns)]]
    for i, (case, volumes_mm3) in volumes.items():
        cells = draw_record(
            kind_of(volumes_mm3),
            stream(seed, "phantom record", profile.name, i),
        )
        lines.append([case, *(cells[column.name] for column in COLUMNS.columns)])
    return csv_text(lines)


def save(path: Path, volume: NDArray[Any], profile: Hospital) -> None:
    """Write a RAS volume in the hospital's own orientation.

    The world coordinates of every voxel stay the same.
    """
    import nibabel

    sign = np.array(
        [1 if a == b else -1 for a, b in zip(profile.orientation, "RAS", strict=True)],
    )
    half = (np.array(volume.shape) - 1) / 2 * np.array(profile.spacing_mm)
    affine = np.diag([*(sign * np.array(profile.spacing_mm)), 1.0])
    affine[:3, 3] = -sign * half
    image = nibabel.Nifti1Image(
        np.ascontiguousarray(volume[tuple(slice(None, None, int(s)) for s in sign)]),
        affine,
    )
    image.header.set_xyzt_units("mm")
    # mtime 0 keeps the time of writing out of the file, so that equal phantoms are
    # equal bytes.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def finished(root: Path, parameters: dict[str, Any]) -> bool:
    """Return whether `root` holds a complete cohort of exactly these parameters."""
    try:
        return bool(json.loads((root / MARKER).read_text())["parameters"] == parameters)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def clear(root: Path) -> None:
    """Remove an unfinished or different cohort, the marker first.

    DataRefused is raised for a folder that holds anything else.
    """
    root.mkdir(parents=True, exist_ok=True)
    entries = sorted(root.iterdir())
    ours = re.compile(
        rf"phantom-.+-p\d{{3,}}|({re.escape(MARKER)}|{re.escape(RECORD)})(\.partial)?",
    )
    foreign = [entry.name for entry in entries if not ours.fullmatch(entry.name)]
    if foreign:
        raise DataRefused(
            f"phantoms are not written into {root}",
            found=f"{len(foreign)} entries that are no phantoms, first {foreign[0]!r}",
            expected="an empty or new folder, or an earlier cohort of phantoms",
            fix="name another folder",
        )
    (root / MARKER).unlink(missing_ok=True)
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
