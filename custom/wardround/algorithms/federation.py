"""What is one round at one site, and a federation without NVFlare?

Both are free of input and output. NVFlare's executor calls exactly `local_round`; `run`
is the same federation in one process, for benchmarks and tests.

Deviations from the papers: 1. ONE weight per site (its training patients) holds for all
variables: SCAFFOLD's control variates are weighted by p_i as the model is, so that they
correct the drift from the weighted objective sum p_i f_i.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from wardround.algorithms import patient_work
from wardround.algorithms.base import MASK, Algorithm, LocalStart, Objective, Steps, descend, masked, personal, plain
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.sharing import EVERYTHING, Sharing, require_shared, require_together
from wardround.algorithms.train_only import Confined, TrainOnly
from wardround.core.arrays import Array, Arrays, Layout, RunningMean, from_variable, in_variable
from wardround.core.errors import RoundRefused
from wardround.models.roles import stays_home

Vectors = Mapping[str, Tensor]


class Sum(Protocol):
    """What the updates of one round are added into."""

    def add(self, update: Arrays, weight: float) -> None:
        """Add one site's update with its number of training patients."""

    def mean(self) -> dict[str, Array]:
        """Return the mean update by wire name."""


def start_of(
    algorithm: Algorithm,
    sharing: Sharing,
    received: Vectors,
    memory: Vectors,
    layout: Layout,
    roles: Mapping[str, str],
) -> LocalStart:
    """Return a round's start: received variables, with the site's own blocks at home.

    Without memory["home"] the received values are used everywhere. RoundRefused is
    raised for variables, lengths or roles that do not fit the model.
    """
    _require_fits(algorithm, received, memory, layout, roles)
    start = LocalStart(received, memory, layout, roles, None, sharing.home_roles)
    if "home" in memory and (sharing.home_roles or MASK in memory):
        own = torch.where(start.home, memory["home"], received["model"])
        return replace(start, variables={**received, "model": own}, received=received["model"])
    return start


def local_round(
    algorithm: Algorithm,
    sharing: Sharing,
    received: Vectors,
    memory: Vectors,
    layout: Layout,
    roles: Mapping[str, str],
    objective: Objective,
    steps: Steps,
    scale: float = 1.0,
) -> tuple[dict[str, Array], dict[str, Tensor], tuple[float, ...]]:
    """Return (update, memory, losses) of one round at one site.

    update: `variable:block` differences, float32, of the blocks that travel.
    memory: The complete new memory, which replaces the one given.
    received, memory: Flat vectors by name; neither is changed.
    scale: What the change of the model is multiplied by (patient_work.py).

    memory["home"] is the whole model after the round, kept if some blocks stay home
    (blocks that nobody trains need no keeping: they are as received).
    memory["mask"] is 1 where a value is this site's own by the sharing's choice: such
    values start from memory["home"] and leave as zeros, by the mask from before the
    round and by the one chosen after it. ConfigRefused is raised if no block of the
    network is shared.
    """
    start = start_of(algorithm, sharing, received, memory, layout, roles)
    require_shared(start, sharing)
    frozen = isinstance(sharing, TrainOnly)
    objective = Confined(objective, start) if frozen else objective
    end = algorithm.train(start, objective, steps)
    kept = {**memory, **end.memory, **sharing.chosen(end.variables["model"], start, objective, steps)}
    # Both masks count: a block that has just become personal must not leave in this
    # round either.
    own = start.masked | masked(kept, start.variables["model"])
    travels = [name for name in layout.names if not stays_home(name, roles[name], sharing.home_roles)]
    update: dict[str, Array] = {}
    for variable in algorithm.variables:
        # Masked values leave as zeros, not as a shorter message: the layout must not
        # reveal the mask.
        change = (end.variables[variable] - start.variables[variable]).to(torch.float32).masked_fill(own, 0)
        if scale != 1 and variable == "model":
            change *= scale
        blocks = layout.unflatten(change.cpu().numpy())
        update |= in_variable(variable, {name: blocks[name] for name in travels})
    # Kept whole: which blocks the next round takes from it depends on the next mask.
    if (sharing.home_roles and not frozen) or MASK in kept:
        kept["home"] = end.variables["model"]
    return update, kept, end.losses


@final
@dataclass(frozen=True)
class SiteSide:
    """One site of an in-process federation.

    objective: The site's objective in each round.
    weight: The number of its training patients.
    layout, roles: The blocks of its model and their roles.
    """

    objective: Callable[[int], Objective]
    weight: float
    layout: Layout
    roles: Mapping[str, str]


@final
@dataclass
class FederationResult:
    """The state of an in-process federation after a round.

    variables: The variables under wire names.
    memories: The memory of each site.
    history: The mean local loss of each site, for every round.
    sharing: How the sites share.
    """

    variables: dict[str, Array]
    memories: dict[str, dict[str, Tensor]]
    history: list[dict[str, float]] = field(default_factory=list)
    sharing: Sharing = EVERYTHING

    def personal(self, algorithm: Algorithm, site: str, side: SiteSide) -> Tensor:
        """Return the site's own model before fine-tuning."""
        received = vectors(algorithm, self.variables, side.layout)
        memory = self.memories[site]
        return personal(start_of(algorithm, self.sharing, received, memory, side.layout, side.roles))


def vectors(algorithm: Algorithm, variables: Mapping[str, Array], layout: Layout) -> dict[str, Tensor]:
    """Return the algorithm's variables as flat float32 tensors.

    RoundRefused is raised for blocks that do not fit the layout.
    """
    return {
        variable: torch.from_numpy(layout.flatten(from_variable(variable, variables)))
        for variable in algorithm.variables
    }


