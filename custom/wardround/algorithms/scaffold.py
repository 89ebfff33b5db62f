"""How is the drift of each hospital corrected? SCAFFOLD uses control variates.

The variable `control` carries c down and c_i+ - c_i up:

    direction  g(w) - c_i + c
    c_i+ = mean over the K local steps of the raw gradients g

Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, option II: c_i+ = c_i -
c + (x - y_i) / (K lr). With plain SGD that IS the mean of the raw gradients (insert y_i
= x - lr sum(g_k - c_i + c)).
Deviations: 1. The mean of the raw gradients is used directly, which stays valid with
momentum, clipping and weight decay. 2. Sites are weighted by their patients (p_i) in
both sums, so that c = sum p_i c_i fits the weighted objective. 3. Blocks that stay at
home are trained without correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

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
class Scaffold:
    """SCAFFOLD; each step costs one gradient evaluation.

    memory["control"] is c_i, zero at first; the variable `control` is c.
    """

    name: ClassVar[str] = "SCAFFOLD"
    variables: ClassVar[tuple[str, ...]] = ("model", "control")

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        # A block that stays at home is trained by this site alone: it has no drift to correct, and no variate.
        home = start.home
        shared = start.variables["control"].masked_fill(home, 0)
        own = start.memory.get("control", torch.zeros_like(shared)).masked_fill(home, 0)
        total = torch.zeros_like(shared)
        raw = plain(objective)

        def corrected(w: Tensor) -> tuple[float, Tensor]:
            loss, g = raw(w)
            # Added at once: the next evaluation may overwrite the gradient.
            total.add_(g)
            return loss, g - own + shared

        w, losses = descend(start.variables["model"], corrected, steps.work, steps)
        new = (total / steps.work).masked_fill(home, 0)
        return LocalEnd(
            {"model": w, "control": shared + (new - own)},
            tuple(losses),
            {"control": new},
        )
