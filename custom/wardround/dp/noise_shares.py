"""What does a sum of rounded noise shares cost beyond ONE Gaussian?

The answer is a total variation, for accounting in delta.

    P   sum over m sites of round(x_i + N(0, s^2))      what is opened
    I   round(X + N(0, m s^2) + B),  X = sum of x_i     what the accountant knows

s and x are in steps of the codec. B is m - 1 independent uniform numbers on (-1/2,
1/2), added up. I only processes X + N(0, m s^2): the Gaussian mechanism with the
sensitivity of X and no rounding in it. And P is nearly I: one share has the masses
(phi_s * rect)(k - x), with the characteristic function sum_j G(t + 2 pi j) e^{i (t + 2
pi j) x}, G(t) = e^{-s^2 t^2 / 2} sin(t / 2) / (t / 2) (Poisson's summation). The
product of m of them is that of I plus the terms in which not all j are equal. On |t| <=
pi each of those is at most a product of m Gaussian factors, k of them off centre, and
the factors off centre add up to at most 2.01 times the nearest one. So every single
probability is off by at most

    B(m) = sum_{k=1}^{m-1} binom(m, k) 2.01^k e^{-2 pi^2 s^2 k (m - k) / m}
           + 2.01^m e^{-m pi^2 s^2 / 2},        B(1) = 0

(1e-26 at s = 2.5, m = 2). Summed over the whole numbers within reach that is a total
variation, in both worlds, so

    delta(epsilon) <= delta_Gauss(epsilon, mu) + (1 + e^epsilon) rounds values distance

B(m) and the tails that the sampler cannot draw are counted. Float64 arithmetic is not
counted, as in dp/gaussian_noise.py.
Source: Kairouz et al. 2021, arXiv:2102.06387 (sums of discrete Gaussians: the same
exponent).
Deviations: 1. For rounded Gaussians, whose ideal is a processed Gaussian, so that
mu-GDP and the exact ledger hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import RESERVED
from wardround.dp.accounting import epsilon as gaussian_epsilon
from wardround.dp.hospital_dp import REACH
from wardround.dp.releases import GaussianRelease, Release

# The bound above is proved for noise of at least PROVED steps. TAIL is the probability
# of the numbers that the sampler cannot draw.
PROVED = 1.0
TAIL = 2.0**-63
_OFF_CENTRE = 2.01


class Shares(Protocol):
    """What a promise says of its noise: HospitalDP, and JointDP of dp/joint_dp.py."""

    @property
    def sites(self) -> int: ...

    @property
    def colluders(self) -> int: ...

    @property
    def distributed(self) -> bool: ...

    @property
    def shares(self) -> int: ...

    @property
    def deviation(self) -> float: ...

    @property
    def step(self) -> float: ...

    @property
    def release(self) -> GaussianRelease: ...


def aliasing(deviation: float, shares: int) -> float:
    """Return B(m): how far a probability of the sum is at most from the ideal one.

    One share gives 0: it is the ideal. A deviation below PROVED raises ConfigRefused
    (HospitalDP asks for more anyway).

    deviation: of one share, in steps of the codec.
    """
    if not deviation >= PROVED or shares < 1:
        raise _refused(
            f"{shares} shares of {deviation:.3g} steps",
            f"1 or more, of at least {PROVED} step",
        )
    if shares == 1:
        return 0.0
    square, m = (math.pi * deviation) ** 2, shares
    total = math.exp(m * (math.log(_OFF_CENTRE) - square / 2))
    for k in range(1, m):
        ways = math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1) + k * math.log(_OFF_CENTRE)
        total += math.exp(ways - 2 * square * k * (m - k) / m)
    return total


def distance(promise: Shares) -> float:
    """Return the total variation between P and I for ONE value.

    It is that of the worst number of shares that a sum may hold.
    """
    steps = promise.deviation / promise.step
    reach = math.ceil(REACH * steps) + 1
    most = promise.sites - 1 - promise.colluders if promise.distributed else 1
    return max(
        (m * reach + 1) * aliasing(steps, m) + (m + 1) * TAIL
        for m in range(promise.shares, max(promise.shares, most) + 1)
    )


def extra_delta(promise: Shares, values: int, num_rounds: int, epsilon: float) -> float:
    """Return what `num_rounds` sums of `values` numbers add to delta(epsilon)."""
    return (1 + math.exp(epsilon)) * num_rounds * values * distance(promise)


def epsilon(
    promise: Shares,
    values: int,
    num_rounds: int,
    others: Iterable[Release],
    delta: float,
) -> float:
    """Return the epsilon per hospital (or what else the promise hides) of `num_rounds`
    sums and `others`.

    Everything that is counted is inside delta. A 64th of delta is set aside
    (accounting.claim) because the noise is not exactly one Gaussian; when that does not
    suffice, ConfigRefused is raised.
    """
    releases = [*others, *[promise.release] * num_rounds]
    found = gaussian_epsilon(releases, promise.release.unit, delta)
    if math.isfinite(found) and extra_delta(promise, values, num_rounds, found) > delta * RESERVED:
        raise _refused(
            f"{num_rounds} sums of {values} values at epsilon {found:.3g}, delta {delta:g}",
            "rounding that costs less than a 64th of delta: more bits, more noise, fewer values or a larger delta",
        )
    return found


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "shares of noise",
        found=found,
        expected=expected,
        fix="print the job again with other values, such as `--set dp.noise_multiplier=NUMBER`",
    )
