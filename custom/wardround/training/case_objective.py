"""How are mini-batches of patients drawn for classification?

A batch holds one case of each patient, slightly augmented. Each source of a case (a
modality, or the record) may be hidden at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.tasks import classification as classes_

if TYPE_CHECKING:
    from wardround.training.classification import ClassificationSite

# Augmentation: a shift of up to 6 % of a side, a scale of 0.9 to 1.1 and an offset of
# up to 0.1. They are small, because an image's class must not change.
SHIFT = 0.06
SCALE = 0.1
OFFSET = 0.1


@dataclass(frozen=True)
class Batch:
    """One mini-batch of patients.

    inputs: The patients' vectors, float32 [B, L] (models/case_vector.py).
    labels: The class of each patient, int64 [B].
    seed: The seed of everything random in the network.
    patients: Whose cases these are, in the order of the rows.
    """

    inputs: Tensor
    labels: Tensor
    seed: int
    patients: tuple[str, ...]


@final
class Cases:
    """The `Work` of site_objective.py on classified patients."""

    def __init__(self, site: ClassificationSite, *purpose: str | int) -> None:
        self._site = site

    def batch(
        self,
        patients: tuple[str, ...],
        case_of: Callable[[str], str],
        rng: np.random.Generator,
    ) -> Batch:
        """Return one batch with one case of each of these patients.

        case_of: Draws one of a patient's cases.
        """
        sampling, device = self._site.sampling, self._site.device
        drawn = self._site.cohort.batch([case_of(who) for who in patients])
        images = drawn.images
        present = drawn.present.copy()
        known = drawn.known.copy()
        for row in range(len(patients)):
            if sampling.augment:
                images[row] = augmented(images[row], rng)
            hide(
                present[row],
                known[row] if sampling.record else known[row, :0],
                sampling.modality_dropout,
                rng,
            )
        inputs = sampling.inputs(images, present, drawn.values, known)
        labels = torch.from_numpy(drawn.labels).to(device)
        return Batch(inputs.to(device), labels, int(rng.integers(2**31)), patients)

    def loss(self, out: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the logits `out`."""
        return classes_.cross_entropy(out, batch.labels)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch) -> float:
        """Return the mean KL(p || q) of the patients' class probabilities."""
        return classes_.categorical_divergence(p, q)


def augmented(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a copy of images [M, ..., H, W], shifted and rescaled at random.

    All images are shifted alike, by up to SHIFT of the side; each gets its own scale
    and offset. Voxels that are exactly zero stay zero.
    """
    height, width = images.shape[-2:]
    rows, columns = (int(rng.integers(-int(SHIFT * n), int(SHIFT * n) + 1)) for n in (height, width))
    moved = np.zeros_like(images)
    to, of = _overlap(rows, height)
    to_, of_ = _overlap(columns, width)
    moved[..., to, to_] = images[..., of, of_]
    shape = (len(images),) + (1,) * (images.ndim - 1)
    factor = rng.uniform(1 - SCALE, 1 + SCALE, shape).astype(np.float32)
    offset = rng.uniform(-OFFSET, OFFSET, shape).astype(np.float32)
    found: NDArray[np.float32] = moved * factor + offset * (moved != 0)
    return found


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Return (where the shifted rows land, where they come from) along one axis."""
    return (
        slice(max(0, shift), size + min(0, shift)),
        slice(max(0, -shift), size + min(0, -shift)),
    )


def hide(
    present: NDArray[np.bool_],
    known: NDArray[np.bool_],
    chance: float,
    rng: np.random.Generator,
) -> None:
    """Hide each source of one case with probability `chance`, in place.

    A source is a present modality, or the whole record. At least one source is always
    left.
    """
    sources = [
        *np.flatnonzero(present).tolist(),
        *([len(present)] if known.any() else []),
    ]
    hidden = [source for source, draw in zip(sources, rng.random(len(sources)), strict=True) if draw < chance]
    # Without any source a case would teach the network only the frequency of classes.
    if len(hidden) == len(sources):
        hidden.pop(int(rng.integers(len(hidden))))
    for source in hidden:
        if source < len(present):
            present[source] = False
        else:
            known[:] = False
