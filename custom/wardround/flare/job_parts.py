"""What a site can know of a job before anything leaves: its one executor, its outbound
filter, and what it promises.

NVFlare's own tables are read, not the job's JSON: the tables are what runs.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_constant import FilterKey, FLContextKey
from nvflare.apis.fl_context import FLContext

from wardround.flare import plaintext_messages, secagg_messages
from wardround.flare.executor import SiteExecutor
from wardround.flare.outbound import Outbound, outbound_of
from wardround.flare.outbound_filter import OutboundFilter


def executor_of(fl_ctx: FLContext) -> SiteExecutor | None:
    """Return the ONE executor of ours that NVFlare runs for every task of ours that the
    job names; otherwise return None.

    None is returned for two executors, for another class, for a class that only derives
    from ours, and where there is none for `train`: what one of them promises the other
    need not keep.
    """
    router = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_router", None)
    if router is None:
        return None
    train = router.route(plaintext_messages.TRAIN)
    routed = [router.route(task) for task in secagg_messages.TASKS]
    alone = all(one is train for one in routed if one is not None)
    return train if alone and type(train) is SiteExecutor else None


def outbound_next(fl_ctx: FLContext, task: str) -> Outbound | None:
    """Return what the job's first result filter for a task promises, if that filter is
    ours: it reads what goes on from here.

    Where another filter comes first, or none, None is returned.
    """
    filters = _filters(fl_ctx, task)
    return outbound_of(fl_ctx) if filters and type(filters[0]) is OutboundFilter else None


def outbound_in_force(fl_ctx: FLContext) -> Outbound | None:
    """Return what the job promises, if its own filter keeps it.

    OutboundFilter, and nothing else, must be the filter of every task of ours. Another
    filter before it, after it or for one of the tasks, or no filter at all, gives None,
    so that nothing counts as promised. A component that is missing or of another class
    is a ConfigRefused, as in the filter itself.
    """
    named = [_filters(fl_ctx, task) for task in secagg_messages.TASKS]
    used = [filters for filters in named if filters]
    alone = all(len(filters) == 1 and type(filters[0]) is OutboundFilter for filters in used)
    return outbound_of(fl_ctx) if alone and _filters(fl_ctx, plaintext_messages.TRAIN) else None


def _filters(fl_ctx: FLContext, task: str) -> list[Any]:
    table = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_result_filters", None) or {}
    return list(table.get(f"{task}{FilterKey.DELIMITER}{FilterKey.OUT}") or [])
