"""One case as arrays, and a predicted mask back as a file."""

from __future__ import annotations

import gzip
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.core.files import write as write_file
from wardround.data.cases import decided
from wardround.data.conventions import DEFAULT
from wardround.data.labels import Labels, check_label_kind, label_values, unify
from wardround.data.layouts import CaseFiles
from wardround.data.nifti import (
    Read,
    Scan,
    check_geometry,
    parse,
    read_file,
    read_scan,
    spacing_mm,
)

# Of the smallest spacing: tools round affines, but half a voxel would move an outline.
GRID_TOLERANCE = 0.05
# Characters in `descrip` of a NIfTI header: 80 bytes, the last of them 0.
NOTICE_ROOM = 79


@dataclass(frozen=True)
class Volume:
    """One case in RAS orientation.

    image: [C, H, W, D] in the order of the task's images (brain MRI: t1, t1ce, t2,
      flair), normalised; a missing one is all zeros. It is float32, or from a cache a
      read-only float16 memory map (convert the patch that is cut out:
      `patch.astype(np.float32)`).
    present: bool [C].
    labels: uint8 [H, W, D] in the unified convention of labels.py; None where no mask
      was read.
    affine: float64 [4, 4], from voxel indices to mm.
    spacing_mm: along the three axes.
    """

    case: str
    image: NDArray[np.floating]
    present: NDArray[np.bool_]
    labels: Labels | None
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]


def read_case(files: CaseFiles, label_kind: str) -> Volume:
    """Return images and labels of a case.

    label_kind: brats or whole_tumour.

    A case without a mask, and anything wrong with a file (nifti.py), its grid (see
    `read_images`) or label values (labels.py), is refused with DataRefused.
    """
    volume, values, _ = read_any_kind(files)
    check_label_kind(
        files.case,
        files.seg.name if files.seg else "",
        values,
        label_kind,
    )
    return volume


def read_any_kind(files: CaseFiles) -> tuple[Volume, frozenset[int], frozenset[int]]:
    """Return images and unified labels of a case, the values of its labels, and the
    values that are stored in the file.

    Any kind of mask is read. Where no convention is decided yet, the one that the files
    prove is used (conventions.py).
    """
    if files.seg is None:
        raise DataRefused(
            f"case {files.case!r}",
            found="no seg file",
            expected="a mask",
            fix="add the mask, or leave the case out",
        )
    volume = read_images(files)
    scan = read_scan(files.case, files.seg, None, None)
    _require_same_grid(files.case, volume.image.shape[1:], volume.affine, scan)
    convention = files.convention or decided(files).convention
    labels, stored = unify(
        files.case,
        scan.file,
        np.ascontiguousarray(scan.data),
        convention or DEFAULT,
    )
    return replace(volume, labels=labels), label_values(labels), stored


def read_images(files: CaseFiles, read: Read = read_file) -> Volume:
    """Return the images of a case, with labels None.

    read: returns the bytes of a file.

    Files may be stored in different orders of axes. In RAS all must have the same
    shape, and no voxel may lie more than 5 % of the smallest spacing away from where
    another file puts it. Anything wrong with a file (nifti.py), different grids, and
    intensities that are constant or not finite are refused with DataRefused.
    """
    image: NDArray[np.float32] | None = None
    names = files.source.names
    affine = np.eye(4)
    for path in dict.fromkeys(files.images.values()):
        scan = read_scan(
            files.case,
            path,
            len(files.images) if files.decathlon else None,
            np.float32,
            read,
        )
        if image is None:
            image = np.zeros((len(names), *scan.data.shape[:3]), np.float32)
            affine = scan.affine
        _require_same_grid(files.case, image.shape[1:], affine, scan)
        for modality, where in files.images.items():
            if where == path:
                index = files.channel[modality]
                raw = np.ascontiguousarray(
                    scan.data if index is None else scan.data[..., index],
                )
                image[names.index(modality)] = _normalised(
                    files,
                    scan.file,
                    modality,
                    raw,
                )
    if image is None:
        raise DataRefused(
            f"case {files.case!r}",
            found="no modality",
            expected=f"one of {names}",
            fix="add an image",
        )
    present = np.array([modality in files.images for modality in names])
    return Volume(files.case, image, present, None, affine, spacing_mm(affine))


def write_mask(
    path: Path, labels: Labels, reference: Path, enhancing_label: int | None = 4, *, notice: str = ""
) -> None:
    """Write the mask of `encode_mask` to a file, which appears complete or not at all.
    An older file is replaced.

    Refusals are those of encode_mask; a folder that cannot be written is refused with
    ConfigRefused.
    """
    _save(encode_mask(path.name, labels, reference, enhancing_label, notice=notice), path)


