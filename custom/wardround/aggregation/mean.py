"""The weighted mean: what FedAvg's server does with the updates of a round.

    mean = sum p_i d_i / sum p_i        p_i: the number of training patients of site i

Replies are folded in the order in which they arrive, in float64, so memory does not
grow with the number of sites. The mean tolerates no hostile site: a single one can move
it anywhere.
Source: McMahan et al. 2017, arXiv:1602.05629.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from wardround.aggregation.collect import TRAIN, Context, read_once
from wardround.core.arrays import RunningMean
from wardround.core.stages import Aggregate, Ask, Rounds
from wardround.core.traits import READABLE, Traits


@final
@dataclass(frozen=True)
class WeightedMean:
    """The mean of the updates. Each site counts as often as it has training patients."""

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "weighted mean"

    @property
    def traits(self) -> Traits:
        """Return what the mean needs: updates that the server can read."""
        return Traits(needs=frozenset({READABLE}))

    def round(self, context: Context) -> Rounds:
        """Ask every site once, and return the mean of what came."""
        mean = RunningMean()
        weights: dict[str, float] = {}

        def take(site: str, reply: Any) -> None:
            update = read_once(context.read, weights, site, reply)
            mean.add(update.params, update.weight)
            weights[site] = update.weight

        yield Ask(TRAIN, context.message, take, need=context.need)
        return Aggregate(mean.mean(), tuple(weights))
