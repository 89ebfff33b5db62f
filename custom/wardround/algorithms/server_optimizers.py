"""What does the server do with the mean update of a round?

Server optimizers are pure functions of named arrays, their state included; they do not
use torch. The optimizer's own step is for the variable `model`. `control` (SCAFFOLD)
moves by |S|/N of its mean, and any other variable (that of a baseline that travels in
the same message) by its whole mean.

Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1 (Mean); Reddi et al. 2021,
arXiv:2003.00295, Algorithm 2 (FedAdam, FedYogi); Hsu et al. 2019, arXiv:1909.06335,
section 4.3 (FedAvgM); Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, server
(`control`).
Deviations: 1. The mean is weighted by patients; Reddi et al. and Karimireddy et al.
write a plain mean over sites. As in Algorithm 2 there is no bias correction; v starts
at tau^2, the least value it allows, and m at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from wardround.core.arrays import Array, Arrays, add_scaled, require_same_blocks
from wardround.core.errors import ConfigRefused, RoundRefused
from wardround.core.traits import ANCHORED, STEADY, Part, Traits

State = dict[str, Array]
Applied = tuple[dict[str, Array], State]


class ServerOptimizer(Protocol):
    """A server optimizer: a frozen value.

    Weights and mean have wire names `variable:block`; the state is named arrays too.
    """

    def start(self, weights: Arrays) -> State:
        """Return the state before the first round."""

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        """Return (new weights, new state); nothing given is changed.

        participation: |S|/N of this round; with unequal weights the share of all
            weight, so that c stays sum p_i c_i.

        Blocks without an update are kept, with their state. RoundRefused is raised for
        an update of blocks that are not here.
        """


@final
@dataclass(frozen=True)
class Mean:
    """FedAvg's step, w + server_lr * D."""

    server_lr: float

    def __post_init__(self) -> None:
        _require_positive("Mean", server_lr=self.server_lr)

    def start(self, weights: Arrays) -> State:
        return {}

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        moved = _move_others(weights, mean, participation)
        return add_scaled(moved, _variable(mean, "model"), self.server_lr), {}


@final
@dataclass(frozen=True)
class MeanOfModels:
    """The step of MR-MTL, w + |S|/N D: w stays the mean of ALL hospitals' own models.

    D is the mean change of the own models of those that took part. The models of the
    others did not change.
    """

    def start(self, weights: Arrays) -> State:
        return {}

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        moved = _move_others(weights, mean, participation)
        return add_scaled(moved, _variable(mean, "model"), participation), {}


@final
@dataclass(frozen=True)
class FedAvgM:
    """Server momentum on the mean update D: m = b m + D;  w + lr m.

    With momentum 0 and lr 1 this is FedAvg's step. In the long run a constant D moves w
    by lr / (1 - b) D a round.
    """

    lr: float
    momentum: float

    def __post_init__(self) -> None:
        _require_positive("FedAvgM", lr=self.lr)
        _require_share("FedAvgM", momentum=self.momentum)

    def start(self, weights: Arrays) -> State:
        return _momentum(weights)

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        moved, kept = _move_others(weights, mean, participation), dict(state)
        for name, delta in _variable(mean, "model").items():
            kept[f"m.{name}"] = np.float32(self.momentum) * state[f"m.{name}"] + delta
        steps = {name: kept[f"m.{name}"] for name in _variable(mean, "model")}
        return add_scaled(moved, steps, self.lr), kept


@final
@dataclass(frozen=True)
class FedAdam:
    """The Adam step on the mean update D.

    m = b1 m + (1-b1) D;  v = b2 v + (1-b2) D^2;  w + lr m / (sqrt(v) + tau).
    """

    lr: float
    beta1: float
    beta2: float
    tau: float

    def __post_init__(self) -> None:
        _require_positive("FedAdam", lr=self.lr, tau=self.tau)
        _require_share("FedAdam", beta1=self.beta1, beta2=self.beta2)

    def start(self, weights: Arrays) -> State:
        return _moments(weights, self.tau)

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        return _adapt(self, lambda v, square: square - v, weights, mean, state, participation)


