"""What a job promises about what leaves, and its filter, for tests: components as NVFlare would have built them."""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from wardround.data.cases import MODALITIES
from wardround.flare.outbound import ID, NONE, Asked, Outbound
from wardround.flare.outbound_filter import OutboundFilter


def outbound(privacy: Any = NONE, secagg: Any = NONE, names: Any = MODALITIES, compression: Any = NONE) -> Outbound:
    """Return the component of a job; a plaintext one is answering the order of round 0."""
    made = Outbound(privacy=privacy, compression=compression, secagg=secagg, allowed_names=list(names))
    made.begin(Asked(0, "aa" * 32, 0))
    return made


def leaving(message: Shareable, fl_ctx: FLContext, made: Outbound | None = None) -> Shareable:
    """Return what the outbound filter lets out of a job that promises `made`, or nothing."""
    fl_ctx.get_engine().components[ID] = outbound() if made is None else made
    return OutboundFilter().process(message, fl_ctx)
