"""How does every hospital keep a model of its own, near the mean of all models?

MR-MTL (mean-regularised multi-task learning) minimises

    sum_i p_i [ f_i(w_i) + lam/2 ||w_i - m||^2 ],   m = sum_i p_i w_i

over the hospitals' own models w_i; p_i is a hospital's share of the patients. In a round
a hospital steps

    w_i <- w_i - lr (g(w_i) + lam (w_i - m))

with m as it came, and sends the change of w_i. The shared model starts where all own
models start and moves by the mean of these changes (`server_optimizers.MeanOfModels`),
so it is m without any hospital sending its model. lam = 0 is local training; for lam
towards infinity all models become one, which minimises sum_i p_i f_i.

Source: Liu et al. 2022, arXiv:2206.07902, section 3 (MR-MTL); Hanzely and Richtarik 2020,
arXiv:2002.05516, eq. (2).
Deviations: 1. There is a fixed number of steps, and momentum, clipping and a schedule are
allowed (`Steps`). 2. A block that stays at home has no mean: it is not pulled. 3. A
hospital whose first round is not the job's first starts from the shared model of that
round; from then on that model is off the mean by p_i times its change until then.
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
)
from wardround.algorithms.fedprox import proximal, require_pull
from wardround.core.traits import ANCHORED, STEADY, Traits


@final
@dataclass(frozen=True)
class MRMTL:
    """MR-MTL; each step costs one gradient evaluation.

    lam: The pull towards the mean of the models, at least 0; 0 is local training. Plain
        steps need lr lam < 2 to be stable.

    memory["personal"] is w_i, which starts as the shared model. `variables["model"]` is
    the received model plus the change of w_i. The losses reported are those of w_i,
    without the pull.
    """

    lam: float

    name: ClassVar[str] = "MR-MTL"
    variables: ClassVar[tuple[str, ...]] = ("model",)
    traits: ClassVar[Traits] = Traits(
        needs=frozenset({STEADY}),
        breaks=frozenset({ANCHORED}),
        why={
            STEADY: "the same shared blocks in every round: else the shared model is no longer the mean of the "
            "hospitals' own models"
        },
    )

    def __post_init__(self) -> None:
        require_pull("MR-MTL", "lam", self.lam, 0.1)

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        mean, own = start.variables["model"], personal(start)
        w, losses = descend(own, proximal(plain(objective), mean, self.lam, start.home), steps.work, steps)
        return LocalEnd({"model": mean + (w - own)}, tuple(losses), {PERSONAL: w})
