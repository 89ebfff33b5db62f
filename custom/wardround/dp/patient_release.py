"""Patient-level DP as a stage: it demands the proof of the noise, and adds none itself.

The noise is in every step of the training. This stage demands its proof
(dp/noise_proof.py) for exactly the update that it is given, and says what the ledger
charges for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from wardround.core.errors import ReleaseRefused
from wardround.core.stages import Aggregate, Receipt, Update
from wardround.core.traits import Traits
from wardround.dp import noise_proof
from wardround.dp.charged import require_whole
from wardround.dp.patient_dp import PatientDP
from wardround.dp.releases import Release, SampledGaussianRelease, Unit


@final
@dataclass(frozen=True)
class PatientRelease:
    """The first stage of a job with patient-level DP.

    A missing value raises ConfigRefused.

    promise: that of every private gradient.
    work: private gradients per round.
    num_rounds: how many releases the job makes.
    delta: the delta at which epsilon is stated.
    accept_vacuous: whether an epsilon that is no privacy claim is accepted.
    """

    promise: PatientDP
    work: int
    num_rounds: int
    delta: float
    accept_vacuous: bool

    unit: ClassVar[Unit] = "patient"
    name: ClassVar[str] = PatientDP.name
    traits: ClassVar[Traits] = PatientDP.traits

    def __post_init__(self) -> None:
        require_whole(self)

    def cost(self) -> Release:
        """Return what one round's update costs."""
        return self._release(self.work)

    def plan(self) -> Release:
        """Return what the job costs."""
        return self._release(self.work * self.num_rounds)

    def outbound(self, update: Update, round_: int, memory: dict[str, Any]) -> tuple[Update, Receipt]:
        """Return the update unchanged, once its training has proved the noise.

        It raises ReleaseRefused without a proof of these very bytes, for other noise,
        and for more or fewer gradients than are charged.
        """
        p, proof = self.promise, noise_proof.take(update.params)
        if proof != noise_proof.Proof(p, self.work):
            raise ReleaseRefused(
                "an update under patient-level differential privacy",
                found="one without proof of its noise" if proof is None else _proved(proof),
                expected=f"exactly {self.work} private gradients with this job's noise, and the update that they made",
                fix="print the job again with `wardround jobs write`, and take every filter of task results but "
                "OutboundFilter out of it",
            )
        words = f"z {p.noise_multiplier:.4g}, q {p.sample_rate:g}, {self.work} private steps, unit: patient"
        return update, {"mechanism": "DP-SGD", "guarantee": words}

    def inbound(self, aggregate: Aggregate, round_: int, memory: dict[str, Any]) -> Aggregate:
        """Return the aggregate unchanged."""
        return aggregate

    def _release(self, steps: int) -> Release:
        return SampledGaussianRelease("patient", self.promise.noise_multiplier, self.promise.sample_rate, steps)


def _proved(proof: noise_proof.Proof) -> str:
    z = proof.promise.noise_multiplier
    return f"one that was made by {proof.released} private gradients at noise multiplier {z:g}"
