"""How does a hospital train a model of its own beside the shared one?

Ditto pulls the site's own model v towards the shared one by lam:

    v <- v - lr (g(v) + lam (v - w_t))

Source: Li et al. 2021, arXiv:2012.04221, Algorithm 1 and eq. (1).
Deviations: 1. The shared and the personal model get half of the work each, so that
every method does equal local work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from wardround.algorithms.base import (
    PERSONAL,
    LocalEnd,
    LocalStart,
    Objective,
    Steps,
    descend,
    personal,
    plain,
    whole_steps,
)
from wardround.algorithms.fedprox import proximal, require_pull


@final
@dataclass(frozen=True)
class Ditto:
    """Ditto with plain or momentum SGD.

    lam: The pull towards the shared model, at least 0; 0 is local training. Plain steps
        need lr lam < 2 to be stable.

    memory["personal"] is v, which starts as the shared model. The losses reported are
    those of the shared model, so that curves compare.
    """

    lam: float

    name: ClassVar[str] = "Ditto"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        require_pull("Ditto", "lam", self.lam, 0.1)

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        half = whole_steps(steps.work, 2, self.name)
        received = start.variables["model"]
        w, losses = descend(received, plain(objective), half, steps)
        # The personal model draws its batches after the shared one: the order fixes the
        # stream.
        v, _ = descend(
            personal(start),
            proximal(plain(objective), received, self.lam),
            half,
            steps,
        )
        return LocalEnd({"model": w}, tuple(losses), {PERSONAL: v})
