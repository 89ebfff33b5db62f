"""One NIfTI file, from bytes to an array in RAS orientation. Everything that can be
wrong with a file is found here.

The header is read first, and what it announces is compared with MOST_VALUES. Then the
whole file is read and decompressed at once, so that a damaged end or a wrong checksum
cannot pass unseen, but never further than the header says.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wardround.core.bounded import MIB, TooMuch, gunzip, gunzip_head, read_bytes
from wardround.core.errors import DataRefused

FEWEST_VOXELS, MOST_VOXELS = 8, 1024
MOST_VALUES = 2**28  # of one file, all channels: 1024 x 512 x 512 voxels; a real head has a tenth of it
MOST_BYTES = 8 * MOST_VALUES + MIB
GZIP = b"\x1f\x8b"
# HEAD covers the header of NIfTI-2 (540 bytes) and the four bytes behind it. SLACK is
# for extensions and padding.
HEAD, SLACK = 544, MIB
LEAST_MM, MOST_MM = 0.2, 20.0
# Of the product of the spacings; see `read_scan`.
LEAST_ANGLE = 0.1
# Relative: pixdim is float32, and tools round it.
SAME_STEP = 0.01
# of direction cosines: about three degrees, as a qform is stored with less precision
# than a sform
SAME_AXES = 0.05
Read = Callable[[Path], bytes]


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file. A pipe, a device, and more than MOST_BYTES
    raise TooMuch.
    """
    return read_bytes(path, MOST_BYTES)


@dataclass(frozen=True)
class Scan:
    """A file's name, its data [H, W, D] or [H, W, D, C] in RAS, and the affine [4, 4]
    from voxel indices to mm.
    """

    file: str
    data: NDArray[Any]
    affine: NDArray[np.float64]


def read_scan(case: str, path: Path, channels: int | None, dtype: DTypeLike | None, read: Read = read_file) -> Scan:
    """Return the file's content in RAS. Oblique axes are rotated by exchange and
    reversal of axes only: nothing is resampled.

    channels: None for a 3-D file (further axes of length 1 are dropped), C for a 4-D
      file.
    dtype: that of the result; None as stored.
    read: returns the bytes (a service has them in memory).

    Refused with DataRefused: a file that is missing, unreadable, no regular file,
    empty, truncated, not gzip, or has a bad checksum or more than MOST_VALUES values;
    no NIfTI-1 or NIfTI-2 single file; complex or colour data; a wrong number of axes or
    channels; an axis outside 8..1024 voxels; an affine that is not finite or has
    (nearly) parallel axes (|det| below 0.1 of the product of the spacings); spacing
    outside 0.2..20 mm; a header that contradicts itself.
    """
    import nibabel

    image = parse(case, path, read)
    shape = tuple(int(n) for n in image.shape)
    grid, rest = shape[:3], shape[3:]
    while channels is None and rest and rest[-1] == 1:
        rest = rest[:-1]
    if len(grid) != 3 or rest != (() if channels is None else (channels,)):
        wanted = "3 axes" if channels is None else f"4 axes with {channels} channels"
        raise _refused(case, path, f"shape {shape}", wanted, "split or convert the file")
    affine = np.asarray(image.affine, np.float64)
    check_geometry(case, path.name, grid, affine)
    _require_one_geometry(case, path, image, affine)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.asarray(image.dataobj) if dtype is None else np.asarray(image.dataobj, dtype)
    except (OSError, EOFError, ValueError, TypeError, OverflowError) as error:
        raise _refused(
            case, path, f"voxels that cannot be read ({type(error).__name__})", "a NIfTI file", _AGAIN
        ) from error
    axes = nibabel.orientations.io_orientation(affine)
    return Scan(
        path.name,
        nibabel.orientations.apply_orientation(data.reshape(grid + rest), axes),
        affine @ nibabel.orientations.inv_ornt_aff(axes, grid),
    )


