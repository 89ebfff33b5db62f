"""One image file as a small plane or slab of fixed size: PNG, JPEG or NIfTI.

Pictures are read with Pillow (matplotlib depends on it). Colour becomes grey, a
rotation that EXIF states is carried out, and what is transparent becomes the darkest
value of what is not. Images are scaled by area (each pixel is the mean of what it
covers) so that the longer side fills the size; the rest is padded with the darkest
value. Pixel spacing is not used.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.bounded import MOST_PICTURE, TooMuch, read_bytes
from wardround.core.errors import DataRefused
from wardround.data.nifti import read_scan

Field = NDArray[np.float32]

SUFFIXES = (".png", ".jpg", ".jpeg", ".nii", ".nii.gz")
FEWEST_PIXELS, MOST_PIXELS = 8, 8192
DARK = 0.1
CLIP_PERCENTILES = (0.5, 99.5)
CLIP = 5.0
_GREY = ("L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_COLOUR = ("1", "P", "PA", "LA", "RGB", "RGBA")
# Of 255: JPEG and palettes round the three channels of a grey picture a little apart.
GREY_WITHIN = 8


@dataclass(frozen=True)
class Grid:
    """What every image is brought to: [size, size], or a slab [depth, size, size] of a
    volume.

    size: pixels of the longer side.
    depth: 1 for a plane. More than 1 needs NIfTI volumes.
    span: with depth above 1, the planes are evenly spaced over this middle part of the
      stack (0.5: from a quarter to three quarters). It is fixed, so that no mask and no
      label has a say in which planes are taken.
    """

    size: int
    depth: int = 1
    span: float = 0.5

    @property
    def shape(self) -> tuple[int, ...]:
        """[size, size] or [depth, size, size]."""
        return (self.size, self.size) if self.depth == 1 else (self.depth, self.size, self.size)


def read_picture(case: str, path: Path, grid: Grid) -> Field:
    """Return the file as float32 of grid.shape, normalised.

    A NIfTI volume gives its middle plane along the third axis (RAS), or a slab (see
    Grid). A plane of a NIfTI file is [left-right, back-front]. Another suffix, an
    unreadable, not finite or constant image, a side outside 8..8192 pixels, and a
    picture where a slab is wanted are refused with DataRefused.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise _refused(
            case,
            path,
            "another kind of file",
            f"a name in {', '.join(SUFFIXES)}",
        )
    if name.endswith((".nii", ".nii.gz")):
        raw = planes(
            np.asarray(read_scan(case, path, None, np.float32).data, np.float32),
            grid,
        )
    elif grid.depth > 1:
        raise _refused(
            case,
            path,
            f"a picture, for a slab of {grid.depth} planes",
            "a NIfTI volume, or depth 1",
        )
    else:
        raw = decode(case, path)
    if not np.isfinite(raw).all():
        raise _refused(
            case,
            path,
            "pixels that are not finite (NaN or inf)",
            "finite intensities",
        )
    result = normalise(shrink(raw, grid.size))
    if not result.any():
        raise _refused(
            case,
            path,
            "a constant image",
            "an image with contrast; or leave the cell of the table empty",
        )
    return pad(result, grid.size)


def planes(volume: Field, grid: Grid) -> Field:
    """Return the planes [H, W] or [D, H, W] of a volume [H, W, N] that the grid names.
    Where N is below depth, planes repeat.
    """
    middle = 0.5 * (volume.shape[2] - 1)
    if grid.depth == 1:
        return np.asarray(volume[:, :, int(middle)], np.float32)
    away = np.linspace(-grid.span, grid.span, grid.depth) * middle
    return np.moveaxis(volume[:, :, np.rint(middle + away).astype(int)], 2, 0)


def shrink(raw: Field, size: int) -> Field:
    """Return [..., H, W] scaled by area so that the longer side is `size`. The mean of
    a square image stays.
    """
    h, w = raw.shape[-2:]
    scale = size / max(h, w)
    rows, columns = (_overlap(n, max(1, round(n * scale))) for n in (h, w))
    return np.asarray(rows @ raw @ columns.T, np.float32)


def normalise(raw: Field) -> Field:
    """Return (raw - mean) / standard deviation, within +-5. Both are taken over what is
    not dark, between its 0.5 and 99.5 percentiles.

    Dark is whatever lies below a tenth of the way from the 1st to the 99th percentile:
    air, or a black frame. a * raw + b with a > 0 gives the same result up to rounding;
    a constant image gives zeros.
    """
    low, high = np.percentile(raw, (1, 99))
    inside = raw[raw >= low + DARK * (high - low)].astype(np.float64)
    values = np.clip(inside, *np.percentile(inside, CLIP_PERCENTILES))
    deviation = float(values.std())
    if deviation <= 1e-6 * max(abs(float(values.mean())), 1e-30):
        values, deviation = raw.astype(np.float64), float(raw.std())
    if deviation <= 1e-6 * max(abs(float(values.mean())), 1e-30):
        return np.zeros(raw.shape, np.float32)
    return np.asarray(
        np.clip((raw - values.mean()) / deviation, -CLIP, CLIP),
        np.float32,
    )


