"""The geometric median (RFA), by the smoothed Weiszfeld iteration.

    v <- sum b_i x_i / sum b_i,  b_i = a_i / max(nu, |v - x_i|)

Its fixed point is the geometric median for nu = 0, and the weighted mean for a nu
beyond all distances. In between, updates nearer than nu weigh as in the mean, and one
farther away pulls no more than one at nu. If hostile sites hold the share s < 1/2 of
the weights a, and the honest updates lie within r of a point c, then |v - c| <= max(r +
nu, r (1 - s) / sqrt(1 - 2 s)), however far away the others are: beyond r + nu all
honest pulls have length 1 and point to c within the angle asin(r / |v - c|), and the
hostile ones add up to s at most (for nu = 0: Minsker 2015, lemma 2.1).

In a round in which the f heaviest sites would hold half of the weights, all weigh the
same: to stop instead would let one hostile site end the run by staying away.
Sources: Pillutla, Kakade, Harchaoui 2022, arXiv:1912.13445, algorithm 2; Minsker 2015,
arXiv:1308.1334.
Deviations: 1. The weight of a site is capped at `weight_cap` times the median weight
(collect.py). 2. The start is the coordinate-wise median, not a point near the mean,
which one site can carry away. 3. nu is no small constant but `smoothing` times the
median distance from the start: it follows the size of the updates, and a tiny one would
hold the iteration fast at any update that it comes near to. 4. It iterates until a step
is below TOLERANCE of nu, not 3 or 4 times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.aggregation.collect import FAR, Combined, Majority, capped, far_rows
from wardround.aggregation.median import median
from wardround.aggregation.refusals import (
    require_common,
    require_field,
    require_weight_cap,
)
from wardround.aggregation.rows import Floats, Rows, distances, weighted_mean

TOLERANCE = 1e-6
# It converges linearly; four updates of a U-Net need 10 to 30 steps.
MOST_STEPS = 200


@final
@dataclass(frozen=True)
class GeometricMedian(Majority):
    """The point with the least sum of distances to the updates.

    A round of 2f or fewer sites is refused.

    f: how many hostile sites are tolerated.
    weight_cap: 1 or more; a site counts for at most so many median sites.
    smoothing: nu as a multiple of the median distance, 0.1 to 10.
    far: a site is flagged beyond so many times the median distance from the geometric
        median.
    """

    f: int
    weight_cap: float = 1.0
    smoothing: float = 0.3
    far: float = FAR

    def __post_init__(self) -> None:
        require_common(self.name, self.f, self.far)
        require_weight_cap(self.name, self.weight_cap)
        found = f"smoothing {self.smoothing}"
        require_field(self.name, 0.1 <= self.smoothing <= 10, found, "0.1 to 10")

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "geometric median"

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the geometric median. Every row enters it, and far ones count little."""
        counted = safe_weights(weights, self.f, self.weight_cap)
        vector = geometric_median(rows, counted, self.smoothing)
        return Combined(vector, tuple(range(len(rows))), far_rows(rows, vector, self.far))


def safe_weights(weights: Floats, f: int, most: float) -> Floats:
    """Return the capped weights, or all 1 where the f heaviest would hold half of them."""
    counted = capped(weights, most)
    heaviest = np.sort(counted)[len(counted) - f :].sum()
    return counted if 2 * heaviest < counted.sum() else np.ones(len(weights))


def geometric_median(rows: Rows, weights: Floats, smoothing: float) -> Floats:
    """Return the smoothed geometric median of the rows, float64 [d].

    weights: [n].
    smoothing: nu as a multiple of the median distance from the coordinate-wise median.
    """
    point = median(rows)
    away = distances(rows, point)
    nu = smoothing * float(np.median(away))
    if nu == 0:
        # More than half of the updates are one and the same: that is the median.
        return point
    for _ in range(MOST_STEPS):
        # An infinite distance (beyond float64) has the pull 0: that row no longer
        # counts.
        nearer = weighted_mean(rows, weights / np.maximum(away, nu))
        step = float(np.linalg.norm(nearer - point))
        point = nearer
        away = distances(rows, point)
        if step <= TOLERANCE * nu:
            break
    return point
