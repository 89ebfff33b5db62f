"""Drawing patients for classification: one case each, a little augmentation, sources hidden at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.errors import ConfigRefused
from wardround.hospital.deck import Deck
from wardround.models.nearby import Nearby
from wardround.rng import stream
from wardround.tasks import classification as classes_

if TYPE_CHECKING:
    from wardround.hospital.classification import ClassificationSite

SHIFT, SCALE, OFFSET = 0.06, 0.1, 0.1


@dataclass(frozen=True)
class Batch:
    """inputs [B, L] (models/case_vector.py) | labels int64 [B] | seed of everything random in the network."""

    inputs: Tensor
    labels: Tensor
    seed: int
    patients: tuple[str, ...]


class CaseOracle:
    """Stochastic gradients over patients: the `Oracle` of algorithms.base, and the `Probe` of KL masks."""

    def __init__(self, site: ClassificationSite, cases: Sequence[str], *purpose: str | int) -> None:
        if not cases:
            raise ConfigRefused("training cases", found="none", expected="at least one", fix="check this site's data")
        self._site, self._rng = site, stream(site.seed, site.name, "batches", *purpose)
        self._cases: dict[str, list[str]] = {}
        for case in cases:
            self._cases.setdefault(site.cohort.patients[case], []).append(case)
        self._deck = Deck(tuple(sorted(self._cases)), self._rng)

    def draw(self, count: int) -> tuple[Batch, ...]:
        """Return `count` batches; no patient twice among them while the site has count * batch patients."""
        return tuple(self.batch(patients) for patients in self._deck.deal(count, self._site.sampling.batch))

    def batch(self, patients: tuple[str, ...]) -> Batch:
        """Return one batch with one case of each of these patients."""
        rng, sampling = self._rng, self._site.sampling
        cases = [self._cases[who][int(rng.integers(len(self._cases[who])))] for who in patients]
        drawn = self._site.cohort.batch(cases)
        images, present, known = drawn.images, drawn.present.copy(), drawn.known.copy()
        for row in range(len(cases)):
            if sampling.augment:
                images[row] = augmented(images[row], rng)
            hide(present[row], known[row] if sampling.record else known[row, :0], sampling.modality_dropout, rng)
        inputs = sampling.inputs(images, present, drawn.values, known)
        device = self._site.device
        labels = torch.from_numpy(drawn.labels).to(device)
        return Batch(inputs.to(device), labels, int(rng.integers(2**31)), patients)

    def gradient(self, w: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """Return (loss, gradient) at w."""
        return self._site.model.gradient(
            w, batch.inputs, lambda out: classes_.cross_entropy(out, batch.labels), dropout_seed=batch.seed
        )

    @property
    def patients(self) -> tuple[str, ...]:
        """Return the patients that batches are drawn from, sorted."""
        return tuple(sorted(self._cases))

    @property
    def label(self) -> str:
        return self._site.name

    @property
    def blocks(self) -> Mapping[str, str]:
        return self._site.blocks

    def calibration(self, count: int) -> tuple[Batch, ...]:
        """Return the same `count` batches of training patients each time."""
        return CaseOracle(self._site, self._site.split.train, "calibration").draw(count)

    def held_out(self, count: int) -> tuple[Batch, ...]:
        """Return the same `count` batches of validation patients each time."""
        return CaseOracle(self._site, self._site.split.val, "held-out").draw(count)

    def near(self, w: Tensor, other: Tensor, batch: Batch) -> Nearby:
        """Return names -> logits [B, C] in evaluation mode at w, these parameters as in `other`."""
        return Nearby(self._site.model, w, other, batch.inputs)

    def divergence(self, p: Tensor, q: Tensor, batch: Batch) -> float:
        """Return the mean KL(p || q) of the patients' class probabilities."""
        return classes_.categorical_divergence(p, q)

    def loss(self, p: Tensor, batch: Batch) -> float:
        return float(classes_.cross_entropy(p, batch.labels))


def augmented(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return images [M, ..., H, W], all shifted alike by up to SHIFT of the side, each rescaled a little."""
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
    return slice(max(0, shift), size + min(0, shift)), slice(max(0, -shift), size + min(0, -shift))


def hide(present: NDArray[np.bool_], known: NDArray[np.bool_], chance: float, rng: np.random.Generator) -> None:
    """Hide each present modality, and the whole record, with a chance; one source is always left. Changes both in place."""
    sources = [*np.flatnonzero(present).tolist(), *([len(present)] if known.any() else [])]
    hidden = [source for source, draw in zip(sources, rng.random(len(sources)), strict=True) if draw < chance]
    if len(hidden) == len(sources):
        hidden.pop(int(rng.integers(len(hidden))))
    for source in hidden:
        if source < len(present):
            present[source] = False
        else:
            known[:] = False
