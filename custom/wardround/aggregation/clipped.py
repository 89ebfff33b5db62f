"""The weighted mean of updates whose norm is clipped.

    mean = sum p_i d_i min(1, C / |d_i|) / sum p_i
    C = factor * median norm of the round before

The bound C is public: the server keeps the median of each round's norms, taken before
clipping, and a hostile minority moves it only within the honest norms. From the second
round on, replies are folded as they arrive. The first round has no round before it: it
holds its updates until all are in, and clips them at their own median. One hostile site
moves the mean by at most its share of the weight times C. An attacker of ordinary
length (a flipped sign) still counts, so at equal weights one of four sites that flips
its sign halves the step. The rule is cheap, not strong.

FLAGGED here is a norm above `far` times the bound: such an update is not clipped but
left out. About half of the honest updates are clipped in any round, so being clipped is
no flag.
Source: Sun et al. 2019, arXiv:1911.07963 (norm thresholding).
Deviations: 1. The bound follows the median norm. 2. The weight of a site is capped at
`weight_cap` times the median weight of the round before. 3. What is far beyond the
bound is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from wardround.aggregation.collect import (
    FAR,
    TRAIN,
    Collected,
    Combined,
    Context,
    Majority,
    capped,
    closed,
    read_once,
)
from wardround.aggregation.refusals import (
    require_clients,
    require_common,
    require_few,
    require_field,
    require_sites,
    require_weight_cap,
)
from wardround.aggregation.rows import Floats, Rows, norms, weighted_mean
from wardround.core.arrays import Arrays, RunningMean, norm
from wardround.core.errors import RoundRefused
from wardround.core.stages import Aggregate, Ask, Rounds

# The names in the server's memory, which survives a restart.
NORM = "median_norm"
WEIGHT = "median_weight"


@final
@dataclass(frozen=True)
class ClippedMean(Majority):
    """The weighted mean of clipped updates. A round of 2f or fewer sites is refused.

    f: how many hostile sites are tolerated.
    factor: the bound as a multiple of the median norm.
    weight_cap: 1 or more; a site counts for at most so many median sites.
    far: an update that is longer than so many bounds is flagged and left out.
    """

    f: int
    factor: float = 1.0
    weight_cap: float = 2.0
    far: float = FAR

    def __post_init__(self) -> None:
        require_common(self.name, self.f, self.far)
        require_field(
            self.name,
            0 < self.factor < 1e6,
            f"factor {self.factor}",
            "a number above 0",
        )
        reach = self.factor * self.far
        found = f"factor x far = {reach:g}"
        require_field(self.name, reach > 1, found, "above 1: the median norm is no flag")
        require_weight_cap(self.name, self.weight_cap)

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "clipped mean"

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the mean of the rows, clipped at their own median norm.

        The first round uses it.
        """
        lengths = norms(rows)
        bound = self.factor * _positive(float(np.median(lengths)))
        scales, flagged = clip_scales(lengths, bound, self.far)
        used = tuple(row for row in range(len(rows)) if row not in flagged)
        # Scaling the weights instead of the rows needs no second matrix.
        shares = np.where(scales > 0, capped(weights, self.weight_cap), 0.0)
        vector = weighted_mean(rows, shares * scales) * (shares @ scales / shares.sum())
        return Combined(vector, used, flagged)

    def round(self, context: Context) -> Rounds:
        """Ask every site once, and return the mean of the clipped updates."""
        if NORM not in context.memory:
            return self._first(context)
        return self._folded(context, float(context.memory[NORM]), float(context.memory[WEIGHT]))

    def _first(self, context: Context) -> Rounds:
        require_clients(self, context.need)
        held = Collected(context.read)
        yield Ask(TRAIN, context.message, held.take, need=context.need)
        aggregate = closed(self, held)
        rows, weights = held.rows()
        _remember(context, norms(rows), weights)
        return aggregate

    def _folded(self, context: Context, median_norm: float, median_weight: float) -> Rounds:
        require_clients(self, context.need)
        bound, heaviest = self.factor * median_norm, self.weight_cap * median_weight
        mean = RunningMean()
        lengths: dict[str, float] = {}
        weights: dict[str, float] = {}
        flagged: dict[str, str] = {}

        def take(site: str, reply: Any) -> None:
            update = read_once(context.read, lengths, site, reply)
            length = norm(update.params)
            scales, why = clip_scales(np.array([length]), bound, self.far)
            if why:
                flagged[site] = why[0]
            else:
                mean.add(
                    scaled(update.params, float(scales[0])),
                    min(update.weight, heaviest),
                )
            # Noted last: an update that raised above is not counted.
            lengths[site] = length
            weights[site] = update.weight

        yield Ask(TRAIN, context.message, take, need=context.need)
        require_sites(self, len(lengths))
        require_few(self, flagged)
        aggregate = Aggregate(mean.mean(), tuple(sorted(set(lengths) - set(flagged))), flagged)
        _remember(context, np.array([*lengths.values()]), np.array([*weights.values()]))
        return aggregate


def clip_scales(lengths: Floats, bound: float, far: float) -> tuple[Floats, dict[int, str]]:
    """Return a factor for every row, and for each flagged row the reason.

    The factor is 1 within the bound, bound / length beyond it, and 0 for a flagged row.
    """
    flagged = {
        int(row): f"its update is {lengths[row] / bound:.3g} times as long as the bound of this "
        f"round (left out above {far:g})"
        for row in np.flatnonzero(lengths > far * bound)
    }
    scales = bound / np.maximum(lengths, bound)
    scales[list(flagged)] = 0.0
    return scales, flagged


def scaled(params: Arrays, factor: float) -> Arrays:
    """Return the blocks times a factor. With a factor of 1 nothing is rounded."""
    if factor == 1.0:
        return params
    return {name: (block * factor).astype(np.float32) for name, block in params.items()}


def _remember(context: Context, lengths: Floats, weights: Floats) -> None:
    """Keep what bounds the next round."""
    context.memory[NORM] = _positive(float(np.median(lengths)))
    context.memory[WEIGHT] = float(np.median(weights))


def _positive(median_norm: float) -> float:
    """Return the median norm.

    A median norm of 0 raises RoundRefused: it would clip every later round to nothing.
    """
    if median_norm > 0:
        return median_norm
    raise RoundRefused(
        "the bound of the clipped mean",
        found="updates of which half or more are zero",
        expected="most sites to send a change of the model",
        fix="run the job with a higher `lr`, or read in the sites' logs why nothing is learnt",
    )
