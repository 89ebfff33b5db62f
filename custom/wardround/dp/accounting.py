"""What do releases cost together, as epsilon at a stated delta for ONE unit?

It also computes mu, and the best attack that the releases allow.
Full participation is exact: mu = sqrt(sum count / z^2), and delta(epsilon) has a closed
form. Poisson sampling is an upper bound by the accountant of dp-accounting
(dp/losses.py), to which full participation is one more step.
Units never add up. A release counts for its own unit, and for smaller units at half its
noise multiplier (dp/releases.py says why). For a larger unit it promises nothing
finite. delta is always an argument: 1e-5 is usual, and 1/n never is.
Source: Dong et al. 2022, arXiv:1905.02383, corollaries 2.13 and 3.3; Balle and Wang
2018, arXiv:1805.06530, theorem 8.
Deviations: 1. Below LEAST_NOISE every unit is counted as taking part, which is an upper
bound and vacuous anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from wardround.core.errors import ConfigRefused
from wardround.dp.releases import (
    GaussianRelease,
    Release,
    SampledGaussianRelease,
    Unit,
    UnknownRelease,
    covers,
    merged,
    seen_by,
)

# Above this epsilon a job claims no privacy. RESERVED is the part of delta that is set
# aside for rounded shares of noise (dp/noise_shares.py). FPR is the rate of false
# positives at which attacks are reported.
VACUOUS = 100.0
RESERVED = 1 / 64
FPR = 0.01
LEAST_NOISE = 0.1


@final
@dataclass(frozen=True)
class Attack:
    """The best that anybody can do who must tell "with the unit" from "without it".

    accuracy: at even odds.
    tpr: the rate of true positives at 1 % false positives.
    """

    accuracy: float
    tpr: float


@final
@dataclass(frozen=True)
class Claim:
    """What holds for one unit.

    mu: that of the Gaussian mechanism with this epsilon at this delta. It is exact
        without sampling.
    """

    unit: Unit
    delta: float
    epsilon: float
    mu: float
    attack: Attack

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:.4g} per {self.unit} at delta {self.delta:g} (mu {self.mu:.3f})"


def delta_of(epsilon: float, mu: float) -> float:
    """Return delta(epsilon) of a mu-GDP mechanism.

    It is 0 for mu 0, and 1 for an infinite mu.
    """
    # scipy takes long to load, and most commands never ask for an epsilon.
    from scipy.special import log_ndtr

    if mu == 0 or math.isinf(mu):
        return 0.0 if mu == 0 else 1.0
    # In logarithms: both terms can be tiny, and their difference must stay exact.
    one = float(log_ndtr(mu / 2 - epsilon / mu))
    other = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return float(math.exp(one) * -math.expm1(min(0.0, other - one)))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the epsilon of a mu-GDP mechanism, rounded up.

    It is 0 for mu 0 and infinite for an infinite mu. A delta outside of (0, 1) is
    refused with ConfigRefused.
    """
    _require_delta(delta)
    if math.isinf(mu) or delta_of(0, mu) <= delta:
        return math.inf if math.isinf(mu) else 0.0
    # The tail bound of the Gaussian: at this epsilon delta is surely small enough.
    bound = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return _bisect(lambda epsilon: delta_of(epsilon, mu) <= delta, 0.0, bound)[1]


def mu_for(epsilon: float, delta: float) -> float:
    """Return the largest mu (rounded down) with at most this epsilon at `delta`.

    It is infinite for an infinite epsilon.
    """
    _require_delta(delta)
    if math.isinf(epsilon):
        return math.inf
    bound = 1.0
    while delta_of(epsilon, bound) <= delta:
        bound *= 2
    return _bisect(lambda mu: delta_of(epsilon, mu) > delta, 0.0, bound)[0] * (1 - 1e-9)


def mu_of(releases: Iterable[Release], unit: Unit) -> float:
    """Return sqrt(sum count / z^2) for releases with full participation.

    It is infinite if one of them does not cover the unit or is sampled.
    """
    total = 0.0
    for release in releases:
        seen = seen_by(release, unit)
        if not isinstance(seen, GaussianRelease) or not covers(release, unit):
            return math.inf
        total += seen.count / seen.noise_multiplier**2
    return math.sqrt(total)


def best_attack(mu: float) -> Attack:
    """Return what a mu-GDP mechanism allows: Phi(mu / 2), and Phi(Phi^-1(.01) + mu)."""
    from scipy.special import ndtr, ndtri

    return Attack(float(ndtr(mu / 2)), float(ndtr(ndtri(FPR) + mu)))


