"""Which blocks does a job train? The others stay, everywhere, what they were at first.

It is a sharing (sharing.py): what is trained travels. What is not trained does not stay
at home either, because no hospital changes it: with a public warm start the whole model
is the public one plus what was trained.

    affine   scale and shift of every normalisation layer, and every bias
    head     the last block of the network, whole
    adapter  the trained half of the low-rank adapters

Source: Bu et al. 2024, arXiv:2210.00036 (DP-BiTFiT: under differential privacy train
biases alone). Deviations: 1. Scales and shifts of norms are trained as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from wardround.algorithms.base import LocalStart, Objective, Steps
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Traits
from wardround.models.roles import stays_home

PARTS: Mapping[str, str] = {
    "affine": "scales, shifts and biases",
    "head": "the last block (the head)",
    "adapter": "the low-rank adapters",
}


@final
@dataclass(frozen=True)
class TrainOnly:
    """Only the blocks of `train` are trained and leave; all others are never changed.

    train: One or more words of PARTS. Anything else raises ConfigRefused.
    """

    train: tuple[str, ...]

    traits: ClassVar[Traits] = Traits()
    stays: ClassVar[str] = ""

    def __post_init__(self) -> None:
        given = self.train if isinstance(self.train, (list, tuple)) else (self.train,)
        if not given or any(part not in PARTS for part in given):
            raise ConfigRefused(
                "the blocks that a job trains",
                found=f"{list(given)}",
                expected=f"one or more of {', '.join(PARTS)}",
                fix="--set sharing.train=[affine], or another list",
            )
        # A job's JSON holds a list; a frozen value must be hashable and print alike wherever it was made.
        object.__setattr__(self, "train", tuple(part for part in PARTS if part in given))

    @property
    def home_roles(self) -> tuple[str, ...]:
        """Return the roles of what is not trained (models/roles.py)."""
        affine = "affine" in self.train
        # A bias or a norm is trained as "affine", wherever it is.
        found = [] if "head" in self.train else ["head_weights" if affine else "head"]
        found += [] if affine else ["norm"]
        found += ["body_weights" if affine else "body"]
        return (*found, *(() if "adapter" in self.train else ("adapter",)))

    @property
    def title(self) -> str:
        return f"training {', '.join(PARTS[part] for part in self.train)} alone"

    def chosen(
        self,
        w: Tensor,
        start: LocalStart,
        objective: Objective,
        steps: Steps,
    ) -> Mapping[str, Tensor]:
        return {}


@final
class Confined:
    """An objective whose gradients are zero where a model is not trained.

    It is evaluated at the values from which the round began there, so that nothing an
    algorithm does to them (weight decay) counts.
    """

    def __init__(self, objective: Objective, start: LocalStart) -> None:
        self._objective = objective
        self._frozen = start.home
        self._first = start.variables["model"]

    def sample(self, count: int) -> tuple[Any, ...]:
        return self._objective.sample(count)

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        loss, g = self._objective.value_and_grad(torch.where(self._frozen, self._first, w), batch)
        return loss, g.masked_fill(self._frozen, 0)


def trained(sharing: object, layout: Layout, roles: Mapping[str, str]) -> Tensor | None:
    """Return a boolean vector, true where a job trains; None where it trains all.

    roles: The role of each block of the layout.
    """
    if not isinstance(sharing, TrainOnly):
        return None
    names = [name for name in layout.names if not stays_home(name, roles[name], sharing.home_roles)]
    return torch.from_numpy(layout.mask(names))
