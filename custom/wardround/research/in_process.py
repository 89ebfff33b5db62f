"""How does a job's federation run in one process, without NVFlare?

This is the loop of sweeps and benchmarks. Nothing is hidden in it. What a site does in
a round is what it does in a job (`algorithms.federation.local_round`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from wardround.algorithms.base import Algorithm
from wardround.algorithms.federation import FederationResult, SiteSide, Sum, run
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.sharing import EVERYTHING, Sharing
from wardround.core.arrays import RunningMean
from wardround.core.errors import ConfigRefused
from wardround.training.task import TaskSite


@final
@dataclass(frozen=True)
class InProcessFederation:
    """Sites on a CPU and what they run.

    equal: Whether every site weighs 1; if not, it weighs its training patients. A
        schedule that depends on them is then refused with ConfigRefused.
    """

    sites: Mapping[str, TaskSite]
    algorithm: Algorithm
    server_optimizer: ServerOptimizer
    schedule: Schedule
    equal: bool = False
    sharing: Sharing = EVERYTHING

    def __post_init__(self) -> None:
        if self.equal and (by_patients := self.schedule.work_by_patients) is not None:
            raise ConfigRefused(
                f"{by_patients.name} at sites of equal weight",
                found="no number of patients",
                expected="sites that weigh their training patients",
                fix="set work_by_patients to None in the schedule, or equal to False",
            )

    @property
    def sides(self) -> dict[str, SiteSide]:
        """Return each site as `algorithms.federation.run` takes it."""
        return {
            name: SiteSide(
                lambda round_, one=one: one.objective("train", round_),  # type: ignore[misc]
                1.0 if self.equal else float(one.train_patients),
                one.layout,
                one.roles,
            )
            for name, one in self.sites.items()
        }

    def run(
        self,
        initial: Tensor,
        on_round: Callable[[int, FederationResult], None] = lambda round_, result: None,
        new_sum: Callable[[int], Sum] = lambda round_: RunningMean(),
    ) -> FederationResult:
        """Return what all rounds from `initial` lead to; it is not changed.

        on_round: Called with (round, result so far) after each round.
        new_sum: Returns what a round's updates are added into, by default the float32
            mean.
        """
        layout = next(iter(self.sites.values())).layout
        model = layout.unflatten(initial.numpy().copy())
        return run(
            self.sides,
            self.algorithm,
            self.server_optimizer,
            self.schedule,
            model,
            on_round,
            new_sum,
            self.sharing,
        )

    def models(self, result: FederationResult) -> dict[str, Tensor]:
        """Return each site's own model before fine-tuning.

        It is the shared one with the blocks that stay home.
        """
        return {name: result.personal(self.algorithm, name, side) for name, side in self.sides.items()}
