"""The order of a plaintext job, server to site, and its strict reading; nothing in this file leaves a hospital.

train    weights of every variable (`variable:block`), round; which sites' last updates did not count, and since when
finish   the final weights
"""

from __future__ import annotations

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from wardround.core.validate import Each
from wardround.flare.strict_dxo import read_dxo, require_blocks, require_shape, unknown
from wardround.messages.plaintext import Order as Order
from wardround.messages.ranges import STEPS

_META = {"round": STEPS, "num_rounds": STEPS, "missed": Each(STEPS)}


def order_message(order: Order) -> Shareable:
    """Return the task data of a train or finish task."""
    meta = {"round": order.round, "num_rounds": order.num_rounds, "missed": dict(order.missed)}
    return DXO(DataKind.WEIGHTS, data=dict(order.weights), meta=meta).to_shareable()


def read_order(message: Shareable) -> Order:
    """Read task data; ReleaseRefused when it is not an Order."""
    dxo = read_dxo(message, DataKind.WEIGHTS)
    require_shape(dxo.meta, _META, "an order's meta")
    if any(since > dxo.meta["round"] for since in dxo.meta["missed"].values()):
        raise unknown("an order's meta", "a site's state of a later round", "states up to this round")
    return Order(require_blocks(dxo.data), dxo.meta["round"], dxo.meta["num_rounds"], dxo.meta["missed"])
