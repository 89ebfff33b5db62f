"""Patient-level DP under one noise as a stage: it demands a proof of the clip, and adds
this hospital's share of the noise.

The clip is in the training, once per patient (dp/joint_steps.py). This stage takes the
proof (dp/noise_proof.py) for exactly the sum that it is given, adds the share, and says
what the ledger charges for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from wardround.core.arrays import Layout
from wardround.core.errors import ReleaseRefused
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import Traits
from wardround.dp import noise_proof, noise_shares
from wardround.dp.charged import require_whole
from wardround.dp.joint_dp import JointDP, noised
from wardround.dp.releases import GaussianRelease, Release, Unit


@final
@dataclass(frozen=True)
class JointRelease:
    """This hospital's share of the noise on its sum of clipped patients' gradients.

    What leaves is in whole steps of `promise.step`. A missing value raises
    ConfigRefused.

    promise: clip and noise, and the sum for which they are made.
    num_rounds: how many sums the job opens.
    delta: the delta at which epsilon is stated.
    accept_vacuous: whether an epsilon that is no privacy claim is accepted.
    """

    promise: JointDP
    num_rounds: int
    delta: float
    accept_vacuous: bool

    unit: ClassVar[Unit] = "patient"
    name: ClassVar[str] = JointDP.name
    traits: ClassVar[Traits] = JointDP.traits

    def __post_init__(self) -> None:
        require_whole(self)

    def cost(self) -> Release:
        """Return what one round's sum costs."""
        return self.promise.release

    def plan(self) -> Release:
        """Return what the job costs."""
        return GaussianRelease("patient", self.promise.noise_multiplier, self.num_rounds, in_shares=True)

    def require_exact(self, values: int) -> None:
        """Raise ConfigRefused unless sums of `values` numbers are exact, and rounding
        them costs no more than is set aside.
        """
        self.promise.require_exact(values)
        noise_shares.epsilon(self.promise, values, self.num_rounds, [], self.delta)

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, Receipt]:
        """Return the sum with this hospital's share of the noise.

        It raises ReleaseRefused without a proof that these very bytes are ONE sum of
        gradients that were clipped under this promise.
        """
        p, proof = self.promise, noise_proof.take(update.params)
        if proof != noise_proof.Proof(p, 1):
            raise ReleaseRefused(
                "a sum under patient-level differential privacy with one noise",
                found="one without proof of its clip"
                if proof is None
                else f"one of {proof.released} sums, or under another promise",
                expected="one sum of this round, clipped per patient as this job says",
                fix="print the job again with `wardround jobs write`, and take every filter of task results but "
                "OutboundFilter out of it",
            )
        layout = Layout.of(update.params)
        values: Any = noised(p, layout.flatten(update.params).astype(np.float64)) * p.step
        words = (
            f"z {p.noise_multiplier:.4g}, clip {p.max_grad_norm:g}, unit: patient, noise {p.deviation:.4g} "
            f"({p.shares} shares of it make the whole)"
        )
        return replace(update, params=layout.unflatten(values.astype(np.float32))), {
            "mechanism": "Gaussian",
            "guarantee": words,
        }

    def inbound(self, aggregate: Aggregate, round_: int, memory: dict[str, Any]) -> Aggregate:
        """Return the aggregate unchanged: it is the mean that was promised."""
        return aggregate
