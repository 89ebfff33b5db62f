"""The server's sum: updates are added as they arrive, so memory does not grow with the number of sites."""

from __future__ import annotations

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator

from wardround.arrays import RunningMean
from wardround.errors import Refusal, RoundRefused
from wardround.flare import wire


class Combine(Aggregator):  # type: ignore[misc]
    """Weighted mean of readable updates; the weight of a site is the number of its training patients.

    Every update holds the same blocks. An update that does not fit, is not finite, or comes twice is refused, logged, and
    not added.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mean = RunningMean()
        self._seen: set[str] = set()

    def reset(self, fl_ctx: FLContext) -> None:
        """Begin a round."""
        self._mean = RunningMean()
        self._seen = set()

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Add one site's update; return whether it was added."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
        try:
            if site in self._seen:
                raise RoundRefused("an update", found="a second one", expected="one per round", fix="check the site")
            update = wire.read_update(shareable)
            self._mean.add(update.delta, update.weight)
        except Refusal as refusal:
            self.log_error(fl_ctx, f"REJECTED the update of {site}: {refusal}")
            return False
        self._seen.add(site)
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Return the weighted mean of this round's updates as a WEIGHT_DIFF."""
        return DXO(DataKind.WEIGHT_DIFF, data=self._mean.mean()).to_shareable()
