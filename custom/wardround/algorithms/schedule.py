"""How much local work a job asks for, and how the learning rate falls over its rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from wardround.algorithms.base import Steps
from wardround.core.errors import ConfigRefused

FLOOR = 0.05


@final
@dataclass(frozen=True)
class Schedule:
    """A promise: no defaults. `work` gradient evaluations per site and round; clip_norm 0: no clipping.

    decay cosine: lr in round 0, down half a cosine to FLOOR * lr in the last round; one round only: lr
    decay constant: lr | within a round the rate does not change | a value missing or senseless: ConfigRefused
    """

    num_rounds: int
    work: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    clip_norm: float
    decay: Literal["cosine", "constant"]

    def __post_init__(self) -> None:
        absent = [name for name, value in vars(self).items() if value is None]
        if absent or self.num_rounds < 1 or self.decay not in ("cosine", "constant"):
            raise ConfigRefused(
                "the schedule",
                found=f"missing {absent}" if absent else f"rounds {self.num_rounds}, decay {self.decay!r}",
                expected="every value given, rounds >= 1, decay cosine or constant",
                fix="correct `schedule` in the job",
            )
        self.steps(0)

    def steps(self, round_: int) -> Steps:
        """Return the local steps of a round, counted from 0; a round outside the schedule: ConfigRefused."""
        if not 0 <= round_ < self.num_rounds:
            raise ConfigRefused(
                "a round", found=f"{round_}", expected=f"0..{self.num_rounds - 1}", fix="raise `rounds` in the schedule"
            )
        factor = 1.0
        if self.decay == "cosine" and self.num_rounds > 1:
            factor = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * round_ / (self.num_rounds - 1)))
        rate = self.lr * factor
        return Steps(self.work, rate, self.momentum, self.nesterov, self.weight_decay, self.clip_norm, round_)
