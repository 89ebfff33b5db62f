"""What is an algorithm given, what does it return, and how does it descend?

A model is ONE flat float32 vector. A variable is a named vector that travels (`model`,
SCAFFOLD's `control`). Algorithms differ in the direction in which they step, so they
run unchanged on a U-Net and on a quadratic whose answer is known (there in float64: an
algorithm keeps the precision of the vectors it is given).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import ALONE, STEADY, Part, Traits
from wardround.models.roles import stays_home

# Names in a site's memory: what its mask keeps, and its own model.
MASK = "mask"
PERSONAL = "personal"
Direction = Callable[[Tensor], tuple[float, Tensor]]
BESIDE = Part(
    "FedAvg beside it",
    Traits(breaks=frozenset({ALONE})),
    "--set fedavg_baseline=false",
)
"""FedAvg, trained in the same rounds so that the report can compare."""


class Objective(Protocol):
    """Stochastic gradients of one site's loss."""

    def sample(self, count: int) -> tuple[Any, ...]:
        """Return `count` mini-batches.

        They are disjoint in patients while the site has enough of them.
        """

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        """Return (loss, gradient) at w.

        The next call may overwrite the gradient, and so may the caller. Dropout depends
        on the batch only.
        """


@dataclass(frozen=True)
class Steps:
    """How one site works in one round.

    work: The number of gradient evaluations, at least 1.
    lr: The learning rate of SGD, above 0 and below 10.
    rates: The learning rate at each of the `work` gradient evaluations, in the range of
        lr, which it then replaces; empty means lr throughout.
    momentum, nesterov, weight_decay: As in torch.optim.SGD.
    clip_norm: The largest norm of a step's direction; 0 means no clipping.
    round: The round, counted from 0.

    Values outside their ranges raise ConfigRefused.
    """

    work: int
    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    round: int = 0
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        moves = self.work >= 1 and 0 < self.lr < 10 and 0 <= self.momentum < 1
        if not (moves and 0 <= self.weight_decay < 10 and 0 <= self.clip_norm < 1e6):
            raise ConfigRefused(
                "the local steps",
                found=f"work {self.work}, lr {self.lr}, momentum {self.momentum}, weight_decay {self.weight_decay}, "
                f"clip_norm {self.clip_norm}",
                expected="work >= 1, 0 < lr < 10, 0 <= momentum < 1, 0 <= weight_decay < 10, clip_norm >= 0 (0: none)",
                fix="set these values in the job, as --set work=40 --set lr=0.05",
            )
        if self.nesterov and not self.momentum:
            raise ConfigRefused(
                "Nesterov steps",
                found="momentum 0",
                expected="momentum > 0",
                fix="set momentum, or nesterov to false",
            )
        if self.rates and not (len(self.rates) == self.work and all(0 < rate < 10 for rate in self.rates)):
            raise ConfigRefused(
                "the learning rates of a round",
                found=f"{len(self.rates)} rates for {self.work} gradient evaluations, or one out of range",
                expected="one for each gradient evaluation, above 0 and below 10",
                fix="use Schedule.steps(round), which makes them",
            )

    def rate(self, step: int, count: int) -> float:
        """Return the learning rate of one of `count` steps of this round.

        Steps that cost several gradient evaluations, or that are only a part of the
        round's work, pass through the whole round's rates as any others do: step i has
        the rate of gradient evaluation floor(i work / count).
        """
        return self.rates[step * self.work // count] if self.rates else self.lr

    @property
    def mean_rate(self) -> float:
        """Return the mean learning rate of the round."""
        return sum(self.rates) / self.work if self.rates else self.lr


@dataclass(frozen=True)
class LocalStart:
    """What a site starts a round from.

    variables: The variables as received, with the site's own blocks filled in.
    memory: What the site kept from its last round.
    layout: The blocks of the flat vectors.
    roles: The role of each block.
    received: The model as it came; None if no blocks were filled in.
    home_roles: The roles of the blocks that never leave (sharing.py).
    """

    variables: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    layout: Layout
    roles: Mapping[str, str]
    received: Tensor | None = None
    home_roles: tuple[str, ...] = ()

    @property
    def home(self) -> Tensor:
        """Return a boolean vector: true where a value stays at this site in this round.

        A value stays by its role, or by memory["mask"].
        """
        return self.mask(*self.home_roles) | self.masked

    @property
    def masked(self) -> Tensor:
        """Return a boolean vector: true where memory["mask"] keeps a value here.

        Without a mask it is false everywhere.
        """
        return masked(self.memory, self.variables["model"])

    def mask(self, *roles: str) -> Tensor:
        """Return a boolean vector: true where a block has one of these roles.

        roles: As `models.roles.stays_home` reads them.
        """
        chosen = [name for name in self.layout.names if stays_home(name, self.roles[name], roles)]
        return torch.from_numpy(self.layout.mask(chosen)).to(self.variables["model"].device)


@dataclass(frozen=True)
class LocalEnd:
    """What a site ends a round with.

    The update that leaves is `variables` minus the variables received, without blocks
    that stay at home. memory["personal"] is the site's own model before fine-tuning, if
    that is not the model that it trains with the others.
    """

    variables: Mapping[str, Tensor]
    losses: tuple[float, ...]
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class Algorithm(Protocol):
    """A local algorithm: a frozen value with one pure function.

    What leaves the site is not decided here but in sharing.py.
    """

    @property
    def name(self) -> str:
        """The name that reports print."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that travel, `model` first."""

    def train(self, start: LocalStart, objective: Objective, steps: Steps) -> LocalEnd:
        """Spend steps.work gradient evaluations."""


def traits_of(algorithm: Algorithm) -> Traits:
    """Return what an algorithm needs of the stages around it.

    An algorithm with a second variable needs the same shared blocks in every round. One
    whose class has `traits` needs what they say.
    """
    own = getattr(algorithm, "traits", None)
    if isinstance(own, Traits):
        return own
    if len(algorithm.variables) == 1:
        return Traits()
    kept = ", ".join(algorithm.variables[1:])
    why = (
        f"the same shared blocks in every round: else the server keeps {kept} of blocks that a hospital has taken home"
    )
    return Traits(needs=frozenset({STEADY}), why={STEADY: why})


def personal(start: LocalStart) -> Tensor:
    """Return this site's own model before fine-tuning, from the final variables and memory."""
    return start.memory.get(PERSONAL, start.variables["model"])


def masked(memory: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return a boolean vector like `like`: true where memory["mask"] keeps a value.

    Without a mask it is false everywhere.
    """
    return memory[MASK] > 0 if MASK in memory else torch.zeros_like(like, dtype=torch.bool)


def descend(
    w: Tensor,
    direction: Direction,
    count: int,
    steps: Steps,
    mask: Tensor | None = None,
) -> tuple[Tensor, list[float]]:
    """Take `count` SGD steps from w, which is not changed; return (new w, losses).

    Step i of the `count` has the learning rate steps.rate(i, count). Momentum, Nesterov
    and weight decay are those of torch.optim.SGD, with a velocity that starts at zero.
    With clip_norm > 0 the whole direction, a method's own terms
    included, is scaled to at most that norm, before weight decay.
    mask: Only coordinates where it is true move; None moves all.

    RoundRefused is raised for a loss or weight that is not finite.
    """
    w = w.clone()
    # The velocity starts at zero in every round: it would point at a model that is
    # gone.
    velocity = torch.zeros_like(w)
    losses = []
    for step in range(count):
        loss, g = direction(w)
        # 1e-12 keeps a gradient of exactly zero from dividing by zero.
        if steps.clip_norm > 0 and (scale := steps.clip_norm / (g.norm() + 1e-12)) < 1:
            g.mul_(scale)
        if steps.weight_decay:
            g.add_(w, alpha=steps.weight_decay)
        if mask is not None:
            g.mul_(mask)
        if steps.momentum:
            velocity.mul_(steps.momentum).add_(g)
            g = g.add_(velocity, alpha=steps.momentum) if steps.nesterov else velocity
        w.add_(g, alpha=-steps.rate(step, count))
        losses.append(loss)
    # One check after the loop is enough: a weight that is NaN or inf stays so.
    if not (torch.isfinite(w).all() and torch.isfinite(torch.tensor(losses)).all()):
        raise RoundRefused(
            "local training diverged",
            found="a loss or weight that is not finite",
            expected="finite numbers",
            fix="lower the learning rate, or run `wardround data check` on this site's images",
        )
    return w, losses


def plain(objective: Objective) -> Direction:
    """Return the direction of FedAvg: the gradient on the next mini-batch."""
    return lambda w: objective.value_and_grad(w, objective.sample(1)[0])


def whole_steps(work: int, cost: int, who: str) -> int:
    """Return the number of steps that cost `cost` gradient evaluations each.

    ConfigRefused is raised unless `work` is a positive multiple of `cost`.
    """
    if work < cost or work % cost:
        raise ConfigRefused(
            f"{who} spends {cost} gradient evaluations per step",
            found=f"work = {work}",
            expected=f"a multiple of {cost}",
            fix="change `work` in the job, so that every method does equal local work",
        )
    return work // cost
