"""How much local work does a job ask for, and how does the learning rate fall?

The learning rate is a function of the round and, where `decay` says so, of the step in
it. Nothing is kept between rounds, so a site that missed one or was restarted goes on
with the rate that all others have.

Sources: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. (5), with one cycle over the
whole run; Isensee et al. 2021 (nnU-Net: poly with the exponent 0.9).
Deviations: 1. The cosine ends at FLOOR instead of 0. 2. poly falls at every step, not
once in an epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, final

from wardround.algorithms.base import Steps
from wardround.algorithms.final_model import FinalModel, Kind
from wardround.algorithms.patient_work import PatientWork
from wardround.core.errors import ConfigRefused

# The cosine does not end at 0, so that the last round still learns.
FLOOR = 0.05
# nnU-Net's exponent.
POWER = 0.9
# Four and a half hours at 60 gradient evaluations in a second. A larger number is a mistake, and
# where the rate falls at every step a site holds a rate, 32 bytes, for each of them.
MOST_WORK = 1_000_000
DECAYS = ("cosine", "constant", "cosine_per_step", "poly_per_step")


@final
@dataclass(frozen=True)
class Schedule:
    """The local work of every round.

    num_rounds: The number of rounds, at least 1.
    work: Gradient evaluations per site and round, at most MOST_WORK at any site.
    lr: The learning rate of the first step.
    decay: With t the share of the run's gradient evaluations that lie before this one,
        "cosine_per_step" has lr (FLOOR + (1 - FLOOR) (1 + cos(pi t)) / 2), and
        "poly_per_step" lr (1 - t)^POWER. Within a round of the other two the rate does
        not change: "cosine" takes lr down half a cosine to FLOOR * lr in the last round
        (a single round has lr), and "constant" keeps lr.
    momentum, nesterov, weight_decay, clip_norm: As in `Steps`.
    final_model: What a run ends with (final_model.py).
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
    decay: Literal["cosine", "constant", "cosine_per_step", "poly_per_step"]
    final_model: Kind = "last"
    work_by_patients: PatientWork | None = None

    def __post_init__(self) -> None:
        absent = [name for name, value in vars(self).items() if value is None and name != "work_by_patients"]
        if absent or self.num_rounds < 1 or self.decay not in DECAYS:
            raise ConfigRefused(
                "the schedule",
                found=f"missing {absent}" if absent else f"rounds {self.num_rounds}, decay {self.decay!r}",
                expected=f"every value given, rounds >= 1, decay one of {', '.join(DECAYS)}",
                fix="set every value of the job's schedule, as --set num_rounds=3",
            )
        # Before the list of rates is made, which is as long.
        most = 1.0 if self.work_by_patients is None else self.work_by_patients.most
        if self.work * most > MOST_WORK:
            raise ConfigRefused(
                "the schedule",
                found=f"work {self.work}" + (f", times {most:g} at a large hospital" if most > 1 else ""),
                expected=f"at most {MOST_WORK} gradient evaluations in a round",
                fix="--set work=NUMBER, smaller, and --set num_rounds=NUMBER, larger",
            )
        self.steps(0)
        _ = self.final

    @property
    def final(self) -> FinalModel:
        """Return how the final model is made."""
        return FinalModel(self.final_model, self.num_rounds)

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
        rates = self._rates(round_)
        return Steps(
            self.work,
            rates[0] if rates else self.lr * self._factor(round_),
            self.momentum,
            self.nesterov,
            self.weight_decay,
            self.clip_norm,
            round_,
            rates,
        )

    def of_hospital(self, patients: float) -> Schedule:
        """Return the schedule of a hospital with so many training patients."""
        if self.work_by_patients is None:
            return self
        return replace(self, work=self.work_by_patients.work(self.work, patients), work_by_patients=None)

    def _factor(self, round_: int) -> float:
        """Return the rate of a whole round as a multiple of lr."""
        if self.decay == "cosine" and self.num_rounds > 1:
            return _half_cosine(round_ / (self.num_rounds - 1))
        return 1.0

    def _rates(self, round_: int) -> tuple[float, ...]:
        """Return the rate of every gradient evaluation; () where a round has one rate."""
        if self.decay not in ("cosine_per_step", "poly_per_step"):
            return ()
        done, whole = round_ * self.work, self.num_rounds * self.work
        shares = [(done + step) / whole for step in range(self.work)]
        if self.decay == "poly_per_step":
            return tuple(self.lr * (1 - share) ** POWER for share in shares)
        return tuple(self.lr * _half_cosine(share) for share in shares)


def _half_cosine(share: float) -> float:
    """Return 1 at share 0, FLOOR at share 1, and half a cosine between."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share))
