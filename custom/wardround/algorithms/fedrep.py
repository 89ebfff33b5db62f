"""FedRep: the head stays home; each round first fits the head, then the body.

Source: Collins et al. 2021, arXiv:2102.07078, Algorithm 1.
Deviations: 1. head and body share one budget of `work` steps (`head_share` of them for the head), so that every method
does equal work; the paper takes one body step. 2. The head is what `roles` calls head: the norms of the last block are
role `norm`, travel, and are trained with the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from wardround.algorithms.base import LocalEnd, LocalStart, Oracle, Steps, descend, plain
from wardround.errors import ConfigRefused


@final
@dataclass(frozen=True)
class FedRep:
    """0 < head_share < 1: that share of the steps fits the head, rounded.

    both phases get at least one step | work below 2: ConfigRefused
    """

    head_share: float

    name: ClassVar[str] = "FedRep"
    banks: ClassVar[tuple[str, ...]] = ("model",)
    home_roles: ClassVar[tuple[str, ...]] = ("head",)

    def __post_init__(self) -> None:
        if self.head_share is None or not 0 < self.head_share < 1:
            raise ConfigRefused(
                "FedRep", found=f"head_share {self.head_share}", expected="0 < head_share < 1", fix="correct the job"
            )

    def train(self, start: LocalStart, oracle: Oracle, steps: Steps) -> LocalEnd:
        if steps.work < 2:
            raise ConfigRefused(
                "FedRep", found=f"work {steps.work}", expected="at least 2", fix="raise `work` in the job"
            )
        head_steps = min(max(1, round(self.head_share * steps.work)), steps.work - 1)
        head = start.mask("head")
        w, first = descend(start.banks["model"], plain(oracle), head_steps, steps, head)
        w, second = descend(w, plain(oracle), steps.work - head_steps, steps, ~head)
        return LocalEnd({"model": w}, tuple(first + second))

    def personal(self, start: LocalStart) -> Tensor:
        return start.banks["model"]
