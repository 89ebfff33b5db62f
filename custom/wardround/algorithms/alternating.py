"""How does a hospital train the blocks it keeps and those it shares, in turn?

In each round it first fits the blocks that stay at home, then those that it shares.
With the head at home this is FedRep. It needs a sharing that keeps blocks at home by
role (`sharing.Roles`): masks keep nothing in the first round, so the first phase would
have nothing to train.

Source: Collins et al. 2021, arXiv:2102.07078, Algorithm 1 (FedRep); Pillutla et al.
2022, arXiv:2204.03809, Algorithm 3 (FedAlt), for any part.
Deviations: 1. Both parts share one budget of `work` steps (`home_share` of them for
what stays at home), so that every method does equal work; FedRep takes one step on what
is shared. 2. The head is what models/roles.py calls head: the norms of the last block
have the role `norm`, travel, and are trained with the body.
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
from wardround.core.errors import ConfigRefused


@final
@dataclass(frozen=True)
class Alternating:
    """FedAlt with a fixed budget of steps.

    home_share: The share of the steps, rounded, that fits what stays at home; above 0
        and below 1. Both phases get at least one step.

    ConfigRefused is raised for another share, for fewer than two steps, and for a
    sharing that keeps nothing at home.
    """

    home_share: float

    name: ClassVar[str] = "Alternating"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        if self.home_share is None or not 0 < self.home_share < 1:
            raise ConfigRefused(
                "Alternating",
                found=f"home_share {self.home_share}",
                expected="0 < home_share < 1",
                fix="--set algorithm.home_share=0.5",
            )

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        """Spend steps.work gradient evaluations, on home blocks first."""
        if steps.work < 2:
            raise ConfigRefused(
                "Alternating",
                found=f"work {steps.work}",
                expected="at least 2",
                fix="--set work=2, or more",
            )
        home = start.home
        if not home.any():
            raise ConfigRefused(
                "Alternating",
                found="a sharing that keeps nothing at home: the first phase would train nothing",
                expected="a role that stays at home",
                fix="--set sharing=head_at_home, or another algorithm",
            )
        home_steps = min(max(1, round(self.home_share * steps.work)), steps.work - 1)
        # Home blocks first: the shared ones are then fitted to a head that suits this
        # site.
        w, first = descend(start.variables["model"], plain(objective), home_steps, steps, home)
        w, second = descend(w, plain(objective), steps.work - home_steps, steps, ~home)
        return LocalEnd({"model": w}, tuple(first + second))
