"""Which public scales does a job use in which round?

    fixed     s as given, by group (`wardround scales` finds them at a synthetic
              hospital that takes no part)
    follow    s ~ (v / h)^(1/4), with h as given and v from the mean that was released
              in the round before (post-processing, free)
    neither   s = 1: isotropic noise

Every site computes the same bits from the same released numbers (dp/scales.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused
from wardround.dp.hospital_dp import LARGEST_SCALE, LEAST_SCALE
from wardround.dp.scales import by_block, groups_of, scales, sizes_of, squares_of_mean


@final
@dataclass(frozen=True)
class Scaling:
    """The scales of a job.

    Numbers that are not within 2**-20 to 2**20, or a `follow` that is not true or
    false, raise ConfigRefused.

    start: s of round 0 by group; [] means 1 each.
    curvature: h by group; [] means equal.
    follow: whether s follows the released means.
    """

    start: Sequence[float]
    curvature: Sequence[float]
    follow: bool

    def __post_init__(self) -> None:
        for name in ("start", "curvature"):
            values = getattr(self, name)
            listed = isinstance(values, (list, tuple))
            if not listed or not all(_within(value) for value in values) or not isinstance(self.follow, bool):
                raise _refused(
                    f"{name} {values!r:.60}, follow {self.follow!r}",
                    "numbers above 0, and true or false",
                )
            object.__setattr__(self, name, tuple(float(value) for value in values))

    def first(self, layout: Layout) -> tuple[float, ...]:
        """Return s of round 0 by group.

        Another number of groups than the shared part has raises ConfigRefused.
        """
        number = max(groups_of(layout)) + 1
        for name in ("start", "curvature"):
            if len(getattr(self, name)) not in (0, number):
                raise _refused(
                    f"{len(getattr(self, name))} values of {name}",
                    f"none or {number}, one for each group",
                )
        return tuple(self.start) or (1.0,) * number

    def after(self, layout: Layout, s: Sequence[float], mean: Arrays, deviation: float) -> tuple[float, ...]:
        """Return s of the next round.

        mean: the released mean, U / n.
        deviation: of the noise in it, in the same units.
        """
        if not self.follow:
            return tuple(s)
        groups = groups_of(layout)
        v = squares_of_mean(layout, groups, mean, by_block(layout, groups, s), deviation)
        h = tuple(self.curvature) or (1.0,) * len(v)
        return scales(v, h, sizes_of(layout, groups))


ISOTROPIC = Scaling((), (), follow=False)


def scaled(s: Sequence[float], blocks: Arrays) -> dict[str, Array]:
    """Return the blocks times the scale of their group, float32."""
    return _times(blocks, _by_block(s, blocks))


def unscaled(s: Sequence[float], blocks: Arrays) -> dict[str, Array]:
    """Return the blocks divided by the scale of their group, float32."""
    return _times(blocks, {name: 1 / value for name, value in _by_block(s, blocks).items()})


def _by_block(s: Sequence[float], blocks: Arrays) -> dict[str, float]:
    layout = Layout.of(blocks)
    return by_block(layout, groups_of(layout), s)


def _times(blocks: Arrays, factors: Mapping[str, float]) -> dict[str, Array]:
    return {name: (block.astype(np.float64) * factors[name]).astype(np.float32) for name, block in blocks.items()}


def _within(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and LEAST_SCALE <= float(value) <= LARGEST_SCALE  # type: ignore[arg-type]


def _refused(found: str, expected: str) -> ConfigRefused:
    fix = "take what `wardround scales` prints for this job, or scaling.start=[] for isotropic noise"
    return ConfigRefused("scales of private noise", found=found, expected=expected, fix=fix)
