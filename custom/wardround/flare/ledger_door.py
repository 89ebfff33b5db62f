"""Where a hospital's privacy ledger and budget lie, and how a job reserves and spends there.

Both are the hospital's own, in `local/` of its workspace: they outlive jobs, restarts and retries. A job with differential
privacy is refused BEFORE training where there is no budget or where it would overspend; every release is written down
before it leaves. The simulator's sites have no budget of their own: they take the job's, loudly.

Two keys of one job: KEY is what the job itself promises, POLICY what the site adds whatever the job says (site_policy.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, final, runtime_checkable

from nvflare.apis.fl_context import FLContext

from wardround import __version__
from wardround.arrays import Arrays
from wardround.errors import ConfigRefused, ReleaseRefused
from wardround.flare import places
from wardround.privacy import ledger_file, noise_proof
from wardround.privacy.accounting import Claim, claim, require_meaningful
from wardround.privacy.budget import FILE, Budget, Limit, read_budget
from wardround.privacy.dp_sgd import PatientDP
from wardround.privacy.ledger import Account, Job, Ledger
from wardround.privacy.releases import Release, SampledGaussianRelease, Unit

KEY, POLICY = "federation", "policy"


@runtime_checkable
class Charged(Protocol):
    """A mechanism whose releases cost something: per round, and over the whole job."""

    @property
    def unit(self) -> Unit:
        """Return whom the releases hide."""

    @property
    def delta(self) -> float:
        """Return the delta at which epsilon is told."""

    @property
    def accept_vacuous(self) -> bool:
        """Return whether an epsilon that is no privacy claim is accepted."""

    def cost(self) -> Release:
        """Return what one round's update costs."""

    def plan(self) -> Release:
        """Return what the job costs."""


@final
@dataclass(frozen=True)
class PatientRelease:
    """Patient-level DP: the noise is in every training step (hospital/dp_site.py), the exit writes it into the ledger.

    promise: the same as the executor's | work: private gradients per round | a value missing: ConfigRefused
    """

    promise: PatientDP
    work: int
    rounds: int
    delta: float
    accept_vacuous: bool

    unit: ClassVar[Unit] = "patient"

    def __post_init__(self) -> None:
        require_whole(self)

    def cost(self) -> Release:
        return self._release(self.work)

    def plan(self) -> Release:
        return self._release(self.work * self.rounds)

    def release(self, delta: Arrays) -> tuple[Arrays, dict[str, float | str]]:
        """Return the update as it is, once its training has proved the noise; anything else: ReleaseRefused."""
        p, proof = self.promise, noise_proof.take(delta)
        if proof != noise_proof.Proof(p, self.work):
            raise ReleaseRefused(
                "an update under patient-level differential privacy",
                found="one without proof of its noise" if proof is None else _proved(proof),
                expected=f"exactly {self.work} private gradients of this exit's promise, and the update that they made",
                fix="print the job anew: its executor needs the exit's mechanism as `dp`, and no filter before the exit",
            )
        words = f"z {p.noise_multiplier:.4g}, q {p.sampling_rate:g}, {self.work} private steps, unit: patient"
        return delta, {"mechanism": "DP-SGD", "guarantee": words}

    def _release(self, steps: int) -> Release:
        return SampledGaussianRelease("patient", self.promise.noise_multiplier, self.promise.sampling_rate, steps)


def _proved(proof: noise_proof.Proof) -> str:
    return f"one that was made by {proof.released} private gradients at noise multiplier {proof.promise.noise_multiplier:g}"


def require_whole(mechanism: object) -> None:
    """Raise ConfigRefused when a mechanism lacks a value (NVFlare turns an unknown variable into None)."""
    absent = [name for name, value in vars(mechanism).items() if value is None]
    if absent:
        raise ConfigRefused(
            "the job's mechanism", found=f"no {', '.join(absent)}", expected="every value", fix="print the job anew"
        )


