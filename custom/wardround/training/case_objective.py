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
    from wardround.training.class_site import ClassificationSite


@dataclass(frozen=True)
class Batch:
    """One mini-batch of patients.

    inputs: The patients' vectors, float32 [B, L] (models/case_vector.py).
    labels: The class of each patient, int64 [B].
    seed: The seed of everything random in the network.
    patients: Whose cases these are, in the order of the rows.
    weights: What each row counts in the loss, float32 [B]; None: 1.
    """

    inputs: Tensor
    labels: Tensor
    seed: int
    patients: tuple[str, ...]
    weights: Tensor | None = None


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
                images[row] = sampling.strengths(images[row], rng)
            hide(
                present[row],
                known[row] if sampling.record else known[row, :0],
                sampling.modality_dropout,
                rng,
            )
        inputs = sampling.inputs(images, present, drawn.values, known)
        labels = torch.from_numpy(drawn.labels).to(device)
        seed = int(rng.integers(2**31))
        each = self._site.class_weights
        return Batch(inputs.to(device), labels, seed, patients, None if each is None else each[labels])

    def loss(self, out: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the logits `out`; a class may weigh more."""
        return classes_.cross_entropy(out, batch.labels, batch.weights)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch) -> float:
        """Return the mean KL(p || q) of the patients' class probabilities."""
        return classes_.categorical_divergence(p, q)


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
