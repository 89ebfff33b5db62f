"""What a site can know of a job before anything leaves: the executor that NVFlare runs, and the exit that the job itself names."""

from __future__ import annotations

from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext

from wardround.flare import sealed, wire
from wardround.flare.hidden_release import HiddenRelease
from wardround.flare.hospital_release import HospitalRelease
from wardround.flare.ledger_door import Charged
from wardround.flare.release import Release
from wardround.flare.secure_site import SecureSite
from wardround.flare.secure_sum import secure_sum_of
from wardround.flare.site import SiteTrainer
from wardround.privacy.hospital_dp import HospitalDP


def executor_of(fl_ctx: FLContext) -> SiteTrainer | SecureSite | None:
    """Return the ONE executor of ours that NVFlare runs for every task of ours that the job names; otherwise None.

    two of them, another class, a class that only derives from ours, or none for `train`: what one promises the other need not keep
    """
    router = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_router", None)
    if router is None:
        return None
    train, routed = router.route(wire.TRAIN), [router.route(task) for task in sealed.TASKS]
    alone = all(one is train for one in routed if one is not None)
    return train if alone and type(train) in (SiteTrainer, SecureSite) else None


def exit_of(fl_ctx: FLContext, task: str) -> Release | HiddenRelease | None:
    """Return the job's first result filter for a task if it is one of ours; none, or another one first: None."""
    table = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_result_filters", None) or {}
    named = table.get(f"{task}{FilterKey.DELIMITER}{FilterKey.OUT}") or [None]
    return named[0] if isinstance(named[0], (Release, HiddenRelease)) else None


def charged_exit(fl_ctx: FLContext, task: str) -> Charged | None:
    """Return the mechanism of the job's exit if its releases are written into the ledger for what they are.

    a share of noise (`hidden`) by an exit that does not hide the update: less than what is charged, so None
    """
    mechanism = getattr(exit_of(fl_ctx, task), "mechanism", None)
    if isinstance(mechanism, HospitalRelease) and mechanism.promise.hidden and hidden_noise(fl_ctx, task) is None:
        return None
    return mechanism if isinstance(mechanism, Charged) else None


def hidden_noise(fl_ctx: FLContext, task: str) -> HospitalDP | None:
    """Return the hospital-level noise that the job's own exit adds inside a hidden sum; otherwise None."""
    exit_ = exit_of(fl_ctx, task)
    if not isinstance(exit_, HiddenRelease) or not isinstance(exit_.mechanism, HospitalRelease):
        return None
    noise = secure_sum_of(fl_ctx).noise
    return noise if noise == exit_.mechanism.promise else None
