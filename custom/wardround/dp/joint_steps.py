"""The sum of clipped gradients of ALL training patients of a hospital, once per round.

It is not private: the share of the noise is added when it leaves (dp/joint_release.py).
What every hospital does with the released sums is algorithms/patient_steps.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from wardround.core.arrays import Arrays
from wardround.core.errors import ReleaseRefused
from wardround.dp.dp_sgd import HIDDEN_LOSS, PatientGradients, columns, whole_sum
from wardround.dp.dp_sgd import prove as prove_noise
from wardround.dp.joint_dp import JointDP
from wardround.dp.noise_proof import Proof, note


def patient_sum(gradients: Iterable[Tensor], promise: JointDP, size: int) -> Tensor:
    """Return g times the sum of the r_p, float64 [size]: what a hospital adds to a sum.

    One row more or less moves it by at most the clip, exactly, and the order of the
    rows does not matter.

    gradients: matrices [any, size] with one row per patient. A row that is not finite
        counts as zero.
    """
    fine = promise.fine_step(size)
    return whole_sum(gradients, fine, promise.reach, size, normalised=promise.normalised) * fine


@final
class JointObjective:
    """The `Objective` of algorithms.base whose only gradient is `patient_sum`.

    It gives ONE gradient: a second one, or one on a batch used before, raises
    ReleaseRefused, and nothing is computed. The loss is private and always HIDDEN_LOSS.

    trained: True where a value of the model is trained, bool [len(w)]; the gradient is
        zero everywhere else, and neither clip nor sum sees the rest. None trains all.
    """

    def __init__(self, source: PatientGradients, promise: JointDP, trained: Tensor | None = None) -> None:
        self._source = source
        self.promise = promise
        self._trained = trained
        self.released = 0

    def sample(self, count: int) -> tuple[Any, ...]:
        """Return `count` batches of all training patients, with fresh patches each."""
        everybody = tuple(self._source.patients)
        self.promise.require_patients(len(everybody))
        return tuple(self._source.sample(everybody) for _ in range(count))

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        """Return (HIDDEN_LOSS, the sum at w, float64 [len(w)]).

        It is counted before anything is computed.
        """
        if self.released:
            raise ReleaseRefused(
                "a sum of patients' gradients",
                found="a second one in a round",
                expected="one, as the plan has reserved",
                fix="use the algorithm wardround.algorithms.patient_steps.PatientSteps, as `wardround jobs write` prints it",
            )
        self.released += 1
        rows = self._source.gradients(w, batch)
        if self._trained is None:
            return HIDDEN_LOSS, patient_sum(rows, self.promise, w.numel()).to(w.device)
        chosen = self._trained
        found = torch.zeros(w.numel(), dtype=torch.float64, device=w.device)
        part = patient_sum((columns(matrix, chosen) for matrix in rows), self.promise, int(chosen.sum()))
        found[chosen] = part.to(w.device)
        return HIDDEN_LOSS, found


def prove(update: Arrays, objective: object) -> None:
    """Note which sum an update is, or which private gradients it came from.

    Any other objective proves nothing.
    """
    if isinstance(objective, JointObjective):
        note(update, Proof(objective.promise, objective.released))
    else:
        prove_noise(update, objective)
