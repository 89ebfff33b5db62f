"""How does a hospital stay near the shared model? FedProx adds a proximal term.

The term (mu/2) ||w - w_t||^2 is added to the local loss.

Source: Li et al. 2020, arXiv:1812.06127, eq. (2).
Deviations: 1. The local problem is solved with a fixed number of SGD steps, not to a
gamma-inexact solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from wardround.algorithms.base import (
    Direction,
    LocalEnd,
    LocalStart,
    Objective,
    Steps,
    descend,
    plain,
)
from wardround.core.errors import ConfigRefused


def proximal(direction: Direction, centre: Tensor, mu: float, free: Tensor | None = None) -> Direction:
    """Return the direction plus mu (w - centre).

    free: Which values nothing pulls, bool, of the shape of w; None pulls all.

    With mu = 0 this is the direction itself, bit for bit.
    """
    if mu == 0:
        return direction

    def pulled(w: Tensor) -> tuple[float, Tensor]:
        loss, g = direction(w)
        away = w - centre
        return loss, g + mu * (away if free is None else away.masked_fill(free, 0))

    return pulled


def require_pull(algorithm: str, name: str, value: float | None, usual: float) -> None:
    """Raise ConfigRefused unless the weight of a pull is a number of 0 or more.

    usual: The value that the message proposes.
    """
    if value is None or not 0 <= value < 1e6:
        raise ConfigRefused(
            algorithm,
            found=f"{name} {value}",
            expected=f"0 <= {name}",
            fix=f"--set algorithm.{name}={usual}, or another number of 0 or more",
        )


@final
@dataclass(frozen=True)
class FedProx:
    """FedProx; each step costs one gradient evaluation.

    mu: The weight of the proximal term, at least 0; 0 is FedAvg bit for bit.

    The losses reported are without the proximal term.
    """

    mu: float

    name: ClassVar[str] = "FedProx"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        require_pull("FedProx", "mu", self.mu, 0.01)

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        received = start.variables["model"]
        w, losses = descend(
            received,
            proximal(plain(objective), received, self.mu),
            steps.work,
            steps,
        )
        return LocalEnd({"model": w}, tuple(losses))
