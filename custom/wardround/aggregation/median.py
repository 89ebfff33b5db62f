"""The coordinate-wise median.

    m_j = median over the sites of x_ij

With n > 2f every coordinate lies between the smallest and the largest honest value.
Sites are not weighted: a site itself states its number of patients, and a liar would
weigh most.
Source: Yin et al. 2018, arXiv:1803.01498, definition 1.
Deviations: none. For even n the median is the mean of the two middle values.
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
class CoordinateMedian(Majority):
    """The median of every value over the sites.

    A round of 2f or fewer sites is refused.

    f: how many hostile sites are tolerated.
    far: a site is flagged beyond so many times the median distance from the median.
    """

    f: int
    far: float = FAR

    def __post_init__(self) -> None:
        require_common(self.name, self.f, self.far)

    @property
    def name(self) -> str:
        """Return the name in words."""
        return "coordinate median"

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the median. Every row enters it."""
        vector = median(rows)
        return Combined(vector, tuple(range(len(rows))), far_rows(rows, vector, self.far))


def median(rows: Rows) -> Floats:
    """Return the median of every column, float64 [d]."""
    return columnwise(rows, lambda part: np.asarray(np.median(part, axis=0), np.float64))
