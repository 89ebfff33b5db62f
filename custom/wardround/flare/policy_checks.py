"""What a site's policies ask of a job before they let it train or answer: silence, one
promise, and a reservation of its own.
"""

from __future__ import annotations

from nvflare.apis.dxo import DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.logging.constants import ALLOW_LOG_STREAMING_VAR, is_log_streaming_allowed

from wardround.core.arrays import digest, size_bytes
from wardround.core.errors import ReleaseRefused
from wardround.core.stages import Receipt
from wardround.flare import curves, ledger_adapter, orders, plaintext_messages, secagg_calls, strict_dxo
from wardround.flare.job_parts import executor_of
from wardround.flare.ledger_adapter import KEY
from wardround.flare.outbound import Outbound


def require_silence(fl_ctx: FLContext) -> None:
    """Raise ReleaseRefused while something could leave beside the filters: analytics events, a streamed log, a refused step.

    A site that checks steps on its validation patients tells by every refusal something that no noise hides.
    """
    if not isinstance(fl_ctx.get_engine().get_component(curves.ID), curves.Curves):
        raise refused(f"no component {curves.ID!r}: numbers would leave as events", "it, in local/privacy.json")
    if is_log_streaming_allowed(fl_ctx):
        raise refused("a log that NVFlare streams", f'"{ALLOW_LOG_STREAMING_VAR}": false in local/resources.json')
    executor = executor_of(fl_ctx)
    if executor is not None and executor.validation is not None:
        raise refused("a job that checks every step on this site's patients", "one without: --set validation=none")


def require_own_executor(fl_ctx: FLContext) -> None:
    """Raise ReleaseRefused unless the one executor that NVFlare runs is ours, which
    trains under what `outbound` promises.
    """
    if executor_of(fl_ctx) is None:
        raise refused("two executors, or one that is not ours", "one SiteExecutor for every task")


def require_reserved(fl_ctx: FLContext, outbound: Outbound) -> None:
    """Raise ReleaseRefused unless this job, as NVFlare knows it, has reserved the plan
    for the settings that it runs with.
    """
    account = ledger_adapter.account(fl_ctx)
    executor = executor_of(fl_ctx)
    charged = outbound.charged
    if charged is None or account is None or account.reserved.get(KEY) != charged.plan():
        raise refused(
            "a job that did not reserve what it promises", "the plan of `privacy` in its component `outbound`"
        )
    if executor is None or account.settings.get(KEY) != executor.settings(outbound):
        raise refused("a reservation for other settings of training", "one that this job's own executor has made")


def asked(shareable: Shareable) -> tuple[int, int]:
    """Return (round, rounds) as the server says; a task that is neither an order nor a call: ReleaseRefused."""
    if strict_dxo.kind_of(shareable) == DataKind.APP_DEFINED:
        call = secagg_calls.read_call(shareable)
        return call.moment.round, call.num_rounds
    order = orders.read_order(shareable)
    return order.round, order.num_rounds


def measured(update: plaintext_messages.Update) -> Receipt:
    """Return what a receipt says of the size and the contents of an update."""
    return {"bytes": size_bytes(update.delta), "sha256": digest(update.delta)}


def refused(found: str, expected: str) -> ReleaseRefused:
    """Return the refusal of a job that this hospital's own policy does not accept."""
    fix = "run another job, or ask the hospital to change its local/privacy.json"
    return ReleaseRefused("a job under this hospital's own policy", found=found, expected=expected, fix=fix)