def claim(releases: Iterable[Release], unit: Unit, delta: float) -> Claim:
    """Return what all the releases together promise one unit.

    Releases of whole hospitals, and those that say so (`in_shares`), are sums of rounded
    shares, and a 64th of delta is set aside for that (dp/noise_shares.py). No release gives epsilon 0 and attack accuracy .5. If
    one release is unknown, or hides only a smaller unit, epsilon is infinite.
    """
    _require_delta(delta)
    found = merged(releases)
    if not all(covers(release, unit) for release in found):
        return Claim(unit, delta, math.inf, math.inf, Attack(1.0, 1.0))
    at = for_gaussians(delta) if any(in_shares(release) for release in found) else delta
    found = [_plain(seen_by(release, unit)) for release in found]
    sampled = [one for one in found if isinstance(one, SampledGaussianRelease)]
    mu = mu_of([one for one in found if not isinstance(one, SampledGaussianRelease)], unit)
    if not sampled:
        return Claim(unit, delta, epsilon_of(mu, at), mu, best_attack(mu))
    if mu > 1 / LEAST_NOISE or any(one.noise_multiplier < LEAST_NOISE for one in sampled):
        everybody = mu_of([_without_sampling(one) for one in found], unit)
        return Claim(unit, delta, epsilon_of(everybody, at), everybody, best_attack(everybody))
    # Imported here, because the library below takes a second to load.
    from wardround.dp.losses import Part, compose

    parts = [Part(one.noise_multiplier, one.sample_rate, one.steps) for one in sampled]
    bound = compose((*parts, Part(1 / mu, 1.0, 1)) if mu else tuple(parts), at, FPR)
    attack = Attack(0.5 + bound.delta_at_zero / 2, bound.tpr)
    return Claim(unit, delta, bound.epsilon, mu_for(bound.epsilon, at), attack)


def epsilon(releases: Iterable[Release], unit: Unit, delta: float) -> float:
    """Return the epsilon of all the releases for one unit, infinite as in `claim`."""
    return claim(releases, unit, delta).epsilon


def for_gaussians(delta: float) -> float:
    """Return the part of delta that is left for the Gaussian mechanism.

    The rest is for the rounding of the hospitals' shares of noise (dp/noise_shares.py).
    """
    return delta * (1 - RESERVED)


def noise_multiplier_for(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the least noise multiplier for sampled steps within `target_epsilon`.

    It is found to .01 % and rounded up. ConfigRefused is raised for a sample_rate or
    steps out of range, and for a target that is not above 0 and finite.
    """
    from scipy.optimize import brentq

    _require_target(target_epsilon)

    def above(noise_multiplier: float) -> float:
        release = SampledGaussianRelease("patient", noise_multiplier, sample_rate, steps)
        # The solver needs finite values.
        return min(1e9, epsilon([release], "patient", delta)) - target_epsilon

    high = 1.0
    while above(high) > 0:
        high *= 2
    low = high / 2
    while above(low) <= 0:
        low, high = low / 2, low
    found = float(brentq(above, low, high, rtol=1e-5))
    # The solver may stop on either side of the root: only the private side counts.
    while above(found) > 0:
        found *= 1 + 1e-5
    return found


def full_noise_multiplier_for(
    target_epsilon: float, delta: float, count: int, unit: Unit, in_shares: bool = False
) -> float:
    """Return the least noise multiplier of `count` releases that cost `target_epsilon`.

    Every unit takes part in every release.
    """
    _require_target(target_epsilon)
    at = for_gaussians(delta) if in_shares or unit == "hospital" else delta
    return math.sqrt(GaussianRelease(unit, 1.0, count).count) / mu_for(target_epsilon, at)


def require_meaningful(epsilon: float, accept_vacuous: bool) -> None:
    """Raise ConfigRefused for an epsilon above `VACUOUS` or not a number.

    A job may accept that its epsilon is vacuous.
    """
    if not epsilon <= VACUOUS and not accept_vacuous:
        raise ConfigRefused(
            "the job's privacy",
            found=f"epsilon {epsilon:.4g}: this is not a privacy claim",
            expected=f"epsilon at most {VACUOUS:g}; 1 to 8 is usual",
            fix="more noise, fewer rounds or a lower sampling rate; or set accept_vacuous and claim no privacy",
        )


def in_shares(release: Release) -> bool:
    """Return whether the noise is a sum of rounded shares, for which a part of delta is set aside."""
    if isinstance(release, UnknownRelease):
        return False
    return release.unit == "hospital" or (isinstance(release, GaussianRelease) and release.in_shares)


def _plain(release: Release) -> Release:
    """Return sampling at rate 1 as what it is: full participation."""
    at_rate_one = isinstance(release, SampledGaussianRelease) and release.sample_rate == 1
    return _without_sampling(release) if at_rate_one else release


def _without_sampling(release: Release) -> Release:
    """Return the release with every unit taking part in every step.

    This costs at least as much as the sampled release.
    """
    if isinstance(release, SampledGaussianRelease):
        return GaussianRelease(release.unit, release.noise_multiplier, release.steps)
    return release


def _bisect(good: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Return (the largest value found that is not good, the smallest that is good).

    The condition must turn good only once.
    """
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if good(middle) else (middle, high)
    return low, high


def _require_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise _refused(
            f"delta {delta!r}",
            "above 0 and below 1; 1e-5 is usual, whatever the number of sites",
        )


def _require_target(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise _refused(f"a target epsilon of {epsilon!r}", "above 0 and finite")


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "the accountant",
        found=found,
        expected=expected,
        fix="print the job again with other values, such as `--set dp.noise_multiplier=NUMBER`",
    )
