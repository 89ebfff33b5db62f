"""How is a shared model trained to be good AFTER one local gradient step?

Per-FedAvg is meta-learning with an inner step of size alpha:

    w~ = w - alpha g(w; D)
    FO   direction = g(w~; D')
    HF   v = g(w~; D');  Hv = [g(w + d v; D'') - g(w - d v; D'')] / (2 d)
         direction = v - alpha Hv

Source: Fallah et al. 2020, arXiv:2002.07948, Algorithm 1 and section 4.2 (FO, HF).
Deviations: 1. d is `delta` divided by ||v||, so that the finite difference has the same
size whatever the gradient. 2. The outer step may have momentum, clipping and a schedule
(`Steps`); the inner one is plain. 3. There are work / 2 (FO) or work / 4 (HF) local
steps, so that every method does equal local work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from wardround.algorithms.base import (
    Direction,
    LocalEnd,
    LocalStart,
    Objective,
    Steps,
    descend,
    whole_steps,
)
from wardround.core.errors import ConfigRefused

# Gradient evaluations per step.
COST = {"FO": 2, "HF": 4}


def meta_gradient(objective: Objective, alpha: float, hessian: str, delta: float) -> Direction:
    """Return the direction above as a function of w.

    Every call draws three disjoint mini-batches D, D', D'' (FO needs only two). The
    loss is that of w itself on D, before the inner step, so that curves compare with
    other methods. With alpha = 0 this is FedAvg's gradient on D', bit for bit. With v =
    0 no curvature is felt, and Hv = 0.
    """

    def direction(w: Tensor) -> tuple[float, Tensor]:
        batches = objective.sample(3 if hessian == "HF" else 2)
        loss, g = objective.value_and_grad(w, batches[0])
        _, v = objective.value_and_grad(w - alpha * g, batches[1])
        if hessian == "FO":
            return loss, v
        # The next evaluation may overwrite the gradient's memory.
        v = v.clone()
        d = delta / (float(v.norm()) + 1e-12)
        plus = objective.value_and_grad(w + d * v, batches[2])[1].clone()
        minus = objective.value_and_grad(w - d * v, batches[2])[1]
        return loss, v - alpha * (plus - minus) / (2 * d)

    return direction


@final
@dataclass(frozen=True)
class PerFedAvg:
    """Per-FedAvg with first-order (FO) or Hessian-free (HF) meta-gradients.

    alpha: The size of the inner step, at least 0 and below 10.
    hessian: FO, with 2 gradient evaluations per step, or HF, with 4.
    delta: The length of d v above, between 0 and 1.

    The site's own model is the shared one after k fine-tuning steps (finetune.py).
    Values outside their ranges raise ConfigRefused.
    """

    alpha: float
    hessian: Literal["FO", "HF"]
    delta: float

    name: ClassVar[str] = "Per-FedAvg"
    variables: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        given = self.alpha is not None and self.delta is not None
        if not (given and 0 <= self.alpha < 10 and self.hessian in COST and 0 < self.delta < 1):
            raise ConfigRefused(
                "Per-FedAvg",
                found=f"alpha {self.alpha}, hessian {self.hessian}, delta {self.delta}",
                expected="alpha >= 0, hessian FO or HF, 0 < delta < 1",
                fix="--set algorithm.alpha=0.01 (hessian and delta likewise)",
            )

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        count = whole_steps(steps.work, COST[self.hessian], f"{self.name} ({self.hessian})")
        direction = meta_gradient(objective, self.alpha, self.hessian, self.delta)
        w, losses = descend(start.variables["model"], direction, count, steps)
        return LocalEnd({"model": w}, tuple(losses))