def parse(case: str, path: Path, read: Read = read_file) -> Any:
    """Return the nibabel image of a file whose bytes are complete. Its voxels are not
    decoded yet.
    """

    content = _content(case, path, read)
    zipped = content.startswith(GZIP)
    head = _unzipped(case, path, lambda: gunzip_head(content, HEAD)) if zipped else content[:HEAD]
    kind = _kind(case, path, head)
    try:
        header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
        shape = header.get_data_shape()
        stored = header.get_data_dtype()
        start = int(header["vox_offset"])
        negative = any(n < 0 for n in shape) or start < 0
        values = int(np.prod(shape, dtype=object))
        needed = start + values * stored.itemsize
    except _header_errors() as error:
        raise _refused(case, path, f"a header that makes no sense: {error}", "a NIfTI file", _AGAIN) from error
    if values > MOST_VALUES or needed > MOST_BYTES:
        found = f"a header that announces {values} values in {needed} bytes (shape {tuple(map(int, shape))})"
        raise _refused(case, path, found, f"{MOST_VALUES} values at most", "cut the image to the head, or resample it")
    if zipped:
        content = _unzipped(case, path, lambda: gunzip(content, max(needed, 0) + SLACK))
    elif len(content) > max(needed, 0) + SLACK:
        found = f"{len(content)} bytes, the header announces {needed}"
        raise _refused(case, path, found, "a file that ends with its voxels", _AGAIN)
    try:
        image = kind.from_bytes(content)
    except _header_errors() as error:
        raise _refused(case, path, f"a header that makes no sense: {error}", "a NIfTI file", _AGAIN) from error
    if stored.kind not in "iuf":
        raise _refused(case, path, f"data of type {stored}", "real numbers", "convert the file")
    if negative or len(content) < needed:
        found = (
            f"{len(content)} bytes after decompression, the header (shape {tuple(map(int, shape))}) announces {needed}"
        )
        raise _refused(case, path, f"truncated: {found}", "a complete file", _AGAIN)
    return image


