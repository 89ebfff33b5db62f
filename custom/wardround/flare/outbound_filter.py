"""The one way out of a hospital: the filter that fails closed.

What is not described raises an error, and NVFlare then sends an error without data. A
reply of the executor is read strictly, goes through the stages of the job's component
`outbound`, and is written down in `releases.jsonl` in the site's own run folder. Only
then is a new message built, so that nothing rides along in headers or extra keys.
outbound_plaintext.py says what leaves in a plaintext job, outbound_secagg.py what
leaves in one with secure aggregation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.core.errors import ReleaseRefused
from wardround.flare import (
    compressed_messages,
    ledger_adapter,
    outbound_plaintext,
    outbound_secagg,
    plaintext_messages,
    secagg_messages,
    strict_dxo,
)
from wardround.flare.outbound import NONE, outbound_of
from wardround.flare.workspaces import job_name, run_folder

HOLD_PATIENTS = (plaintext_messages.TRAIN, secagg_messages.HOP, plaintext_messages.FINISH)
"""The tasks whose replies hold what was computed from patients."""


class OutboundFilter(Filter):  # type: ignore[misc]
    """NVFlare's task-result filter of every task of a job. It has no setting: what it
    does stands in `outbound`.

    Of a refusal of the executor only the code leaves. A reply that is described leaves
    with a receipt, after what was promised has been done to it. For anything else
    ReleaseRefused is raised, and nothing leaves.
    """

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return a new message that holds only what was read."""
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if not strict_dxo.is_reply(shareable):
            return plaintext_messages.refusal_message(plaintext_messages.refusal_code(shareable))
        outbound = outbound_of(fl_ctx)
        secagg = outbound.secagg != NONE
        tasks = secagg_messages.TASKS if secagg else outbound_plaintext.TASKS
        if task not in tasks:
            raise ReleaseRefused(
                "a task result",
                found=f"task {str(task)[:40]!r}",
                expected=f"one of {', '.join(tasks)}",
                fix="print the job again with `wardround jobs write`",
            )
        if task in HOLD_PATIENTS:
            ledger_adapter.require_treated(fl_ctx)
        # The receipt comes first: what cannot be written down does not leave.
        if secagg:
            reply, receipt = outbound_secagg.leaving(outbound, task, shareable, fl_ctx)
            write_receipt(fl_ctx, task, receipt)
            return secagg_messages.reply_message(reply)
        if task == plaintext_messages.TRAIN:
            read = plaintext_messages.read_update(shareable, outbound.allowed_names)
            update, receipt = outbound_plaintext.update(outbound, read, fl_ctx)
            write_receipt(fl_ctx, task, receipt)
            if outbound.compresses is not None:
                return compressed_messages.update_message(update, outbound.compresses.name)
            return plaintext_messages.update_message(update)
        judged = plaintext_messages.read_scores(shareable, outbound.allowed_names)
        scores, receipt = outbound_plaintext.scores(outbound, judged, fl_ctx)
        write_receipt(fl_ctx, task, receipt)
        return plaintext_messages.scores_message(scores)


def write_receipt(fl_ctx: FLContext, task: str, receipt: Mapping[str, Any]) -> None:
    """Append one line to the site's own releases.jsonl, before anything is sent."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = json.dumps({"time": now, "job": job_name(fl_ctx), "task": task, **receipt})
    with (run_folder(fl_ctx) / "releases.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
