"""What does a hospital do in FedAvg? It takes plain SGD steps from the shared model.

Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1 (ClientUpdate).
Deviations: 1. There is a fixed number of steps instead of epochs, so that every method
does equal local work. 2. Momentum, clipping and a schedule are allowed (`Steps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from wardround.algorithms.base import (
    LocalEnd,
    LocalStart,
    Objective,
    Steps,
    descend,
    plain,
)


@final
@dataclass(frozen=True)
class FedAvg:
    """FedAvg; each step costs one gradient evaluation."""

    name: ClassVar[str] = "FedAvg"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        w, losses = descend(start.variables["model"], plain(objective), steps.work, steps)
        return LocalEnd({"model": w}, tuple(losses))