def first_variables(algorithm: Algorithm, model: Mapping[str, Array]) -> dict[str, Array]:
    """Return the variables before round 0 under wire names.

    They are the model, and zeros for SCAFFOLD's control.
    """
    variables: dict[str, Array] = {}
    for variable in algorithm.variables:
        variables |= in_variable(
            variable, {n: np.zeros_like(b) for n, b in model.items()} if variable == "control" else model
        )
    return variables


def run(
    sites: Mapping[str, SiteSide],
    algorithm: Algorithm,
    server_optimizer: ServerOptimizer,
    schedule: Schedule,
    model: Mapping[str, Array],
    on_round: Callable[[int, FederationResult], None] = lambda round_, result: None,
    new_sum: Callable[[int], Sum] = lambda round_: RunningMean(),
    sharing: Sharing = EVERYTHING,
) -> FederationResult:
    """Run all rounds with every site taking part and return the result.

    The result's variables are those of the schedule's final model.

    on_round: Called with (round, result so far) after each round, with the model that
        the next round starts from.
    new_sum: Returns what a round's updates are added into, in the order of `sites`; by
        default the float32 mean.
    sharing: Which blocks stay at the sites. ConfigRefused is raised for an algorithm
        that is not sound with it.
    """
    require_together(algorithm, sharing)
    result = FederationResult(first_variables(algorithm, model), {site: {} for site in sites}, sharing=sharing)
    state = server_optimizer.start(result.variables)
    tail: dict[str, Array] = {}
    own = {site: schedule.of_hospital(side.weight) for site, side in sites.items()}
    for round_ in range(schedule.num_rounds):
        # The order of `sites` is the order of the sum: float32 addition depends on it.
        mean, losses = new_sum(round_), {}
        for site, side in sites.items():
            received, memory = vectors(algorithm, result.variables, side.layout), result.memories[site]
            update, result.memories[site], walked = local_round(
                algorithm,
                sharing,
                received,
                memory,
                side.layout,
                side.roles,
                side.objective(round_),
                own[site].steps(round_),
                patient_work.scale(algorithm, schedule.steps(round_), own[site].steps(round_)),
            )
            mean.add(update, side.weight)
            losses[site] = sum(walked) / len(walked)
        result.variables, state = server_optimizer.apply(result.variables, mean.mean(), state, 1.0)
        result.history.append(losses)
        tail = schedule.final.followed(tail, result.variables, round_ + 1)
        on_round(round_, result)
    result.variables = dict(schedule.final.chosen(tail, result.variables, schedule.num_rounds))
    return result


class _Begun(Exception):
    """Ends a trial start: the first gradient was asked for."""


class _Line:
    """An objective without data for a trial start, which ends at the first gradient."""

    def sample(self, count: int) -> tuple[None, ...]:
        return (None,) * count

    def value_and_grad(self, w: Tensor, batch: Any) -> tuple[float, Tensor]:
        raise _Begun


def begin(algorithm: Algorithm, sharing: Sharing, steps: Steps) -> None:
    """Start one round of an algorithm on a tiny model, up to the first gradient.

    The model has one number for each role. Whatever an algorithm refuses because of the
    amount of work, its variables or what stays at home, it refuses here without any
    data: when a job is printed, and again when a site loads it.
    """
    require_together(algorithm, sharing)
    # One block of each role is enough: algorithms look at roles, never at sizes.
    roles = {f"{role}.weight": role for role in ("body", "norm", "adapter", "head")}
    layout = Layout(tuple(roles), ((1,),) * len(roles))
    received = {variable: torch.zeros(layout.total) for variable in algorithm.variables}
    start = start_of(algorithm, sharing, received, {}, layout, roles)
    with contextlib.suppress(_Begun):
        algorithm.train(start, _Line(), steps)


def local_only(objective: Objective, schedule: Schedule, w: Tensor) -> Tensor:
    """Return w trained alone; w is not changed.

    The work, the learning rates, the restarts of the velocity and the choice of the
    final model are those of one site in `run`. With an objective over the pooled patients of all sites this is the
    centralised model.
    """
    final, total = schedule.final, torch.zeros((), dtype=torch.float64, device=w.device)
    for round_ in range(schedule.num_rounds):
        steps = schedule.steps(round_)
        w, _ = descend(w, plain(objective), steps.work, steps)
        if final.number(round_ + 1):
            total = total + w
    return w if final.models == 1 else (total / final.models).to(w.dtype)


def _require_fits(
    algorithm: Algorithm, received: Vectors, memory: Vectors, layout: Layout, roles: Mapping[str, str]
) -> None:
    if set(received) != set(algorithm.variables):
        found, expected = f"variables {sorted(received)}", f"variables {sorted(algorithm.variables)}"
    elif set(roles) != set(layout.names):
        found, expected = f"roles of {len(roles)} blocks", f"a role for each of the {len(layout.names)} blocks"
    elif wrong := [name for name, v in {**memory, **received}.items() if v.shape != (layout.total,)]:
        found, expected = f"vectors {wrong} of another length", f"{layout.total} numbers in each"
    else:
        return
    raise RoundRefused(
        f"what {algorithm.name} starts the round from does not fit this site's model",
        found=found,
        expected=expected,
        fix="run the same job and the same wardround version at every site, and keep the state of one job only",
    )
