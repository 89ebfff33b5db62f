"""Hospital-level DP at the exit: ONE clip of the whole update and noise, whatever the executor has handed over.

The executor divides by public scales before (privacy/scaling.py); nothing that is promised here depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from wardround.arrays import Arrays, Layout
from wardround.flare.ledger_door import require_whole
from wardround.privacy import shares
from wardround.privacy.hospital_dp import HospitalDP, privatise
from wardround.privacy.releases import GaussianRelease, Release, Unit
from wardround.privacy.scales import isotropic


@final
@dataclass(frozen=True)
class HospitalRelease:
    """Clip and noise for one update of the whole hospital; what leaves is in whole steps of `promise.step`.

    promise: the same as the sum's `noise` | rounds: releases of the job | a value missing: ConfigRefused
    """

    promise: HospitalDP
    rounds: int
    delta: float
    accept_vacuous: bool

    unit: ClassVar[Unit] = "hospital"

    def __post_init__(self) -> None:
        require_whole(self)

    def cost(self) -> Release:
        return self.promise.release

    def plan(self) -> Release:
        return GaussianRelease("hospital", self.promise.noise_multiplier, self.rounds)

    def require_exact(self, values: int) -> None:
        """Raise ConfigRefused unless what rounding costs in `rounds` sums of so many values fits what is set aside."""
        shares.epsilon(self.promise, values, self.rounds, [], self.delta)

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        p = self.promise
        where = f"{p.shares} shares of it make the whole" if p.hidden else "all of it added here"
        words = f"z {p.noise_multiplier:.4g}, clip {p.clip:g}, unit: hospital, noise {p.deviation:.4g} ({where})"
        return privatise(p, delta, isotropic(Layout.of(delta))).update, {"mechanism": "Gaussian", "guarantee": words}
