"""Krum and Multi-Krum: the updates that have the nearest neighbours.

    score(i) = sum of |x_i - x_j|^2 over the n - f - 2 nearest others j
    Krum: the update with the least score
    Multi-Krum: the mean of the `keep` updates with the least scores

The bound of the paper needs n >= 2f + 3: with four hospitals Krum cannot tolerate even
one hostile site. Sites are not weighted. An update that is not kept is not flagged for
that: with keep = 1 it happens to n - 1 sites.
Source: Blanchard et al. 2017, arXiv:1703.02757 (their m is `keep` here).
Deviations: 1. Equal scores are decided by the lower row, so by the name of the site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.aggregation.collect import FAR, Combined, Majority, far_rows
from wardround.aggregation.refusals import require_common, require_field
from wardround.aggregation.rows import Floats, Rows, pairwise, weighted_mean


@final
@dataclass(frozen=True)
class Krum(Majority):
    """The mean of the `keep` updates with the nearest neighbours.

    It needs 2f + 3 sites.

    f: how many hostile sites are tolerated.
    keep: 1 is Krum, more is Multi-Krum. It needs keep + f sites; with fewer, a hostile
        update would have to be kept.
    far: a site is flagged beyond so many times the median distance from what was kept.
    """

    f: int
    keep: int = 1
    far: float = FAR

    def __post_init__(self) -> None:
        require_common(self.name, self.f, self.far)
        good = type(self.keep) is int and self.keep >= 1
        require_field(self.name, good, f"keep {self.keep!r}", "a whole number above 0")

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "Krum" if self.keep == 1 else "Multi-Krum"

    @property
    def least_sites(self) -> int:
        """Return the fewest updates with which the bound of the paper holds."""
        return max(2 * self.f + 3, self.keep + self.f)

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the mean of the rows that are kept."""
        best = np.argsort(scores(rows, self.f), kind="stable")[: self.keep]
        kept = tuple(sorted(int(row) for row in best))
        vector = weighted_mean(rows[list(kept)], np.ones(len(kept)))
        return Combined(vector, kept, far_rows(rows, vector, self.far))


def scores(rows: Rows, f: int) -> Floats:
    """Return every row's sum of its n - f - 2 least squared distances, float64 [n]."""
    apart = pairwise(rows)
    np.fill_diagonal(apart, np.inf)
    nearest = np.sort(apart, axis=1)[:, : len(rows) - f - 2]
    return np.asarray(nearest.sum(axis=1), np.float64)
