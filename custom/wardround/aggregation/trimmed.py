"""The trimmed mean.

    t_j = mean of x_ij without the f smallest and the f largest of the column j

With n > 2f, what is left of every column lies between honest values. Sites are not
weighted, for the reason that median.py gives.
Source: Yin et al. 2018, arXiv:1803.01498, definition 2.
Deviations: none. Their share beta of n is stated here as the number f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.aggregation.collect import FAR, Combined, Majority, far_rows
from wardround.aggregation.refusals import require_common
from wardround.aggregation.rows import Floats, Rows, columnwise


@final
@dataclass(frozen=True)
class TrimmedMean(Majority):
    """The mean of every value without its f extremes at both ends.

    A round of 2f or fewer sites is refused.

    f: how many hostile sites are tolerated; 0 is the mean without weights.
    far: a site is flagged beyond so many times the median distance from the trimmed
        mean.
    """

    f: int
    far: float = FAR

    def __post_init__(self) -> None:
        require_common(self.name, self.f, self.far)

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "trimmed mean"

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the trimmed mean. Something of every row may enter it."""
        vector = trimmed_mean(rows, self.f)
        return Combined(vector, tuple(range(len(rows))), far_rows(rows, vector, self.far))


def trimmed_mean(rows: Rows, f: int) -> Floats:
    """Return the mean of every column without its f smallest and f largest values.

    The result is float64 [d].
    """
    kept = slice(f, len(rows) - f)
    # The extremes may be as large as floats go: they are cut off before anything is
    # added up.
    return columnwise(rows, lambda part: _mean(np.sort(part, axis=0)[kept]))


def _mean(part: Floats) -> Floats:
    return np.asarray(part.mean(axis=0), np.float64)
