"""The fixed-point codec: how do float updates become integers that any group can sum?

    v_i = w_i x_i + residual_i
    q_i = floor(v_i / step + u), u ~ U[0, 1), clipped to +-limit
    residual_i <- v_i - q_i step        mean = step sum_i q_i / sum_i w_i

`step` is a power of two per block, so that v / step and q step are exact in float64. It
is public: round 0 takes it from the initial weights (which the job's seed gives), and
every later round from the mean that the round before revealed (post-processing of a
released number: it says nothing about one site). w_i is 1 (equal weights) or n_i /
reference, with the denominators n_i inside the same sum, as digits, so that no n_i is
ever seen.
Sources: Gupta et al. 2015, arXiv:1502.02551 (stochastic rounding); Seide et al. 2014;
Karimireddy et al. 2019, arXiv:1901.09847 (error feedback).
Deviations: 1. Blocks of at most WIDE values carry two digits each: norms and biases
move much more than convolutions.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ReleaseRefused, RoundRefused
from wardround.core.rounding import HIGHEST, LOWEST, least_exponents, round_to_steps

Ints = NDArray[np.int64]
WIDE = 512
WEIGHT_DIGITS = 3
MARGIN = 16.0
FIRST_RANGE = 1.0
WIDE_RANGE = 4.0


@final
@dataclass(frozen=True)
class Grid:
    """The public agreement of one round: layout, bits, and the step of every block.

    A coded update is `fields` integers in [-levels, levels]: a digit per value, a
    second one for values of wide blocks, and WEIGHT_DIGITS for the site's weight (if
    weighted).
    """

    layout: Layout
    bits: int
    exponents: tuple[int, ...]
    weighted: bool

    @property
    def levels(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def base(self) -> int:
        return 2 * self.levels + 1

    @property
    def wide(self) -> tuple[bool, ...]:
        return tuple(size <= WIDE for size in self.layout.sizes)

    @property
    def fields(self) -> int:
        second = sum(size for size, wide in zip(self.layout.sizes, self.wide, strict=True) if wide)
        return self.layout.total + second + (WEIGHT_DIGITS if self.weighted else 0)

    @property
    def digest(self) -> str:
        """Return what all sites must have in common before their integers are added."""
        words = [
            self.layout.names,
            self.layout.shapes,
            self.bits,
            self.exponents,
            self.weighted,
        ]
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def steps(self) -> NDArray[np.float64]:
        """Return the step of every value, float64 [layout.total]."""
        return np.repeat(np.ldexp(1.0, np.array(self.exponents, np.int32)), self.layout.sizes)

    def limits(self) -> Ints:
        """Return the largest |q| of every value, int64 [layout.total]."""
        one, two = self.levels, self.levels * (self.base + 1)
        return np.repeat(
            np.array([two if wide else one for wide in self.wide], np.int64),
            self.layout.sizes,
        )

    def error(self) -> NDArray[np.float64]:
        """Return error [layout.total]: |q step - v| < error within limit * step.

        The mean over k equal sites keeps it; its standard deviation is <= error / (2
        sqrt(k)).
        """
        return self.steps()


class FixedStep(Protocol):
    """The grid on which an update was noised: one step, 2**exponent, for all rounds."""

    @property
    def bits(self) -> int:
        """Return how many bits an integer takes."""

    @property
    def exponent(self) -> int:
        """Return the exponent of the step."""


@final
@dataclass(frozen=True)
class Coded:
    """An update's integers [grid.fields], and what they lack, float32 [layout.total]."""

    fields: NDArray[np.int32]
    residual: Array
    clipped: int


def fields_of(layout: Layout, bits: int, *, weighted: bool) -> int:
    """Return how many integers an update of these blocks has, from their sizes alone."""
    return Grid(layout, bits, (), weighted).fields


def first_grid(weights: Arrays, bits: int, *, weighted: bool) -> Grid:
    """Return the grid of round 0: four times the spread of the initial weights fits.

    Wide blocks get +-WIDE_RANGE, and blocks that start at zero +-FIRST_RANGE.
    """
    names = tuple(weights)
    layout = Layout(names, tuple(tuple(weights[name].shape) for name in names))
    exponents = []
    for name, size in zip(names, layout.sizes, strict=True):
        block = np.asarray(weights[name], np.float64).ravel()
        rms = math.sqrt(math.fsum(block * block) / max(1, size))
        reach = WIDE_RANGE if size <= WIDE else 4.0 * rms if rms > 0 else FIRST_RANGE
        exponents.append(_exponent(reach * _spare(bits), size, bits))
    return Grid(layout, bits, tuple(exponents), weighted)


def fixed_grid(layout: Layout, noise: FixedStep) -> Grid:
    """Return the grid on which an update was noised: adapting it could cut values off."""
    return Grid(layout, noise.bits, (noise.exponent,) * len(layout.names), weighted=False)


