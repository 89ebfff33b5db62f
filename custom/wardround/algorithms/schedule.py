"""How much local work does a job ask for, and how does the learning rate fall?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

from wardround.algorithms.base import Steps
from wardround.algorithms.patient_work import PatientWork
from wardround.core.errors import ConfigRefused

# The cosine does not end at 0, so that the last round still learns.
FLOOR = 0.05


@final
@dataclass(frozen=True)
class Schedule:
    """The local work of every round.

    num_rounds: The number of rounds, at least 1.
    work: Gradient evaluations per site and round.
    lr: The learning rate of round 0.
    decay: "cosine" takes lr down half a cosine to FLOOR * lr in the last round; a
        single round has lr. "constant" keeps lr. Within a round the rate does not
        change.
    momentum, nesterov, weight_decay, clip_norm: As in `Steps`.
    work_by_patients: How the work depends on a hospital's patients; None: not at all.

    A value that is missing or out of its range raises ConfigRefused.
    """

    num_rounds: int
    work: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    clip_norm: float
    decay: Literal["cosine", "constant"]
    work_by_patients: PatientWork | None = None

    def __post_init__(self) -> None:
        absent = [name for name, value in vars(self).items() if value is None and name != "work_by_patients"]
        if absent or self.num_rounds < 1 or self.decay not in ("cosine", "constant"):
            raise ConfigRefused(
                "the schedule",
                found=f"missing {absent}" if absent else f"rounds {self.num_rounds}, decay {self.decay!r}",
                expected="every value given, rounds >= 1, decay cosine or constant",
                fix="set every value of the job's schedule, as --set num_rounds=3",
            )
        self.steps(0)

    def steps(self, round_: int) -> Steps:
        """Return the local steps of a round, counted from 0.

        ConfigRefused is raised for a round outside the schedule.
        """
        if not 0 <= round_ < self.num_rounds:
            raise ConfigRefused(
                "a round",
                found=f"{round_}",
                expected=f"0..{self.num_rounds - 1}",
                fix="--set num_rounds=NUMBER, larger than that round",
            )
        factor = 1.0
        if self.decay == "cosine" and self.num_rounds > 1:
            factor = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * round_ / (self.num_rounds - 1)))
        rate = self.lr * factor
        return Steps(
            self.work,
            rate,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            self.clip_norm,
            round_,
        )

    def of_hospital(self, patients: float) -> Schedule:
        """Return the schedule of a hospital with so many training patients."""
        if self.work_by_patients is None:
            return self
        return replace(self, work=self.work_by_patients.work(self.work, patients), work_by_patients=None)
