"""Patient-level DP-SGD: how does a site get a gradient that hides every single patient?

    P   every patient with probability q, each on its own (Poisson)
    r_p = round(g_p min(1, c / ||g_p||) / h)
    g   = h (sum of r_p over P + round(N(0, (z C / h)^2))) / (q M)

The draw P is secret and may be empty. g_p is the mean gradient over everything that
patient p has in the step. M is the number of reference patients, which is public. h is
a power of two so small that ||h r_p|| <= C for every g_p (c = C (1 - 2^-11), and
rounding adds at most C 2^-12). Adding or removing ONE patient therefore moves the sum
by at most C, in exact arithmetic, because the r_p are whole numbers. Everything that an
optimiser does with g afterwards (momentum, weight decay, a proximal term) is
post-processing.

The other 2^-12 of C are for float32, where g_p differs in its last bits with the other
patients that are drawn (training/dp_training.py: on a CPU it does not).

Not protected are validation and test patients, and the time that a step takes, which
shows roughly how many patients were drawn.
Sources: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1; McMahan et al. 2018,
arXiv:1710.06963 (fixed denominator).
Deviations: 1. A sample is a patient. 2. The grid, against floating-point attacks
(dp/gaussian_noise.py). 3. A gradient that is not finite counts as zero: an abort would
be a release of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wardround.core.arrays import Arrays
from wardround.core.errors import ReleaseRefused
from wardround.core.keystream import Words
from wardround.core.threads import one_thread
from wardround.dp.gaussian_noise import secret_words, whole_noise
from wardround.dp.noise_proof import Proof, note
from wardround.dp.patient_dp import ROUNDING, PatientDP

# The loss of a private step depends on its patients and is never shown.
HIDDEN_LOSS = 0.0


def poisson(words: Words, rate: float) -> NDArray[np.bool_]:
    """Return which owners of the words take part.

    Each takes part with probability floor(rate 2^64) / 2^64, which is at most `rate`.
    """
    limit = int(Fraction(rate) * 2**64)
    return words <= np.uint64(limit - 1) if limit else np.zeros(len(words), np.bool_)


def clipped_sum(gradients: Iterable[Tensor], promise: PatientDP, size: int) -> Tensor:
    """Return the sum of r_p as whole numbers in float64 [size].

    It is NOT private before noise is added. One row more or less moves h times the
    result by at most the clip, exactly, and the order of the rows does not matter.

    gradients: matrices [any, size] of any float type with one row per patient. Without
        any row the result is zeros. A row that is not finite counts as zero.
    """
    return whole_sum(gradients, promise.step(size), promise.max_grad_norm * (1 - 2 * ROUNDING), size)


def whole_sum(gradients: Iterable[Tensor], h: float, reach: float, size: int, *, normalised: bool = False) -> Tensor:
    """Return the sum over the rows of round(row min(1, reach / ||row||) / h), in float64.

    normalised: whether rows shorter than `reach` are stretched to it. Zeros stay zeros.
    """
    total = torch.zeros(size, dtype=torch.float64)
    for matrix in gradients:
        total = total.to(matrix.device)
        # Rows are short, and sharing each out among threads costs more than it saves.
        with one_thread():
            norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
            for row, norm in zip(matrix, norms.tolist(), strict=True):
                if math.isfinite(norm):
                    factor = reach / norm if norm else 1.0
                    total += torch.round(row.double() * ((factor if normalised else min(1.0, factor)) / h))
    return total


def noised_mean(gradients: Iterable[Tensor], promise: PatientDP, size: int) -> Tensor:
    """Return g, float64 [size], with fresh noise.

    This is one release of the subsampled Gaussian mechanism with sensitivity C.
    """
    h = promise.step(size)
    noise = whole_noise(size, promise.noise_multiplier * promise.max_grad_norm / h)
    total = clipped_sum(gradients, promise, size)
    return torch.from_numpy((total.cpu().numpy() + noise) * (h / promise.denominator)).to(total.device)


class PatientGradients(Protocol):
    """What a site computes for the patients of one step.

    What one patient adds must not depend on the other patients that are drawn.
    """

    @property
    def patients(self) -> Sequence[str]:
        """Return everybody who can be drawn."""

    def sample(self, chosen: tuple[str, ...]) -> Any:
        """Return the data of these patients for one step.

        It is called for an empty draw too, so that every step is one call.
        """

    def gradients(self, w: Tensor, batch: Any) -> Iterable[Tensor]:
        """Return matrices [any, len(w)] with one row per patient of the batch.

        A row is the gradient of that patient's loss. A source that computes what is
        trained alone returns the columns of that (`columns`).
        """


def columns(matrix: Tensor, trained: Tensor) -> Tensor:
    """Return the columns of the trained values of a matrix of gradients.

    A matrix that holds these columns alone is returned as it is.

    trained: bool [values of the whole model].
    """
    return matrix if matrix.shape[1] == int(trained.sum()) else matrix[:, trained]


@dataclass
class _Draw:
    """The patients of one step. It is good for one release."""

    chosen: tuple[str, ...]
    data: Any
    used: bool = False


@final
class PrivateObjective:
    """The `Objective` of algorithms.base whose gradients are releases.

    There are at most `allowed` of them, one for each draw. One more, or a second
    gradient on the same draw (whose sample would not be fresh), raises ReleaseRefused,
    and nothing is computed. When no patient is drawn, the gradient is noise alone. The
    loss is private, so it is always HIDDEN_LOSS.

    trained: True where a value of the model is trained, bool [len(w)]. The gradient is
        zero everywhere else, and neither clip nor noise sees the rest. None trains all.
    """

    def __init__(
        self, source: PatientGradients, promise: PatientDP, allowed: int, trained: Tensor | None = None
    ) -> None:
        self._source = source
        self.promise = promise
        self._allowed = allowed
        self._trained = trained
        self.released = 0

    def sample(self, count: int) -> tuple[_Draw, ...]:
        """Return `count` independent draws. A patient can be in several of them."""
        return tuple(self._one() for _ in range(count))

    def value_and_grad(self, w: Tensor, batch: _Draw) -> tuple[float, Tensor]:
        """Return (HIDDEN_LOSS, the noised mean gradient at w).

        The release is counted before anything is computed.
        """
        if batch.used or self.released >= self._allowed:
            raise ReleaseRefused(
                "a private gradient",
                found="a draw used before"
                if batch.used
                else f"release {self.released + 1} of {self._allowed} reserved",
                expected="one gradient for each draw, as many as the plan has reserved",
                fix="use an algorithm that training.dp_training.releases_per_step knows, and reserve its work",
            )
        # Counted first: what fails half way may have shown something by failing.
        batch.used = True
        self.released += 1
        rows = self._source.gradients(w, batch.data) if batch.chosen else ()
        if self._trained is None:
            return HIDDEN_LOSS, noised_mean(rows, self.promise, w.numel()).to(w)
        trained, found = self._trained, torch.zeros_like(w)
        part = (columns(matrix, trained) for matrix in rows)
        found[trained] = noised_mean(part, self.promise, int(trained.sum())).to(w)
        return HIDDEN_LOSS, found

    def _one(self) -> _Draw:
        patients = self._source.patients
        taken = poisson(secret_words(len(patients)), self.promise.sample_rate)
        chosen = tuple(who for who, here in zip(patients, taken, strict=True) if here)
        return _Draw(chosen, self._source.sample(chosen))


def prove(update: Arrays, objective: object) -> None:
    """Note which private objective all gradients of an update came from.

    Any other objective proves nothing.
    """
    if isinstance(objective, PrivateObjective):
        note(update, Proof(objective.promise, objective.released))
