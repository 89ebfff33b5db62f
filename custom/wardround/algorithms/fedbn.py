"""FedBN: FedAvg in which the normalisation layers stay home.

Source: Li et al. 2021, arXiv:2102.07623, Algorithm 1.
Deviations: 1. the layers are instance or group norms (their scale and shift), since batch norm is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from wardround.algorithms.base import LocalEnd, LocalStart, Oracle, Steps, descend, plain


@final
@dataclass(frozen=True)
class FedBN:
    """One gradient evaluation per step; blocks of role `norm` never leave."""

    name: ClassVar[str] = "FedBN"
    banks: ClassVar[tuple[str, ...]] = ("model",)
    home_roles: ClassVar[tuple[str, ...]] = ("norm",)

    def train(self, start: LocalStart, oracle: Oracle, steps: Steps) -> LocalEnd:
        w, losses = descend(start.banks["model"], plain(oracle), steps.work, steps)
        return LocalEnd({"model": w}, tuple(losses))

    def personal(self, start: LocalStart) -> Tensor:
        return start.banks["model"]
