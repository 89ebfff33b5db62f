"""A federation under one noise of all hospitals, in one process: for benchmarks.

A hospital's sum and the step on the revealed sums are those of a job
(training/dp_training.py, algorithms/federation.py, dp/joint_dp.py). Nothing is hidden
here and no ledger is charged: the noise shows what privacy costs, and this process,
which sees every sum, keeps no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from torch import Tensor

from wardround.algorithms.federation import FederationResult, SiteSide, run
from wardround.algorithms.patient_steps import PatientSteps
from wardround.algorithms.schedule import Schedule
from wardround.algorithms.server_optimizers import ServerOptimizer
from wardround.algorithms.train_only import TrainOnly
from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import RoundRefused
from wardround.dp.gaussian_noise import normal, secret_words
from wardround.dp.joint_dp import JointDP, noised
from wardround.training.dp_training import DPSite
from wardround.training.task import TaskSite

Noise = Literal["joint", "own", "none"]


@final
class JointSum:
    """The integers of one round, added up: a `Sum` of algorithms/federation.py.

    noise: "joint": every hospital adds its share, as a job does. "own": every hospital
        adds the whole noise, as it must where nobody else's counts. "none": no noise.
    """

    def __init__(self, promise: JointDP, noise: Noise) -> None:
        self._promise, self._noise = promise, noise
        self._layout: Layout | None = None
        self._total = np.zeros(0)
        self.sites = 0

    def add(self, update: Arrays, weight: float) -> None:
        """Add one hospital's sum. Its weight does not count."""
        layout = Layout.of(update)
        if self._layout is None:
            self._layout, self._total = layout, np.zeros(layout.total)
        if layout != self._layout:
            raise RoundRefused(
                "a sum of patients' gradients",
                found="other blocks than the hospital before",
                expected="the same blocks at every hospital",
                fix="run the same job at every hospital",
            )
        values: Any = layout.flatten(update).astype(np.float64)
        if self._noise == "joint":
            values = noised(self._promise, values) * self._promise.step
        elif self._noise == "own":
            whole = self._promise.noise_multiplier * self._promise.max_grad_norm
            values = values + normal(secret_words(values.size)) * whole
        self._total += values
        self.sites += 1

    def mean(self) -> dict[str, Array]:
        """Return the sum over the public number of patients."""
        if self._layout is None:
            raise RoundRefused("a sum", found="no hospital", expected="at least one", fix="add hospitals")
        mean = self._layout.unflatten((self._total / self.sites).astype(np.float32))
        return self._promise.gradient(mean, self.sites)


@final
@dataclass(frozen=True)
class JointFederation:
    """Sites on a CPU, and the private steps that they take together.

    trained: Which blocks are trained.
    noise: As in JointSum.
    """

    sites: Mapping[str, TaskSite]
    algorithm: PatientSteps
    trained: TrainOnly
    promise: JointDP
    server_optimizer: ServerOptimizer
    schedule: Schedule
    noise: Noise = "joint"

    def run(
        self,
        initial: Tensor,
        on_round: Callable[[int, FederationResult], None] = lambda round_, result: None,
    ) -> FederationResult:
        """Return what all rounds from `initial` lead to; it is not changed."""
        homes = {name: DPSite(one, self.promise) for name, one in self.sites.items()}
        sides = {name: self._side(home) for name, home in homes.items()}
        layout = next(iter(self.sites.values())).layout
        return run(
            sides,
            self.algorithm,
            self.server_optimizer,
            self.schedule,
            layout.unflatten(initial.numpy().copy()),
            on_round,
            lambda round_: JointSum(self.promise, self.noise),
            self.trained,
        )

    def _side(self, home: DPSite) -> SiteSide:
        site, patches = home.site, self.algorithm.patches
        return SiteSide(
            lambda round_: home.objective(1, "train", round_, sharing=self.trained, patches=patches),
            1.0,
            site.layout,
            site.roles,
        )