def reserve(
    mechanism: Charged, fl_ctx: FLContext, say: Callable[[str], None], key: str = KEY, settings: str = ""
) -> None:
    """Reserve the whole job; no budget, too little budget, no privacy claim at all (epsilon > 100): refused.

    settings: the digest of what shapes the updates, which the reservation is bound to
    It is a reservation of the job that NVFlare runs now. A job that goes on from kept state takes over what its first run had
    reserved and not spent: what was released stays charged once.
    """
    whole = _claim(mechanism.plan(), mechanism.unit, mechanism.delta)
    require_meaningful(whole.epsilon, mechanism.accept_vacuous)
    ledger = Ledger(_local(fl_ctx))
    ledger.reserve(_job(fl_ctx), {key: mechanism.plan()}, _budget(mechanism, fl_ctx, say), settings)
    say(
        f"this job costs epsilon {whole.epsilon:.3g} per {whole.unit} at delta {whole.delta:g} (mu {whole.mu:.3f}; "
        f"the best attack it allows is right {whole.attack.accuracy:.0%} of the time): reserved in {ledger.folder}"
    )


def spend(mechanism: Any, numbers: Mapping[str, float | None], fl_ctx: FLContext, key: str = KEY) -> dict[str, Any]:
    """Write one round's release into the ledger, if it costs anything; return what the receipt says of it.

    numbers: what goes with the update; a training loss, which no noise hides, among them: ReleaseRefused
    that an update IS noised, its mechanism has to know (its `release`, before): no number that is absent proves it
    a mechanism without cost in a job that reserved something (its executor promises what its exit would never charge), or
    beside a ledger that is damaged: ReleaseRefused
    """
    if not isinstance(mechanism, Charged):
        _require_nothing_promised(fl_ctx)
        return {}
    if numbers.get("loss") is not None:
        raise ReleaseRefused(
            "an update under patient-level differential privacy",
            found="one that comes with its training loss, which was computed without noise",
            expected="no loss, from an executor with the same `dp` as the exit's mechanism",
            fix="print the job anew",
        )
    ledger = Ledger(_local(fl_ctx))
    entry = ledger.spend(_job(fl_ctx), key, mechanism.cost(), _budget(mechanism, fl_ctx, lambda text: None))
    return {"ledger_entry": entry.n}


def account(fl_ctx: FLContext) -> Account | None:
    """Return what this site's ledger says of this job; no ledger, or a job that is not in it: None."""
    folder = _local(fl_ctx)
    if not any((folder / name).exists() for name in (ledger_file.FILE, ledger_file.HEAD)):
        return None
    found = Ledger(folder).state().accounts.get(_job(fl_ctx).id)
    return found if found is not None and found.job.name == _job(fl_ctx).name else None


def require_limit(unit: Unit, fl_ctx: FLContext) -> None:
    """Raise ConfigRefused unless the hospital's own budget names this unit."""
    path = _local(fl_ctx) / FILE
    units = [limit.unit for limit in read_budget(path).limits]
    if unit not in units:
        raise ConfigRefused(
            f"the hospital's privacy budget {path}",
            found=f"limits for {', '.join(units)}",
            expected=f"a limit for {unit}",
            fix=f'add "{unit}": {{"epsilon": ..., "delta": ...}}',
        )


def _require_nothing_promised(fl_ctx: FLContext) -> None:
    found = account(fl_ctx)
    if found is not None and set(found.reserved) - {POLICY}:
        raise ReleaseRefused(
            "an update of a job that reserved privacy budget",
            found="an exit whose mechanism costs nothing",
            expected="an exit with the mechanism that the executor has as its `dp`",
            fix="print the job anew",
        )


@lru_cache
def _claim(release: Release, unit: Unit, delta: float) -> Claim:
    """Return what one release claims, composed once however often a round asks."""
    return claim([release], unit, delta)


def _budget(mechanism: Charged, fl_ctx: FLContext, say: Callable[[str], None]) -> Budget:
    path = _local(fl_ctx) / FILE
    if path.is_file() or not places.in_simulator(fl_ctx):
        return read_budget(path)
    cost = _claim(mechanism.plan(), mechanism.unit, mechanism.delta).epsilon
    say(
        f"NO BUDGET CONFIGURED: this simulated site allows what the job asks for, epsilon {cost:.3g} per {mechanism.unit}"
    )
    return Budget((Limit(mechanism.unit, cost * (1 + 1e-9), mechanism.delta),))


def _job(fl_ctx: FLContext) -> Job:
    job, began = str(fl_ctx.get_job_id()), places.run_id(fl_ctx)
    return Job(job, places.job_name(fl_ctx), __version__, "" if began == job else began)


def _local(fl_ctx: FLContext) -> Path:
    folder = places.workspace_root(fl_ctx) / "local"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
