"""The server's sum: updates are added as they arrive, so memory does not grow with the number of sites."""

from __future__ import annotations

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator

from wardround.algorithms.klmask import ABSENT, Absent
from wardround.arrays import LEAST_CONTRIBUTORS, CountedMean, RunningMean
from wardround.errors import ConfigRefused, Refusal, RoundRefused
from wardround.flare import wire


class Combine(Aggregator):  # type: ignore[misc]
    """Weighted mean of readable updates; the weight of a site is the number of its training patients.

    absent: zeros: every update holds the same blocks | counted: each block over the sites that sent it, 3 or more, or it
    keeps its value (arrays.CountedMean)
    an update that does not fit, is not finite, or comes twice: refused, logged, not added
    """

    def __init__(self, absent: Absent) -> None:
        super().__init__()
        if absent not in ABSENT:
            raise ConfigRefused(
                "the server's sum",
                found=f"absent {absent!r}",
                expected=f"one of {', '.join(ABSENT)}",
                fix="print the job anew",
            )
        self.absent = absent
        self._mean, self._seen = self._new(), set[str]()

    @property
    def counted(self) -> bool:
        """Whether an update may leave blocks out."""
        return self.absent == "counted"

    @property
    def contributors(self) -> dict[str, int] | None:
        """Return wire name -> how many of this round's updates hold it; None where all hold the same."""
        return dict(self._mean.contributors) if isinstance(self._mean, CountedMean) else None

    def _new(self) -> RunningMean | CountedMean:
        return CountedMean(LEAST_CONTRIBUTORS) if self.counted else RunningMean()

    def reset(self, fl_ctx: FLContext) -> None:
        """Begin a round."""
        self._mean, self._seen = self._new(), set()

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


def require_enough(absent: Absent, min_sites: int) -> None:
    """Raise ConfigRefused where blocks are counted and a round may end with too few sites for any block to move."""
    if absent == "counted" and min_sites < LEAST_CONTRIBUTORS:
        raise ConfigRefused(
            "KL masks whose blocks are counted",
            found=f"min_sites {min_sites}",
            expected=f"min_sites {LEAST_CONTRIBUTORS} or more: a block that fewer send does not move",
            fix=f"--set federation.min_sites={LEAST_CONTRIBUTORS}, or --set algorithm.absent=zeros",
        )