def pad(image: Field, size: int) -> Field:
    """Return [..., size, size] with the image in the middle and its darkest value
    around it.
    """
    h, w = image.shape[-2:]
    result = np.full((*image.shape[:-2], size, size), image.min(), np.float32)
    top, left = (size - h) // 2, (size - w) // 2
    result[..., top : top + h, left : left + w] = image
    return result


def decode(case: str, path: Path) -> Field:
    """Return the pixels [H, W] of a PNG or JPEG file in grey.

    Transparent pixels take the darkest value of those that are not; pixels that are so
    in part take it in part. An EXIF rotation is carried out. An unreadable file,
    another mode or size, false colours (a palette that is not grey), and a picture with
    nothing opaque are refused with DataRefused.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(
            io.BytesIO(read_bytes(path, MOST_PICTURE)),
            formats=("PNG", "JPEG"),
        ) as picture:
            if not all(FEWEST_PIXELS <= n <= MOST_PIXELS for n in picture.size):
                found = f"{picture.size[0]} x {picture.size[1]} pixels"
                raise _refused(
                    case,
                    path,
                    found,
                    f"{FEWEST_PIXELS} to {MOST_PIXELS} pixels per side",
                )
            frames = int(getattr(picture, "n_frames", 1))
            if frames > 1:
                raise _refused(
                    case,
                    path,
                    f"{frames} pictures in one file",
                    "one picture",
                )
            if picture.mode not in _GREY + _COLOUR:
                raise _refused(
                    case,
                    path,
                    f"a picture of mode {picture.mode}",
                    "grey or RGB",
                )
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in ("P", "PA"):
                _require_grey_palette(case, path, upright)
            if "A" in upright.getbands() or "transparency" in upright.info:
                return _on_dark(case, path, upright)
            return np.asarray(
                upright if upright.mode in _GREY else upright.convert("L"),
                np.float32,
            )
    except TooMuch as error:
        raise _refused(
            case,
            path,
            str(error),
            f"a picture of {MOST_PICTURE} bytes at most",
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        found = getattr(error, "strerror", None) or f"not readable ({type(error).__name__})"
        raise _refused(
            case,
            path,
            str(found),
            "a complete PNG or JPEG picture",
        ) from error


def _require_grey_palette(case: str, path: Path, picture: Any) -> None:
    """Raise DataRefused for false colours: their brightness is not that of the image."""
    colours = np.asarray(picture.convert("RGBA"), np.int16)
    seen = colours[colours[..., 3] > 0][:, :3]
    if len(seen) and int((seen.max(axis=1) - seen.min(axis=1)).max()) > GREY_WITHIN:
        raise _refused(
            case,
            path,
            "a palette of colours: perhaps false colours",
            "grey values, or RGB",
        )


def _on_dark(case: str, path: Path, picture: Any) -> Field:
    """Return the grey values of a picture with transparency in front of the darkest
    value that is opaque.
    """
    if picture.mode in _GREY and isinstance(picture.info.get("transparency"), int):
        grey = np.asarray(picture, np.float32)
        alpha = (grey != picture.info["transparency"]).astype(np.float32)
    else:
        both = np.asarray(picture.convert("RGBA").convert("LA"), np.float32)
        grey, alpha = both[..., 0], both[..., 1] / 255
    if not (alpha == 1).any():
        raise _refused(
            case,
            path,
            "no pixel that is opaque",
            "an image that can be seen",
        )
    return np.asarray(alpha * grey + (1 - alpha) * grey[alpha == 1].min(), np.float32)


def write_picture(path: Path, image: NDArray[np.uint16]) -> None:
    """Write [H, W] as a grey PNG of 16 bits. Its folder is made."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG", compress_level=1)


def _overlap(before: int, after: int) -> Field:
    """Return [after, before]: the share of each old pixel in each new one. Rows have
    sum 1.
    """
    edges = np.arange(after + 1) * (before / after)
    start = np.arange(before)
    shared = np.minimum(edges[1:, None], start + 1) - np.maximum(
        edges[:-1, None],
        start,
    )
    return np.asarray(np.clip(shared, 0, None) * (after / before), np.float32)


def _refused(case: str, path: Path, found: str, expected: str) -> DataRefused:
    return DataRefused(
        f"case {case!r}, file {path.name}",
        found=found,
        expected=expected,
        fix="export the file again from where it came from",
    )
