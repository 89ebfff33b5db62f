"""Hospital-level DP as a stage: ONE clip of the whole update, and noise.

It acts on whatever update it is given. The training side divides by public scales
before (dp/scaling.py), and nothing that is promised here depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from wardround.core.arrays import Layout
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import Traits
from wardround.dp import noise_shares
from wardround.dp.charged import require_whole
from wardround.dp.hospital_dp import HospitalDP, privatise
from wardround.dp.releases import GaussianRelease, Release, Unit
from wardround.dp.scales import isotropic


@final
@dataclass(frozen=True)
class HospitalRelease:
    """Clip and noise for one update of the whole hospital.

    What leaves is in whole steps of `promise.step`. A missing value raises
    ConfigRefused.

    promise: clip and noise, and the sum for which they are made.
    num_rounds: how many releases the job makes.
    delta: the delta at which epsilon is stated.
    accept_vacuous: whether an epsilon that is no privacy claim is accepted.
    """

    promise: HospitalDP
    num_rounds: int
    delta: float
    accept_vacuous: bool

    unit: ClassVar[Unit] = "hospital"
    name: ClassVar[str] = HospitalDP.name
    traits: ClassVar[Traits] = HospitalDP.traits

    def __post_init__(self) -> None:
        require_whole(self)

    def cost(self) -> Release:
        """Return what one round's update costs."""
        return self.promise.release

    def plan(self) -> Release:
        """Return what the job costs."""
        return GaussianRelease("hospital", self.promise.noise_multiplier, self.num_rounds)

    def require_exact(self, values: int) -> None:
        """Raise ConfigRefused unless rounding costs no more than is set aside.

        It is the cost of `num_rounds` sums of `values` numbers.
        """
        noise_shares.epsilon(self.promise, values, self.num_rounds, [], self.delta)

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, Receipt]:
        """Return the update clipped as one vector, with this hospital's noise.

        NaN or inf raises ReleaseRefused.
        """
        p = self.promise
        where = f"{p.shares} shares of it make the whole" if p.distributed else "all of it added here"
        words = (
            f"z {p.noise_multiplier:.4g}, clip {p.max_update_norm:g}, unit: hospital, noise {p.deviation:.4g} ({where})"
        )
        noised = privatise(p, update.params, isotropic(Layout.of(update.params))).update
        return replace(update, params=noised), {
            "mechanism": "Gaussian",
            "guarantee": words,
        }

    def inbound(self, aggregate: Aggregate, round_: int, memory: dict[str, Any]) -> Aggregate:
        """Return the aggregate unchanged: it is the mean that was promised."""
        return aggregate
