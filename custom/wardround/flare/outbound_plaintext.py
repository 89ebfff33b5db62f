"""What leaves in a job whose server reads updates: an update after every round, the scores of the models at the end.

Numbers over few patients stay at the hospital, all others are rounded (few_patients.py). Under differential privacy, what was
released before is sent again, bit for bit, and is not charged again (outbox.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.arrays import Layout, digest
from wardround.core.stages import Receipt, Update
from wardround.flare import few_patients, ledger_door, outbox, stage_memory, wire
from wardround.flare.outbound import Outbound
from wardround.flare.places import state_folder
from wardround.privacy.charged import Charged

TASKS = (wire.TRAIN, wire.FINISH)
IN_PLAINTEXT: Receipt = {"mechanism": "none", "guarantee": "none: the server reads this hospital's update"}
AGAIN: Receipt = {"mechanism": "none", "guarantee": "the same bytes as before, charged then"}
SCORES: Receipt = {"mechanism": "means, intervals and counts over this site's patients"}


def update(outbound: Outbound, given: wire.Update, fl_ctx: FLContext) -> tuple[wire.Update, Receipt]:
    """Return what leaves of an update, and its receipt; it is charged here, before it leaves.

    given: as the executor made it
    """
    wire.require_named(given.facts, outbound.allowed_names)
    folder, charged = state_folder(fl_ctx), outbound.charged
    if charged is None:
        ledger_door.require_nothing_promised(fl_ctx)
        leaving, receipt = _through_stages(outbound, given, fl_ctx)
    elif outbox.is_released(folder, outbound.asked, given):
        leaving, receipt = given, dict(AGAIN)
    else:
        leaving, receipt = _through_stages(outbound, given, fl_ctx)
        receipt |= ledger_door.spend(charged, given.numbers, fl_ctx)
        outbox.keep(folder, outbound.asked, leaving)
    size = sum(int(block.nbytes) for block in leaving.delta.values())
    return leaving, receipt | {"blocks": len(leaving.delta), "bytes": size, "sha256": digest(leaving.delta)}


def scores(outbound: Outbound, given: Mapping[str, Any], fl_ctx: FLContext) -> tuple[Mapping[str, Any], Receipt]:
    """Return what leaves of the scores, and its receipt."""
    wire.require_named(given, outbound.allowed_names)
    return few_patients.scores(given, few_patients.known(fl_ctx)), dict(SCORES)


def _through_stages(outbound: Outbound, given: wire.Update, fl_ctx: FLContext) -> tuple[wire.Update, Receipt]:
    """Return the update after all stages and without numbers of few patients; what stages remember is written down."""
    stages = outbound.stages(Layout.of(given.delta), str(fl_ctx.get_identity_name()))
    passed, receipt = Update(given.delta, given.weight), dict(IN_PLAINTEXT)
    if stages:
        asked = outbound.asked
        memory = stage_memory.of_round(state_folder(fl_ctx), stages, asked)
        for stage in stages:
            passed, said = stage.outbound(passed, asked.round, memory)
            # The privacy stage says what the receipt says; others are listed under their names.
            receipt |= said if isinstance(stage, Charged) else {stage.name: said}
        stage_memory.keep(state_folder(fl_ctx), memory)
    leaving = replace(given, delta=passed.params)
    return few_patients.update(leaving, few_patients.known(fl_ctx, given.facts)), receipt
