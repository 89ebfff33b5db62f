"""Where a hospital's privacy ledger and budget lie, and how a job reserves and spends.

Both are the hospital's own, in `local/` of its workspace. They outlive jobs, restarts
and retries. A job with differential privacy is refused BEFORE training where there is
no budget or where the job would overspend it, and every release is written down before
it leaves. The simulator's sites have no budget of their own: they use the job's, and
the log says so.

One job has two keys in the ledger: KEY for what the job itself promises, and POLICY for
what the site adds whatever the job says (site_policy.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround import __version__
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.dp import ledger_file
from wardround.dp.accounting import Claim, claim, require_meaningful
from wardround.dp.budget import FILE, Budget, Limit, read_budget
from wardround.dp.charged import Charged
from wardround.dp.ledger import Account, Job, Ledger
from wardround.dp.releases import Release, Unit
from wardround.flare import workspaces

KEY, POLICY = "federation", "policy"
# A key in the context of one reply: what the site's own policy did to it before the
# outbound filter.
TREATED = "wardround_policy"


def reserve(
    mechanism: Charged, fl_ctx: FLContext, say: Callable[[str], None], key: str = KEY, settings: str = ""
) -> None:
    """Reserve the whole job.

    It is refused where there is no budget, where the budget is too small, and where the
    job makes no privacy claim at all (epsilon > 100). The reservation is of the job
    that NVFlare runs now. A job that continues from kept state takes over what its
    first run had reserved and not spent, so that what was released stays charged once.

    mechanism: the stage that is charged.
    say: writes a line into the site's log.
    key: KEY or POLICY.
    settings: the digest of what shapes the updates; the reservation is bound to it.
    """
    whole = _claim(mechanism.plan(), mechanism.unit, mechanism.delta)
    require_meaningful(whole.epsilon, mechanism.accept_vacuous)
    ledger = Ledger(_local(fl_ctx))
    ledger.reserve(_job(fl_ctx), {key: mechanism.plan()}, _budget(mechanism, fl_ctx, say), settings)
    say(
        f"this job costs epsilon {whole.epsilon:.3g} per {whole.unit} at delta {whole.delta:g} (mu {whole.mu:.3f}; "
        f"the best attack it allows is right {whole.attack.accuracy:.0%} of the time): reserved in {ledger.folder}"
    )


def spend(mechanism: Charged, numbers: Mapping[str, float | None], fl_ctx: FLContext, key: str = KEY) -> dict[str, Any]:
    """Write one round's release into the ledger; return what the receipt says of it.

    A training loss, which no noise hides, is a ReleaseRefused. That an update IS noised
    its stage has to know: the absence of a number proves nothing.

    numbers: the numbers that go with the update.
    """
    if numbers.get("loss") is not None:
        raise ReleaseRefused(
            f"an update under {mechanism.unit}-level differential privacy",
            found="one that comes with its training loss, which was computed without noise",
            expected="no loss, from the executor SiteExecutor",
            fix="print the job again with `wardround jobs write`",
        )
    ledger = Ledger(_local(fl_ctx))
    entry = ledger.spend(_job(fl_ctx), key, mechanism.cost(), _budget(mechanism, fl_ctx, lambda text: None))
    return {"ledger_entry": entry.n}


def require_nothing_promised(fl_ctx: FLContext) -> None:
    """Raise ReleaseRefused where a job that promises nothing has reserved something,
    and where the ledger is damaged.

    A job of the same name that promised privacy may have begun this run; the run is not
    continued without that promise.
    """
    found = account(fl_ctx)
    if found is not None and set(found.reserved) - {POLICY}:
        raise ReleaseRefused(
            "an update of a job that reserved privacy budget",
            found="a job whose updates cost nothing",
            expected="the promise that was reserved, as `privacy` of its component `outbound`",
            fix="submit the job that reserved it, or `wardround ledger close` that one first",
        )


def require_treated(fl_ctx: FLContext) -> None:
    """Raise ReleaseRefused where this site's own policy reserved budget for this job, and
    has not worked on the reply that is leaving.
    """
    found = account(fl_ctx)
    if found is not None and POLICY in found.reserved and not fl_ctx.get_prop(TREATED, ""):
        raise ReleaseRefused(
            "a reply of a job for which this site's own policy reserved privacy budget",
            found="one that this policy has not clipped and noised",
            expected="the policy that reserved it, in both lists of filters of local/privacy.json",
            fix="copy poc_workspace/privacy_hospital.json to local/privacy.json again, restart the site, and submit the "
            "job under a name of its own",
        )


def account(fl_ctx: FLContext) -> Account | None:
    """Return what this site's ledger says of this job.

    Where there is no ledger, or where the job is not in it, None is returned.
    """
    folder = _local(fl_ctx)
    if not any((folder / name).exists() for name in (ledger_file.FILE, ledger_file.HEAD)):
        return None
    found = Ledger(folder).state().accounts.get(_job(fl_ctx).id)
    return found if found is not None and found.job.name == _job(fl_ctx).name else None


def require_limit(unit: Unit, fl_ctx: FLContext) -> None:
    """Raise ConfigRefused unless the hospital's own budget has a limit for a unit."""
    path = _local(fl_ctx) / FILE
    units = [limit.unit for limit in read_budget(path).limits]
    if unit not in units:
        raise ConfigRefused(
            f"the hospital's privacy budget {path}",
            found=f"limits for {', '.join(units)}",
            expected=f"a limit for {unit}",
            fix=f'add "{unit}": {{"epsilon": ..., "delta": ...}}',
        )


@lru_cache
def _claim(release: Release, unit: Unit, delta: float) -> Claim:
    """Return what one release claims, composed once however often a round asks."""
    return claim([release], unit, delta)


def _budget(mechanism: Charged, fl_ctx: FLContext, say: Callable[[str], None]) -> Budget:
    path = _local(fl_ctx) / FILE
    if path.is_file() or not workspaces.in_simulator(fl_ctx):
        return read_budget(path)
    cost = _claim(mechanism.plan(), mechanism.unit, mechanism.delta).epsilon
    say(
        f"NO BUDGET CONFIGURED: this simulated site allows what the job asks for, epsilon {cost:.3g} per {mechanism.unit}"
    )
    # The margin is for rounding: the job's own cost, added up, must not exceed itself.
    return Budget((Limit(mechanism.unit, cost * (1 + 1e-9), mechanism.delta),))


def _job(fl_ctx: FLContext) -> Job:
    job, began = str(fl_ctx.get_job_id()), workspaces.run_id(fl_ctx)
    return Job(job, workspaces.job_name(fl_ctx), __version__, "" if began == job else began)


def _local(fl_ctx: FLContext) -> Path:
    folder = workspaces.workspace_root(fl_ctx) / "local"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
