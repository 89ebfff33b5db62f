"""How are float64 values rounded at random to whole multiples of power-of-two steps?

    q = floor(v / step + u), u ~ U[0, 1)        left = v - q step        E[q step] = v

A power of two divides and multiplies without error in float64, so v = q step + left
holds exactly.
Source: Gupta et al. 2015, arXiv:1502.02551 (stochastic rounding).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LOWEST = -60
HIGHEST = 20
"""The exponents of a step.

They lie far outside the range of weights and updates, and both fit into an int8.
"""


def round_to_steps(
    values: Floats,
    steps: Floats | float,
    limits: Floats | float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, int]:
    """Return (q, left, clipped).

    q holds whole numbers in [-limits, limits], `left` is `values - q * steps`, and
    `clipped` is how many numbers were clipped.

    values: finite float64 [n]. It is overwritten, and `left` is the same array.
    steps, limits: one number for each value, or one for all. The steps are powers of
        two.
    """
    scaled = values / steps
    # Beyond 2**29 the sum of the next line can round up to the next whole number.
    most = np.ceil(scaled)
    scaled += rng.random(len(scaled), np.float32)
    np.minimum(np.floor(scaled, out=scaled), most, out=scaled)
    inside = np.clip(scaled, -limits, limits, out=most)
    clipped = int(np.count_nonzero(inside != scaled))
    values -= np.multiply(inside, steps, out=scaled)
    return inside, values, clipped


def least_exponents(reach: Any, levels: int) -> NDArray[np.int32]:
    """Return for every reach >= 0 the least e with levels * 2**e >= reach, as int32.

    The result is kept within LOWEST to HIGHEST.
    """
    mantissa, exponent = np.frexp(np.asarray(reach, np.float64) / levels)
    # frexp returns a mantissa in [0.5, 1): only for 0.5 is the number itself a power of
    # two.
    least: NDArray[np.int32] = np.clip(exponent - (mantissa == 0.5), LOWEST, HIGHEST).astype(np.int32)
    return least
