"""How the update of a site in a secure sum gets smaller: a linear compression between
the stages and the codec (compression/linear.py).

What is not sent waits in the site's memory (stage_memory.py). What the codec rounds off
is put back there at once: with another slice in the next round it would belong to other
values. Therefore the client of the sum carries nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.compression.linear import first, stage_of
from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.stages import Receipt, Update
from wardround.flare import stage_memory
from wardround.flare.outbound import Outbound, outbound_digest
from wardround.flare.workspaces import state_folder
from wardround.secagg.client import SecAggClient


def hold(
    outbound: Outbound, update: Update, site: SecAggClient, beside: Mapping[str, Any], fl_ctx: FLContext
) -> tuple[Update, Receipt]:
    """Compress and code an update, and write both down; return the compressed update
    and what the receipt says.

    beside: JSON that goes with the update in every attempt.
    """
    compression, session = outbound.compresses, outbound.session
    if compression is None or session is None:
        raise ConfigRefused(
            "a compressed update of a secure sum",
            found="a job without a compression, or without a secure sum",
            expected="both in its component `outbound`",
            fix="print the job again with `wardround jobs write`",
        )
    folder, round_, patients = state_folder(fl_ctx), outbound.asked.round, int(update.weight)
    stage = stage_of(compression, Layout.of(update.params))
    remembered = stage_memory.of_round(folder, stage, outbound.asked, outbound_digest(outbound, fl_ctx))
    memory, public = remembered.after, session.public
    memory.update(public)
    sent, said = stage.outbound(update, round_, memory)
    receipt: Receipt = {"compression": {"method": compression.name, **said}}
    initial = {name: session.initial[name] for name in update.params if name in session.initial}
    like = first(compression, initial, 0, {}) if round_ == 0 else {}
    if site.holds(round_):
        # These integers went out once, and what they left over is in the memory.
        return sent, receipt | site.hold(round_, sent.params, patients, like, beside)
    # The memory comes first: after a crash before the integers are there, the round
    # begins from the memory before it. After a crash behind them only what coding
    # rounded off is lost, less than a step of the grid.
    _keep(remembered, public, fl_ctx)
    receipt |= site.hold(round_, sent.params, patients, like, beside)
    stage.put_back(site.left(round_, patients), round_, memory)
    _keep(remembered, public, fl_ctx)
    return sent, receipt


def _keep(remembered: stage_memory.Remembered, public: Mapping[str, Any], fl_ctx: FLContext) -> None:
    """Write down what the site owes; what is public is kept with the global model."""
    own = {name: value for name, value in remembered.after.items() if name not in public}
    stage_memory.keep(state_folder(fl_ctx), replace(remembered, after=own))
