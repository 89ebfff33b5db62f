"""How do a patient's images and table columns become ONE flat vector?

A network of ours is given one tensor. The order is images [M, *size], presence [M],
values [F], known [F]. An absent modality is zeros with presence 0; an unknown value is
0 with known 0. `unpack` zeroes what is marked as absent, whatever stands there
(not-a-number too), so that nothing behind it can see the difference. Which modalities
are dropped in training is decided when a batch is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from wardround.core.errors import ConfigRefused, DataRefused, ModelRefused


class Case(NamedTuple):
    """A batch of patients.

    images: [B, M, *size].
    presence: 1 or 0 for each image, [B, M].
    values: [B, F].
    known: 1 or 0 for each value, [B, F].
    """

    images: Tensor
    presence: Tensor
    values: Tensor
    known: Tensor


@final
@dataclass(frozen=True)
class CaseVector:
    """The layout of a patient's vector of `length` float32.

    modalities: The number of images, 0 or more.
    size: (H, W) or (D, H, W) of an image.
    columns: The number of values, 0 or more.

    ConfigRefused is raised for counts that are not whole or negative, for another size,
    and for neither modality nor column.
    """

    modalities: int
    size: tuple[int, ...]
    columns: int

    def __post_init__(self) -> None:
        size = tuple(self.size) if isinstance(self.size, list | tuple) else ()
        object.__setattr__(self, "size", size)
        for what in ("modalities", "columns"):
            if not is_count(getattr(self, what), 0):
                raise _refused(what, getattr(self, what), "a whole number, 0 or more")
        if len(size) not in (2, 3) or not all(is_count(n, 1) for n in size):
            raise _refused(
                "size",
                self.size,
                "(H, W) or (D, H, W) in whole numbers above 0, for example [128, 128]",
            )
        if self.modalities + self.columns == 0:
            raise _refused(
                "modalities and columns",
                "0 and 0",
                "at least one modality or one column",
            )

    @property
    def length(self) -> int:
        return sum(self._parts)

    @property
    def _parts(self) -> tuple[int, int, int, int]:
        return (
            self.modalities * math.prod(self.size),
            self.modalities,
            self.columns,
            self.columns,
        )

    def pack(self, images: Tensor, presence: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return [B, length], float32, a new tensor; what is absent becomes 0.

        ModelRefused is raised for shapes that do not fit, DataRefused for a patient
        with nothing at all.
        """
        case = Case(images, presence, values, known)
        shapes = (
            (self.modalities, *self.size),
            (self.modalities,),
            (self.columns,),
            (self.columns,),
        )
        for what, part, shape in zip(Case._fields, case, shapes, strict=True):
            if part.shape != (len(images), *shape):
                raise _misfit(f"the {what} of a batch", tuple(part.shape), ("B", *shape))
        # Packed, unpacked and packed again, so that absent parts are zeros in the
        # vector itself.
        flat = torch.cat([part.to(torch.float32).flatten(1) for part in case], 1)
        return torch.cat([part.flatten(1) for part in self.unpack(flat)], 1)

    def unpack(self, flat: Tensor) -> Case:
        """Return the parts of [B, length]; what is absent is 0, marks are 0 or 1.

        ModelRefused is raised for another length, DataRefused for a patient with
        nothing at all.
        """
        if flat.dim() != 2 or flat.shape[1] != self.length:
            raise _misfit("a batch of patients", tuple(flat.shape), ("B", self.length))
        images, presence, values, known = torch.split(flat, list(self._parts), 1)
        present, has = presence > 0, known > 0
        empty = ~(present.any(1) | has.any(1))
        if bool(empty.any()):
            raise DataRefused(
                "patients without any modality or known column",
                found=f"{int(empty.sum())} of the {len(flat)} patients of a batch",
                expected="at least one image or one value of every patient",
                fix="leave such patients out, and let modality dropout keep one modality",
            )
        pixels = images.reshape(len(flat), self.modalities, *self.size)
        shown = present.view(*present.shape, *(1 for _ in self.size))
        return Case(
            torch.where(shown, pixels, 0.0),
            present.to(flat.dtype),
            torch.where(has, values, 0.0),
            has.to(flat.dtype),
        )


def is_count(value: object, least: int) -> bool:
    """Return whether a value is a whole number (no bool), `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refused(what: str, found: object, expected: str) -> ConfigRefused:
    return ConfigRefused(
        f"a case's {what}",
        found=str(found),
        expected=expected,
        fix="set it with --set model.NAME=VALUE; `wardround jobs settings JOB` lists the names",
    )


def _misfit(what: str, found: tuple[int, ...], expected: tuple[int | str, ...]) -> ModelRefused:
    return ModelRefused(
        what,
        found=f"shape {found}",
        expected=f"shape ({', '.join(map(str, expected))})",
        fix="pack the case with the modalities, size and columns of the job's model",
    )