@final
@dataclass(frozen=True)
class FedYogi:
    """The Yogi step: FedAdam with v = v - (1-b2) D^2 sign(v - D^2)."""

    lr: float
    beta1: float
    beta2: float
    tau: float

    def __post_init__(self) -> None:
        _require_positive("FedYogi", lr=self.lr, tau=self.tau)
        _require_share("FedYogi", beta1=self.beta1, beta2=self.beta2)

    def start(self, weights: Arrays) -> State:
        return _moments(weights, self.tau)

    def apply(
        self,
        weights: Arrays,
        mean: Arrays,
        state: Arrays,
        participation: float,
    ) -> Applied:
        return _adapt(
            self,
            lambda v, square: square * np.sign(square - v),
            weights,
            mean,
            state,
            participation,
        )


def part_of(server_optimizer: ServerOptimizer) -> Part:
    """Return a server optimizer as a part of a job, with what it needs of the updates.

    One that keeps a state needs the same shared blocks in every round. All but
    MeanOfModels need changes from the shared model.
    """
    needs = set() if isinstance(server_optimizer, MeanOfModels) else {ANCHORED}
    needs |= {STEADY} if server_optimizer.start({"model:block": np.zeros(1, np.float32)}) else set()
    why = {STEADY: "the same shared blocks in every round: else the server moves on a block that hospitals took home"}
    name, fix = f"the server optimizer {type(server_optimizer).__name__}", "leave --set server_optimizer out"
    return Part(name, Traits(needs=frozenset(needs), why=why), fix)


def _adapt(
    server_optimizer: FedAdam | FedYogi,
    change: Callable[[Array, Array], Array],
    weights: Arrays,
    mean: Arrays,
    state: Arrays,
    participation: float,
) -> Applied:
    """Return the step of both: they share m, and v moves by (1-b2) change(v, D^2)."""
    moved, kept = _move_others(weights, mean, participation), dict(state)
    for name, delta in _variable(mean, "model").items():
        m = np.float32(server_optimizer.beta1) * state[f"m.{name}"] + np.float32(1 - server_optimizer.beta1) * delta
        v = state[f"v.{name}"] + np.float32(1 - server_optimizer.beta2) * change(
            state[f"v.{name}"],
            delta * delta,
        )
        kept[f"m.{name}"], kept[f"v.{name}"] = m, v
        # Factors are float32, so that the arrays stay float32 in every version of NumPy.
        root: Array = np.sqrt(v)
        moved[name] = weights[name] + np.float32(server_optimizer.lr) * m / (root + np.float32(server_optimizer.tau))
    return moved, kept


def _moments(weights: Arrays, tau: float) -> State:
    model = _variable(weights, "model")
    return _momentum(weights) | {f"v.{name}": np.full_like(block, tau**2) for name, block in model.items()}


def _momentum(weights: Arrays) -> State:
    return {f"m.{name}": np.zeros_like(block) for name, block in _variable(weights, "model").items()}


def _move_others(weights: Arrays, mean: Arrays, participation: float) -> dict[str, Array]:
    """Return the weights with every variable but `model` moved.

    RoundRefused is raised for a mean that does not fit, whatever its variable.
    """
    if not 0 < participation <= 1:
        raise RoundRefused(
            "participation",
            found=f"{participation}",
            expected="above 0, at most 1",
            fix="count the sites",
        )
    require_same_blocks(
        {name: weights[name] for name in mean if name in weights},
        mean,
        "a mean update",
    )
    # `control` is an average over ALL sites: those that did not take part changed
    # nothing.
    control = _variable(mean, "control")
    others = {name: block for name, block in mean.items() if name not in control and not name.startswith("model:")}
    return add_scaled(add_scaled(weights, control, participation), others, 1.0)


def _variable(arrays: Arrays, variable: str) -> dict[str, Array]:
    return {name: block for name, block in arrays.items() if name.startswith(f"{variable}:")}


def _require_positive(server_optimizer: str, **values: float) -> None:
    for name, value in values.items():
        if value is None or not 0 < value < 1e6:
            raise ConfigRefused(
                server_optimizer,
                found=f"{name} {value}",
                expected=f"{name} > 0",
                fix=f"--set server_optimizer.{name}=NUMBER, within that range",
            )


def _require_share(server_optimizer: str, **values: float) -> None:
    for name, value in values.items():
        if value is None or not 0 <= value < 1:
            raise ConfigRefused(
                server_optimizer,
                found=f"{name} {value}",
                expected=f"0 <= {name} < 1",
                fix=f"--set server_optimizer.{name}=NUMBER, within that range",
            )
