"""How would another scanner show a real image?

Copies get other contrast, bias field, blur and noise. Nothing is scanned again and no
physics is modelled: gamma, smooth drift, Gaussian blur and noise. The copies are
patient images like the originals: protect them in the same way. Masks are copied byte
for byte.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.core.errors import DataRefused
from wardround.core.rng import stream
from wardround.data.conventions import DEFAULT
from wardround.data.layouts import CaseFiles
from wardround.data.nifti import read_scan
from wardround.synthetic.anatomy import Field, smooth_drift


@dataclass(frozen=True)
class Scanner:
    """One simulated scanner.

    gamma_range: gamma is drawn within it per file kind (t1, flair, ...).
    bias_field: The standard deviation of the logarithm of the brightness drift.
    blur_voxels: The sigma of a Gaussian.
    noise: The standard deviation, as a fraction of that inside the head.
    """

    name: str
    gamma_range: tuple[float, float]
    bias_field: float
    blur_voxels: float
    noise: float


def scanner(name: str, seed: int) -> Scanner:
    """Return the scanner of one site, drawn from the seed."""
    rng = stream(seed, "scanner", name)
    middle = float(rng.choice([0.6, 0.8, 1.25, 1.6]))
    return Scanner(
        name=name,
        gamma_range=(round(middle * 0.85, 3), round(middle * 1.15, 3)),
        bias_field=round(float(rng.uniform(0.02, 0.25)), 3),
        blur_voxels=round(float(rng.uniform(0.0, 0.9)), 3),
        noise=round(float(rng.uniform(0.0, 0.2)), 3),
    )


def transform(volume: Field, device: Scanner, gamma: float, rng: np.random.Generator) -> Field:
    """Return the volume [H, W, D] as the scanner would show it.

    Voxels of exactly 0 stay 0, others are above 0. Brightness keeps its order before
    blur and noise. A volume of zeros is returned as it is.
    """
    from scipy.ndimage import gaussian_filter

    inside = volume != 0
    if not inside.any():
        return volume
    floor = min(float(volume[inside].min()), 0.0)
    scale = max(float(np.percentile(volume[inside] - floor, 99)), 1e-12)
    seen = np.where(inside, (volume - floor) / scale, 0) ** gamma
    if device.blur_voxels > 0:
        weight = gaussian_filter(inside.astype(np.float32), device.blur_voxels)
        seen = gaussian_filter(seen, device.blur_voxels) / np.maximum(weight, 1e-3)
    seen = seen * np.exp(device.bias_field * smooth_drift(rng, volume.shape))
    seen = seen + rng.standard_normal(volume.shape) * device.noise * float(seen[inside].std())
    return np.where(inside, np.maximum(seen, 1e-4) * scale, 0).astype(np.float32)


def copy_case(files: CaseFiles, data: Path, out: Path, device: Scanner, seed: int) -> None:
    """Write one case below `out` under the same relative paths as below `data`.

    Images become float32 with RAS voxel axes, and world coordinates are kept; the mask
    is copied byte for byte. DataRefused is raised for an unreadable image, and for NaN
    or inf in it.
    """
    import nibabel

    for path in sorted(set(files.images.values())):
        scan = read_scan(
            files.case,
            path,
            len(files.channel) if files.decathlon else None,
            np.float32,
        )
        if not np.isfinite(scan.data).all():
            raise DataRefused(
                f"case {files.case!r}, file {path.name}",
                found="NaN or inf",
                expected="finite numbers",
                fix="export the file again",
            )
        rng = stream(seed, "scanner", device.name, files.case, path.name)
        volumes = scan.data.reshape(*scan.data.shape[:3], -1).copy()
        for kind in (kind for kind, file in files.images.items() if file == path):
            gamma = float(stream(seed, "gamma", device.name, kind).uniform(*device.gamma_range))
            channel = files.channel[kind] or 0
            volumes[..., channel] = transform(volumes[..., channel], device, gamma, rng)
        image = nibabel.Nifti1Image(volumes.reshape(scan.data.shape), scan.affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, _make_room(out / path.relative_to(data)))
    if files.described is not None and files.described.is_file():
        shutil.copyfile(files.described, _make_room(out / files.described.relative_to(data)))
    if files.seg is not None:
        shutil.copyfile(files.seg, _make_room(out / files.seg.relative_to(data)))


def tumour_volume_mm3(files: CaseFiles) -> float:
    """Return the volume of all tumour labels of the case's mask together, in mm^3.

    A case without a mask has 0.
    """
    if files.seg is None:
        return 0.0
    scan = read_scan(files.case, files.seg, None, np.float32)
    meaning = (files.convention or DEFAULT).meaning
    tumour = np.isin(scan.data, [value for value, meant in meaning.items() if meant])
    return float(np.count_nonzero(tumour)) * abs(float(np.linalg.det(scan.affine[:3, :3])))


def _make_room(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
