"""A job's federation in one process, without NVFlare and without anything hidden: the loop of sweeps and benchmarks.

What a site does in a round is what it does in a job (`algorithms.federation.local_round`).
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
from wardround.training.task import TaskSite


@final
@dataclass(frozen=True)
class InProcessFederation:
    """Sites (on a CPU) and what they run. equal: every site weighs 1; else it weighs its training patients."""

    sites: Mapping[str, TaskSite]
    algorithm: Algorithm
    server_optimizer: ServerOptimizer
    schedule: Schedule
    equal: bool = False
    sharing: Sharing = EVERYTHING

    @property
    def sides(self) -> dict[str, SiteSide]:
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
        """Return what all rounds from `initial` (not changed) lead to; on_round sees (round, result so far).

        new_sum: what a round's updates are added into (default: the float32 mean)
        """
        layout = next(iter(self.sites.values())).layout
        model = layout.unflatten(initial.numpy().copy())
        return run(
            self.sides, self.algorithm, self.server_optimizer, self.schedule, model, on_round, new_sum, self.sharing
        )

    def models(self, result: FederationResult) -> dict[str, Tensor]:
        """Return site -> its own model before fine-tuning: the shared one with the blocks that stay home."""
        return {name: result.personal(self.algorithm, name, side) for name, side in self.sides.items()}