def check_geometry(case: str, file: str, grid: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    """Raise DataRefused unless the grid has 8..1024 voxels per axis, and the affine
    three axes of 0.2..20 mm.
    """
    if not all(FEWEST_VOXELS <= n <= MOST_VOXELS for n in grid):
        raise _refused(
            case,
            Path(file),
            f"shape {grid}",
            f"{FEWEST_VOXELS} to {MOST_VOXELS} voxels per axis",
            "is it a single slice or a thumbnail?",
        )
    if not np.isfinite(affine).all():
        raise _refused(
            case, Path(file), "an affine that is not finite", "finite numbers", "write the file again with its geometry"
        )
    steps = spacing_mm(affine)
    with np.errstate(over="ignore", invalid="ignore"):
        volume = abs(float(np.linalg.det(affine[:3, :3])))
        product = float(np.prod(steps))
    if not volume > LEAST_ANGLE * product:
        raise _refused(
            case,
            Path(file),
            "a singular affine: two axes are parallel, or one is zero",
            "an invertible affine",
            "write the file again with its geometry",
        )
    if not all(LEAST_MM <= step <= MOST_MM for step in steps):
        found = "spacing " + " x ".join(f"{step:.4g}" for step in steps) + " mm"
        raise _refused(
            case, Path(file), found, f"{LEAST_MM} to {MOST_MM} mm per voxel", "correct the units or the affine"
        )


def _require_one_geometry(case: str, path: Path, image: Any, affine: NDArray[np.float64]) -> None:
    """Raise DataRefused for a header that says two things: sform and pixdim, sform and
    qform, a unit that is not mm.
    """
    header = image.header
    steps, written = spacing_mm(affine), [abs(float(step)) for step in header["pixdim"][1:4]]
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    found = None
    if int(header["xyzt_units"]) & 7 in (1, 3):
        found = (
            f"the unit {'metre' if int(header['xyzt_units']) & 7 == 1 else 'micrometre'}, with steps of {_mm(steps)}"
        )
    elif not all(abs(step - other) <= SAME_STEP * step for step, other in zip(steps, written, strict=True)):
        found = f"{_mm(steps)} mm by the sform, {_mm(written)} mm by pixdim"
    elif sform and qform and _differ(affine, np.asarray(image.get_qform(), np.float64), sform == qform):
        found = "axes that sform and qform turn or mirror in two ways"
    if found:
        raise _refused(
            case,
            path,
            found,
            "one geometry",
            "find out which is right, and write it into both (nibabel: set_sform, set_qform)",
        )


def _differ(one: NDArray[np.float64], two: NDArray[np.float64], same_space: bool) -> bool:
    """Return whether two affines mirror each other or, in the same space, turn the axes
    differently.
    """
    if np.linalg.det(one[:3, :3]) * np.linalg.det(two[:3, :3]) < 0:
        return True
    turned = np.abs(one[:3, :3] / spacing_mm(one) - two[:3, :3] / spacing_mm(two)).max()
    return bool(same_space and turned > SAME_AXES)


def _mm(steps: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in steps)


def spacing_mm(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the length in mm of one step along each axis of the grid."""
    with np.errstate(over="ignore"):
        x, y, z = (float(step) for step in np.sqrt(np.sum(np.square(affine[:3, :3]), axis=0)))
    return x, y, z


_AGAIN = "export the file again from where it came from, or fetch it from a copy whose checksum is right"


def _header_errors() -> tuple[type[Exception], ...]:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    return (
        ImageFileError,
        HeaderDataError,
        WrapStructError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        OverflowError,
        KeyError,
    )


def _kind(case: str, path: Path, head: bytes) -> Any:
    import nibabel

    if head[344:348] == b"n+1\0":
        return nibabel.Nifti1Image
    if head[4:8] == b"n+2\0":
        return nibabel.Nifti2Image
    raise _refused(
        case, path, "no NIfTI header (wrong magic)", "a NIfTI-1 or NIfTI-2 single file", "convert the file to NIfTI"
    )


def _content(case: str, path: Path, read: Read) -> bytes:
    """Return the bytes of a file as they are stored. Compressed data without .gz in the
    name, or the reverse, are refused with DataRefused.
    """
    try:
        content = read(path)
    except TooMuch as error:
        raise _refused(case, path, str(error), f"a NIfTI file of {MOST_BYTES} bytes at most", _AGAIN) from error
    except IsADirectoryError as error:
        raise _refused(case, path, "a folder", "a file", "put the file itself in its place") from error
    except OSError as error:
        found = f"not readable: {error.strerror or type(error).__name__}"
        raise _refused(case, path, found, "a readable file", "check the path and its permissions") from error
    if not content:
        raise _refused(case, path, "an empty file", "a NIfTI file", _AGAIN)
    zipped = content.startswith(GZIP)
    if zipped != path.name.lower().endswith(".gz"):
        found = "gzip data under a name without .gz" if zipped else "a name in .gz, but no gzip data"
        raise _refused(
            case,
            path,
            found,
            "a compressed .nii.gz or an uncompressed .nii",
            "give the file the ending that its content has",
        )
    return content


def _unzipped(case: str, path: Path, work: Callable[[], bytes]) -> bytes:
    try:
        return work()
    except TooMuch as error:
        found = f"{error}, which is more than its header announces"
        raise _refused(case, path, found, "a file that ends with its voxels", _AGAIN) from error
    except EOFError as error:
        raise _refused(case, path, "truncated gzip data", "a complete file", _AGAIN) from error
    except (OSError, zlib.error) as error:
        raise _refused(case, path, f"damaged gzip data ({error})", "a complete file", _AGAIN) from error


def _refused(case: str, path: Path, found: str, expected: str, fix: str) -> DataRefused:
    return DataRefused(f"case {case!r}, file {path.name}", found=found, expected=expected, fix=fix)