def encode_mask(
    name: str,
    labels: Labels,
    reference: Path,
    enhancing_label: int | None = 4,
    read: Read = read_file,
    *,
    notice: str = "",
) -> bytes:
    """Return the bytes of the file `name`: a NIfTI mask with the axes, shape and affine
    of the reference image, compressed if the name says so.

    labels: unified labels, uint8 [H, W, D] in RAS. Another type or shape, and values
      above 3, are refused with DataRefused.
    reference: an image, of which nothing but the geometry is used. One that cannot be
      read is refused with DataRefused.
    enhancing_label: the value for enhancing tumour in the file, 4 (BraTS) or 3 (BraTS
      2023), while 0, 1 and 2 stay; None for values of another task, which are written
      as they are. Another value, and a name that is not .nii or .nii.gz, are refused
      with ConfigRefused.
    read: returns the bytes of the reference.
    notice: what the header says in `descrip`, where viewers show it: NOTICE_ROOM ASCII
      characters at most. Any other is refused with ConfigRefused.
    """
    import nibabel

    if enhancing_label not in (3, 4, None) or not name.lower().endswith(
        (".nii", ".nii.gz"),
    ):
        raise ConfigRefused(
            f"the mask {name}",
            found=f"enhancing_label {enhancing_label}, name {name}",
            expected="enhancing_label 3 or 4, a name in .nii or .nii.gz",
            fix="correct the arguments",
        )
    if len(notice) > NOTICE_ROOM or not notice.isascii():
        raise ConfigRefused(
            f"the notice in the mask {name}",
            found=f"{len(notice)} characters",
            expected=f"at most {NOTICE_ROOM}, all ASCII: NIfTI has no more room",
            fix="shorten the notice",
        )
    image = parse(name, reference, read)
    grid = tuple(int(n) for n in image.shape[:3])
    affine = np.asarray(image.affine, np.float64)
    check_geometry(name, reference.name, grid, affine)
    axes = nibabel.orientations.io_orientation(affine)
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"),
        axes,
    )
    stored = nibabel.orientations.apply_orientation(labels, back) if labels.ndim == len(grid) else labels
    highest = int(labels.max(initial=0))
    if labels.dtype != np.uint8 or stored.shape != grid or (enhancing_label is not None and highest > 3):
        raise DataRefused(
            f"a mask for {reference.name}",
            found=f"{labels.dtype} {stored.shape}, values up to {highest}",
            expected=f"uint8 {grid}, values 0..3",
            fix="predict on the images that the reference belongs to",
        )
    written = stored if enhancing_label is None else np.array([0, 1, 2, enhancing_label], np.uint8)[stored]
    mask = nibabel.Nifti1Image(written, affine)
    header = image.header
    mask.header.set_xyzt_units("mm")
    mask.header["descrip"] = notice.encode("ascii")
    mask.set_sform(affine, code=int(header["sform_code"]) or 1)
    if int(header["qform_code"]):
        mask.set_qform(header.get_qform(), code=int(header["qform_code"]))
    content: bytes = mask.to_bytes()
    return gzip.compress(content, 6, mtime=0) if name.lower().endswith(".gz") else content


def _normalised(files: CaseFiles, file: str, modality: str, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    case = files.case
    if not np.isfinite(raw).all():
        found = f"{int(np.count_nonzero(~np.isfinite(raw)))} voxels of {modality} that are not finite (NaN or inf)"
        raise DataRefused(
            f"case {case!r}, file {file}",
            found=found,
            expected="finite intensities",
            fix="export the image again from where it came from",
        )
    image = files.source.normaliser(raw)
    if not image.any():
        raise DataRefused(
            f"case {case!r}, file {file}",
            found=f"a constant image: {modality} has no contrast",
            expected="an image of a patient",
            fix="export the image again; or move the file out of the data folder: missing modalities are allowed",
        )
    return image


def _require_same_grid(case: str, shape: tuple[int, ...], affine: NDArray[np.float64], scan: Scan) -> None:
    """Raise DataRefused unless the scan's voxels lie where the case's first image has
    them (both in RAS).
    """
    other = scan.data.shape[:3]
    fix = "register the files of a case to one grid, and export them together"
    if other != shape:
        raise DataRefused(
            f"case {case!r}, file {scan.file}",
            found=f"shape {other}",
            expected=f"shape {shape} as the first image (in RAS)",
            fix=fix,
        )
    # An affine map moves no inner voxel further than a corner.
    corners = np.array(
        [(*corner, 1.0) for corner in itertools.product(*((0, n - 1) for n in shape))],
    )
    shift = float(np.linalg.norm(corners @ (scan.affine - affine)[:3].T, axis=1).max())
    allowed = GRID_TOLERANCE * min(spacing_mm(affine))
    if shift > allowed:
        raise DataRefused(
            f"case {case!r}, file {scan.file}",
            found=f"an affine that puts voxels up to {shift:.3g} mm away from where the first image has them",
            expected=f"the same grid within {allowed:.3g} mm",
            fix=fix,
        )


def _save(content: bytes, path: Path) -> None:
    """Write a file that appears whole, for this user only: it is about a patient."""
    try:
        write_file(path, content, private=True)
    except OSError as error:
        raise ConfigRefused(
            f"the mask {path}",
            found=f"cannot be written: {error.strerror or type(error).__name__}",
            expected="a folder that this process may write to",
            fix="choose another path",
        ) from error