def next_grid(grid: Grid, totals: Ints, sites: int, ratio: float) -> Grid:
    """Return the grid of the next round from the revealed sum over `sites` sites.

    MARGIN times the spread of the mean fits, with what this round's rounding left over.
    A block whose sum is zero gets half its step, and a wide block at least half: the
    mean of a few values can be near zero by chance. Integers until the last step are
    the same everywhere.

    totals: int64 [layout.total], from `decode`.
    ratio: the learning rate of the next round over this round's.
    """
    exponents, start = [], 0
    for size, exponent in zip(grid.layout.sizes, grid.exponents, strict=True):
        block = totals[start : start + size]
        start += size
        peak = int(np.abs(block).max(initial=0))
        # Squares of 20 bits, and 2**20 of them in a part: every sum stays below 2**63.
        shift = max(0, peak.bit_length() - 20)
        square = sum(int(np.dot(part, part)) for part in np.array_split(block >> shift, 1 + size // 2**20))
        rms = math.ldexp(math.sqrt(square / max(1, size)) / sites, exponent + shift)
        reach = MARGIN * _spare(grid.bits) * rms * ratio + math.ldexp(1.0, exponent)
        new = _exponent(reach, size, grid.bits) if rms > 0 and ratio > 0 else exponent - 1
        new = max(new, exponent - 1) if size <= WIDE else new
        exponents.append(min(HIGHEST, max(LOWEST, new)))
    return Grid(grid.layout, grid.bits, tuple(exponents), grid.weighted)


def encode(
    grid: Grid,
    update: Arrays,
    residual: Array | None,
    weight: float,
    patients: int,
    rng: np.random.Generator,
) -> Coded:
    """Return the integers of `weight * update + residual` and the weight digits.

    NaN, inf, blocks other than the grid's, or too many patients: ReleaseRefused.
    """
    try:
        wish = grid.layout.flatten(update).astype(np.float64) * weight
    except RoundRefused as refusal:
        raise _refused(refusal.found, f"the {len(grid.layout.names)} blocks of this round's grid") from refusal
    if residual is not None:
        wish += residual
    if not np.isfinite(wish).all():
        bad = grid.layout.unflatten(np.isfinite(wish).astype(np.float32))
        name = next(name for name, block in bad.items() if not block.all())
        raise _refused(f"NaN or inf in block {name!r}", "finite numbers")
    if grid.weighted and not 0 < patients < (grid.levels + 1) ** WEIGHT_DIGITS:
        raise _refused(
            "a number of patients out of range",
            f"1 to {(grid.levels + 1) ** WEIGHT_DIGITS - 1}",
        )
    steps, limits, _ = _constants(grid)
    inside, left, clipped = round_to_steps(wish, steps, limits, rng)
    return Coded(_digits(grid, inside, patients), left.astype(np.float32), clipped)


def decode(grid: Grid, sums: Ints) -> tuple[Ints, int]:
    """Return (sum of q, int64 [layout.total], sum of the patients; 0 if not weighted).

    sums: the summed fields, int64 [grid.fields].
    """
    total = grid.layout.total
    if sums.shape != (grid.fields,):
        raise RoundRefused(
            "a revealed sum",
            found=f"{sums.shape} numbers",
            expected=f"{grid.fields}",
            fix="run the same job and version everywhere",
        )
    q = sums[:total].astype(np.int64)
    wide = _constants(grid)[2]
    end = total + len(wide)
    q[wide] += grid.base * sums[total:end]
    patients = 0
    for digit in sums[end:][::-1]:
        patients = patients * (grid.levels + 1) + int(digit)
    return q, patients


def longest_error(grid: Grid, before: Grid | None, sites: int, denominator: float) -> float:
    """Return what coding adds to the norm of a mean, at most, where no value was cut off at the end of its grid.

    Each site's update is off by less than a step of this round's grid in every value, and by less
    than a step of the grid before (None: this is round 0) for what was left over then.
    """
    grids = (grid,) if before is None else (grid, before)
    steps = math.fsum(float(np.linalg.norm(one.steps())) for one in grids)
    return steps * sites / denominator


def mean_of(grid: Grid, totals: Ints, denominator: float) -> dict[str, Array]:
    """Return step * totals / denominator by block, float32. The denominator is > 0."""
    values: Any = totals * _constants(grid)[0] / denominator
    return grid.layout.unflatten(values.astype(np.float32))


def _digits(grid: Grid, q: NDArray[np.float64], patients: int) -> NDArray[np.int32]:
    """Return the fields: low digits, wide high digits, digits of the patients."""
    total, wide = grid.layout.total, _constants(grid)[2]
    fields = np.empty(grid.fields, np.int32)
    fields[:total] = q
    whole = fields[wide].astype(np.int64)
    high = (whole + grid.levels) // grid.base
    fields[wide] = whole - high * grid.base
    fields[total : total + len(wide)] = high
    for place in range(total + len(wide), grid.fields):
        fields[place] = patients % (grid.levels + 1)
        patients //= grid.levels + 1
    return fields


@lru_cache(maxsize=4)
def _constants(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64], Ints]:
    """Return (steps, limits, places of values in wide blocks), made once."""
    wide = np.flatnonzero(np.repeat(np.array(grid.wide, bool), grid.layout.sizes))
    made = (grid.steps(), grid.limits().astype(np.float64), wide.astype(np.int64))
    for one in made:
        one.setflags(write=False)
    return made


def _spare(bits: int) -> float:
    """Return how much wider than needed the range is: bits beyond 12 go into that."""
    return float(2 ** max(0, bits - 12))


def _exponent(reach: float, size: int, bits: int) -> int:
    """Return the least e with levels * 2**e >= reach (wide: both digits)."""
    levels = 2 ** (bits - 1) - 1
    whole = levels * (2 * levels + 2) if size <= WIDE else levels
    return int(least_exponents(reach, whole))


def _refused(found: str, expected: str) -> ReleaseRefused:
    return ReleaseRefused(
        "an update that cannot be coded",
        found=found,
        expected=expected,
        fix="lower the learning rate, check this site's images, and run the same job everywhere",
    )
