"""FedSim: FedAvg of which only a small part is shared; each hospital trains the rest for itself, in the same steps.

What is shared: `head` (the last block), `norms` (every scale and shift), `adapters` (the low-rank corrections of a network
that has them), `all` (FedAvg). Under hospital-level privacy noise grows with the square root of the number of shared
values, so little is shared there; what stays home is never noised and never leaves.
Source: Pillutla et al. 2022, arXiv:2204.03809, Algorithm 2 (FedSim).
Deviations: 1. the parts are roles of models/roles.py; 2. one learning rate for both parts, every site in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from wardround.algorithms.base import LocalEnd, LocalStart, Oracle, Steps, descend, plain
from wardround.errors import ConfigRefused

Share = Literal["head", "norms", "adapters", "all"]
SHARED: dict[str, tuple[str, ...]] = {
    "head": ("head",),
    "norms": ("norm",),
    "adapters": ("adapter",),
    "all": ("head", "norm", "body", "adapter"),
}


@final
@dataclass(frozen=True)
class FedSim:
    """share: what travels | another word: ConfigRefused | a network that has no such part: ConfigRefused in `train`."""

    share: Share

    name: ClassVar[str] = "FedSim"
    banks: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        if self.share not in SHARED:
            raise ConfigRefused(
                "FedSim", found=f"share {self.share!r}", expected=f"one of {', '.join(SHARED)}", fix="correct the job"
            )

    @property
    def home_roles(self) -> tuple[str, ...]:
        return tuple(role for role in SHARED["all"] if role not in SHARED[self.share])

    def train(self, start: LocalStart, oracle: Oracle, steps: Steps) -> LocalEnd:
        if not start.mask(*SHARED[self.share]).any():
            raise ConfigRefused(
                "FedSim",
                found=f"a network without {self.share}",
                expected="at least one block to share",
                fix="set model.adapter_rank, or share another part",
            )
        w, losses = descend(start.banks["model"], plain(oracle), steps.work, steps)
        return LocalEnd({"model": w}, tuple(losses))

    def personal(self, start: LocalStart) -> Tensor:
        return start.banks["model"]
