"""How are the images of one patient augmented, so that their class stays what it is?

Images are z-scores whose background is exactly 0, [M, H, W] or [M, D, H, W] with M
sequences; those that are missing are all zeros. In this order, the first four alike for
all sequences, because a patient lies in the scanner once:

    flip      left and right change places, with this probability
    shift     whole pixels along rows and columns, up to this share of a side
    rotation  in the plane, about the middle, up to so many degrees
    zoom      a factor of 1 - zoom to 1 + zoom
    scale     the values of each sequence times a factor of 1 - scale to 1 + scale
    offset    a value of -offset to offset added to each sequence
    noise     standard normal numbers times a value of 0 to noise, drawn per sequence

What comes in from outside is 0. Intensities change only where the image is not 0:
background and missing sequences stay exactly 0. A strength of 0 draws nothing for
rotation, zoom, flip and noise, so that they can be added to a job without changing the
other draws.

Sources: the list of nnU-Net (Isensee et al. 2021) without what changes the look of a
lesion; Touvron et al. 2021, arXiv:2012.12877, for how much a small ViT depends on it.
Deviations: 1. Rotation and zoom are one bilinear interpolation, and shifts are whole
pixels, so that an image that is only shifted keeps its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from wardround.core.errors import ConfigRefused
from wardround.tasks.turning import in_plane

Images = NDArray[np.float32]


@final
@dataclass(frozen=True)
class PictureAugment:
    """Probability and largest strengths. The defaults are the usual, small ones.

    flip: 0 to 1.
    shift: 0 to 0.5, a share of a side.
    rotation: 0 to 180 degrees.
    zoom, scale: 0 to below 1.
    offset, noise: 0 or more.

    Values outside these ranges raise ConfigRefused.
    """

    flip: float = 0.0
    shift: float = 0.06
    rotation: float = 0.0
    zoom: float = 0.0
    scale: float = 0.1
    offset: float = 0.1
    noise: float = 0.0

    def __post_init__(self) -> None:
        limits = (1.0, 0.5, 180.0, 0.99, 0.99, 10.0, 10.0)
        if not all(0 <= value <= limit for value, limit in zip(astuple(self), limits, strict=True)):
            raise ConfigRefused(
                "the augmentation of images",
                found=str(self),
                expected="flip 0 to 1, shift 0 to 0.5, rotation 0 to 180, zoom and scale 0 to below 1, offset and "
                "noise 0 to 10",
                fix="set `sampling.augmentation` in the job, as --set 'sampling.augmentation={flip: 0.5}'",
            )

    @classmethod
    def of(cls, said: object) -> PictureAugment:
        """Return the usual strengths with those that a job's settings name.

        ConfigRefused is raised for anything but numbers under the names above.
        """
        names = cls.__dataclass_fields__
        if not (isinstance(said, Mapping) and set(said) <= set(names) and _are_numbers(said)):
            raise ConfigRefused(
                "the augmentation of images",
                found=f"a {type(said).__name__} with other names, or with values that are no numbers",
                expected=f"numbers for some of {', '.join(names)}",
                fix="set `sampling.augmentation` in the job, as --set 'sampling.augmentation={flip: 0.5}'",
            )
        return cls(**{name: float(value) for name, value in said.items()})

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return new images of the same shape; the same state of rng gives the same.

        images: float32 [M, H, W] or [M, D, H, W]; they are not changed.
        """
        if self.flip and rng.random() < self.flip:
            images = images[..., ::-1]
        moved = self._shifted(images, rng)
        if self.rotation or self.zoom:
            moved = self._turned(moved, rng)
        # Drawn for every strength, 0 too: the draws behind them do not depend on it.
        shape = (len(images),) + (1,) * (images.ndim - 1)
        factor = rng.uniform(1 - self.scale, 1 + self.scale, shape).astype(np.float32)
        offset = rng.uniform(-self.offset, self.offset, shape).astype(np.float32)
        inside = moved != 0
        found: Images = moved * factor + offset * inside
        if self.noise:
            sigma = rng.uniform(0, self.noise, shape).astype(np.float32)
            found += sigma * rng.standard_normal(images.shape, np.float32) * inside
        return found

    def _shifted(self, images: Images, rng: np.random.Generator) -> Images:
        height, width = images.shape[-2:]
        most = (int(self.shift * height), int(self.shift * width))
        rows, columns = (int(rng.integers(-n, n + 1)) for n in most)
        moved = np.zeros_like(images)
        to, of = _overlap(rows, height)
        to_, of_ = _overlap(columns, width)
        moved[..., to, to_] = images[..., of, of_]
        return moved

    def _turned(self, images: Images, rng: np.random.Generator) -> Images:
        angle = math.radians(float(rng.uniform(-self.rotation, self.rotation)))
        factor = float(rng.uniform(1 - self.zoom, 1 + self.zoom))
        return turned(images, angle, factor)


def turned(images: Images, angle: float, factor: float) -> Images:
    """Return images turned about their middle and enlarged, bilinearly interpolated.

    images: float32 [..., H, W].
    angle: In radians; pi / 2 is `numpy.rot90` of square images.
    factor: Above 1 enlarges.
    """
    height, width = images.shape[-2:]
    # In float64 until the grid is made of it.
    parts = math.cos(angle) / factor, math.sin(angle) / factor
    cos, sin = (torch.tensor([part], dtype=torch.float64) for part in parts)
    planes = torch.from_numpy(np.ascontiguousarray(images)).reshape(1, -1, height, width)
    rows = in_plane(cos, sin, height, width).to(torch.float32)
    grid = functional.affine_grid(rows, [1, 1, height, width], align_corners=False)
    found = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    made: Images = found.reshape(images.shape).numpy()
    return made


def _are_numbers(said: Mapping[object, object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in said.values())


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Return (where the shifted rows land, where they come from) along one axis."""
    return (
        slice(max(0, shift), size + min(0, shift)),
        slice(max(0, -shift), size + min(0, -shift)),
    )
