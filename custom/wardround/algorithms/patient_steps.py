"""What does a hospital do for ONE step that all hospitals take together?

It sends the sum of its patients' gradients at the shared model, and trains nothing by
itself: the step is the server optimizer's, on what the sum of all hospitals reveals.
Under patient-level privacy with one noise (dp/joint_dp.py) that sum is the only thing
that anybody learns, and everybody's step on it, momentum included, is post-processing.

Source: Abadi et al. 2016, arXiv:1607.00133, Algorithm 1, with the sum over hospitals.
Deviations: 1. Every patient is in every step. 2. The step is taken by the server
optimizer, with its learning rate and momentum; the schedule's `work` and rates are
those of the local baseline and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from wardround.algorithms.base import LocalEnd, LocalStart, Objective, Steps
from wardround.core.errors import ConfigRefused

MOST_PATCHES = 64


@final
@dataclass(frozen=True)
class PatientSteps:
    """One gradient over all training patients in a round, as minus its change.

    patches: K, how many augmented patches of every patient are averaged before the
        clip, 1 to MOST_PATCHES. Another value raises ConfigRefused.
    """

    patches: int

    name: ClassVar[str] = "Joint steps"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        if type(self.patches) is not int or not 1 <= self.patches <= MOST_PATCHES:
            raise ConfigRefused(
                "joint steps",
                found=f"patches {self.patches!r}",
                expected=f"a whole number, 1 to {MOST_PATCHES}",
                fix="--set algorithm.patches=4",
            )

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        """Return the model less the objective's gradient, whatever `steps` says.

        The end is in float64: the sum is in whole steps of a fine grid, and the change
        of the model, end minus start in float32, must be exactly minus that sum.

        ConfigRefused is raised where the site has kept blocks of its own: they would
        have moved by the sum of its own patients alone, without any noise.
        """
        if start.memory:
            raise ConfigRefused(
                "joint steps",
                found=f"blocks that this hospital keeps as its own ({', '.join(sorted(start.memory))})",
                expected="one model for all hospitals",
                fix="--set sharing=affine_alone",
            )
        w = start.variables["model"]
        loss, total = objective.value_and_grad(w, objective.sample(1)[0])
        return LocalEnd({"model": w.double() - total.double()}, (loss,))
