"""Nearest-neighbour mixing (NNM), a step before any rule.

    y_i = mean of the n - f updates nearest to x_i, itself included
    result = rule(y_1 ... y_n)

Updates of unequal hospitals differ more than a rule likes, and an attacker hides in the
difference. Mixing brings the honest updates together first. Sites are not weighted: a
mixed row belongs to no single site. Flags are about the updates as they came, not about
the mixed ones.
Source: Allouah et al. 2023, arXiv:2302.01772 (NNM).
Deviations: 1. Equal distances are decided by the lower row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.aggregation.collect import FAR, Combined, Majority, Rule, far_rows
from wardround.aggregation.refusals import require_common, require_field
from wardround.aggregation.rows import Floats, Rows, pairwise


@final
@dataclass(frozen=True)
class Mixed(Majority):
    """A rule on mixed updates. It needs as many sites as the rule does.

    then: the rule for the mixed updates; it states f.
    far: a site is flagged beyond so many times the median distance from the result.
    """

    then: Rule
    far: float = FAR

    def __post_init__(self) -> None:
        good = hasattr(self.then, "combine") and not isinstance(self.then, Mixed)
        found = f"rule {self.then!r}"
        require_field("with mixing", good, found, "a rule that reads updates, unmixed")
        require_common(self.name, self.f, self.far)

    @property
    def name(self) -> str:
        """Return the name in words."""
        return f"mixing, then {self.then.name}"

    @property
    def f(self) -> int:
        """Return how many hostile sites the rule tolerates."""
        return self.then.f

    @property
    def least_sites(self) -> int:
        """Return the fewest updates that the rule needs."""
        return self.then.least_sites

    def combine(self, rows: Rows, weights: Floats) -> Combined:
        """Return the rule's result on the mixed rows."""
        nearest = neighbours(rows, self.f)
        mixed = np.stack([rows[list(near)].mean(axis=0, dtype=np.float64) for near in nearest])
        inner = self.then.combine(mixed, np.ones(len(rows)))
        used = tuple(sorted({row for kept in inner.used for row in nearest[kept]}))
        return Combined(inner.vector, used, far_rows(rows, inner.vector, self.far))


def neighbours(rows: Rows, f: int) -> list[tuple[int, ...]]:
    """Return for every row the n - f rows nearest to it, itself first."""
    apart = pairwise(rows)
    # Below every other distance, so that a row is its own neighbour even among equal
    # ones.
    np.fill_diagonal(apart, -1.0)
    ranked = np.argsort(apart, axis=1, kind="stable")[:, : len(rows) - f]
    return [tuple(int(row) for row in one) for one in ranked]
