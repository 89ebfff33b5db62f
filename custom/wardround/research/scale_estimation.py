"""How large is an update, and where is the loss steep, at a PUBLIC hospital?

This is measured before a private job starts. The clipping norm and the scales for
hospital-level noise must not come from the hospitals that take part: any number taken
from their updates would be a release of its own. A synthetic hospital (or a public data
set) costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from wardround.algorithms.base import Algorithm, Steps
from wardround.algorithms.federation import local_round
from wardround.algorithms.sharing import Sharing
from wardround.core.arrays import Array, Layout, norm
from wardround.dp.scales import groups_of, scales, sizes_of, squares
from wardround.dp.scaling import unscaled
from wardround.training.task import TaskSite

# Noise grows with the clipping norm as the signal does; half the norm halves both.
CLIP_SHARE = 0.5


@final
@dataclass(frozen=True)
class ScaleEstimate:
    """One public round, of the blocks that would leave.

    update: The update.
    gradient: The root mean square of the gradients at the start.
    """

    update: dict[str, Array]
    gradient: dict[str, Array]

    @property
    def layout(self) -> Layout:
        return Layout.of(self.update)

    @property
    def v(self) -> tuple[float, ...]:
        """Return the mean squared update by group."""
        return squares(self.layout, groups_of(self.layout), self.update)

    @property
    def h(self) -> tuple[float, ...]:
        """Return the mean squared gradient by group.

        It is the diagonal of the Fisher matrix, up to mini-batch noise.
        """
        return squares(self.layout, groups_of(self.layout), self.gradient)

    @property
    def scales(self) -> tuple[float, ...]:
        """Return the scale of each group."""
        return scales(self.v, self.h, sizes_of(self.layout, groups_of(self.layout)))

    def clip(self, s: tuple[float, ...]) -> float:
        """Return half the norm of the scaled update.

        A hospital's signal is cut to half, and its noise with it.
        """
        return CLIP_SHARE * norm(unscaled(s, self.update))


def estimate(
    site: TaskSite,
    algorithm: Algorithm,
    sharing: Sharing,
    w: Tensor,
    steps: Steps,
    batches: int,
) -> ScaleEstimate:
    """Train one round from w (not changed) and measure gradients there.

    batches: The number of mini-batches for the gradients.
    """
    objective = site.objective("rehearsal")
    update, _, _ = local_round(
        algorithm,
        sharing,
        {"model": w.clone()},
        {},
        site.layout,
        site.roles,
        objective,
        steps,
    )
    total = torch.zeros_like(w)
    for batch in objective.sample(batches):
        total += objective.value_and_grad(w, batch)[1].square()
    root: Array = np.sqrt(total.cpu().numpy() / batches, dtype=np.float32)
    gradient = site.layout.unflatten(root)
    return ScaleEstimate(update, {name: gradient[name.partition(":")[2]] for name in update})
