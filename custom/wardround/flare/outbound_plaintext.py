"""What leaves in a job whose server reads updates: an update after every round, and the
scores of the models at the end.

Numbers of few patients stay at the hospital, and all others are rounded
(few_patients.py). Under differential privacy, what was released before is sent again,
bit for bit, and is not charged again (resend_cache.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.compression.chosen import Compression
from wardround.compression.opening import stage_of
from wardround.core.arrays import Layout, digest
from wardround.core.stages import Receipt, Update
from wardround.flare import few_patients, ledger_adapter, plaintext_messages, resend_cache, stage_memory
from wardround.flare.outbound import Outbound, outbound_digest
from wardround.flare.workspaces import state_folder
from wardround.messages import plaintext

TASKS = (plaintext_messages.TRAIN, plaintext_messages.FINISH)
IN_PLAINTEXT: Receipt = {"mechanism": "none", "guarantee": "none: the server reads this hospital's update"}
AGAIN: Receipt = {"mechanism": "none", "guarantee": "the same bytes as before, charged then"}
SCORES: Receipt = {"mechanism": "means, intervals and counts over this site's patients"}


def update(
    outbound: Outbound, given: plaintext_messages.Update, fl_ctx: FLContext
) -> tuple[plaintext_messages.Update, Receipt]:
    """Return what leaves of an update, and its receipt. The update is charged here,
    before it leaves.

    given: the update as the executor made it.
    """
    plaintext_messages.require_named(given.facts, outbound.allowed_names)
    folder = state_folder(fl_ctx)
    charged = outbound.charged
    receipt = dict(IN_PLAINTEXT)
    if charged is None:
        ledger_adapter.require_nothing_promised(fl_ctx)
        leaving = _without_few(given, given, fl_ctx)
    elif resend_cache.is_released(folder, outbound.asked, given):
        leaving, receipt = given, dict(AGAIN)
    else:
        passed, said = charged.outbound(Update(given.delta, given.weight), outbound.asked.round, {})
        receipt |= said | ledger_adapter.spend(charged, given.numbers, fl_ctx)
        numbers = plaintext.without_time(given.numbers)
        leaving = _without_few(replace(given, delta=passed.params, numbers=numbers), given, fl_ctx)
        # Kept before it leaves: a crash in between must not lead to a second release.
        resend_cache.keep(folder, outbound.asked, leaving)
    # Compression comes last: what is kept to be sent again is the update itself, and
    # the same update makes the same message.
    if outbound.compresses is not None:
        leaving, said = _compressed(outbound.compresses, leaving, outbound, fl_ctx)
        receipt |= said
    size = sum(int(block.nbytes) for block in leaving.delta.values())
    return leaving, receipt | {"blocks": len(leaving.delta), "bytes": size, "sha256": digest(leaving.delta)}


def scores(outbound: Outbound, given: Mapping[str, Any], fl_ctx: FLContext) -> tuple[Mapping[str, Any], Receipt]:
    """Return what leaves of the scores, and its receipt."""
    plaintext_messages.require_named(given, outbound.allowed_names)
    timed = plaintext.without_time(given) if outbound.withholds_training_time else given
    return few_patients.scores(timed, few_patients.known(fl_ctx)), dict(SCORES)


def _without_few(
    leaving: plaintext_messages.Update, given: plaintext_messages.Update, fl_ctx: FLContext
) -> plaintext_messages.Update:
    """Return the update without the numbers of few patients.

    This comes after the ledger was charged, because the ledger looks for a training
    loss: a loss that is withheld must not pass for a loss that is not there.
    """
    return few_patients.update(leaving, few_patients.known(fl_ctx, given.facts))


def _compressed(
    compression: Compression, leaving: plaintext_messages.Update, outbound: Outbound, fl_ctx: FLContext
) -> tuple[plaintext_messages.Update, Receipt]:
    """Return the update whose `delta` is the message of the compression, and what its
    receipt says; write down what the compression remembers.
    """
    stage = stage_of(compression, Layout.of(leaving.delta), str(fl_ctx.get_identity_name()))
    remembered = stage_memory.of_round(state_folder(fl_ctx), stage, outbound.asked, outbound_digest(outbound, fl_ctx))
    passed, said = stage.outbound(Update(leaving.delta, leaving.weight), outbound.asked.round, remembered.after)
    stage_memory.keep(state_folder(fl_ctx), remembered)
    return replace(leaving, delta=passed.params), {"compression": {"method": compression.name, **said}}
