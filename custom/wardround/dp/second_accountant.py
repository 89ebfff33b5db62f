"""What does a second accountant say of the same releases? Opacus' PRV accountant.

It composes the privacy loss in another way than the accountant whose epsilon is claimed
(accounting.py), by code of other people. Its answer is printed beside ours. A budget
counts ours, unless the second one contradicts it: where its epsilon is larger by more
than its own error, the larger one counts, because one of the two is then wrong.
The answer is for patients and images, whose releases DP-SGD samples. Full participation
is sampling at rate 1.
Source: Gopi et al. 2021, arXiv:2106.02848 (PRV); Yousefpour et al. 2021,
arXiv:2109.12298 (Opacus).
Deviations: 1. Where shares of noise are rounded, its delta is that of ours, less a 64th.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import lru_cache

from wardround.dp.accounting import VACUOUS, Claim, best_attack, for_gaussians, in_shares, mu_for
from wardround.dp.releases import (
    Release,
    SampledGaussianRelease,
    Unit,
    UnknownRelease,
    covers,
    merged,
    seen_by,
    times,
)

# What its epsilon may be off by, up or down, and what is printed is its upper bound.
# Three times as much is more than the whole width between its two bounds.
ERROR = 0.01
NAME = "a second accountant (Opacus PRV)"


def second_opinion(releases: Iterable[Release], unit: Unit, delta: float) -> float | None:
    """Return the epsilon that Opacus' PRV accountant states, an upper bound.

    It is None where it has no answer: for hospitals, without a release, where a release
    is unknown or hides only a smaller unit, and where its arithmetic fails.
    """
    found = merged(releases)
    if unit == "hospital" or not found or not all(covers(release, unit) for release in found):
        return None
    steps = []
    for release in found:
        seen = seen_by(release, unit)
        if isinstance(seen, UnknownRelease):
            return None
        rate = seen.sample_rate if isinstance(seen, SampledGaussianRelease) else 1.0
        steps.append((seen.noise_multiplier, rate, times(seen)))
    return _prv(tuple(steps), for_gaussians(delta) if any(map(in_shares, found)) else delta)


def the_larger(ours: Claim, releases: Iterable[Release]) -> Claim:
    """Return our claim, or that of the second accountant where it contradicts ours.

    What ours says nothing about (an epsilon of 0, or above VACUOUS) is returned as it is.
    """
    if not 0 < ours.epsilon <= VACUOUS:
        return ours
    second = second_opinion(releases, ours.unit, ours.delta)
    if second is None or second - 3 * ERROR <= ours.epsilon:
        return ours
    mu = mu_for(second, ours.delta)
    return Claim(ours.unit, ours.delta, second, mu, best_attack(mu))


def said(second: float | None, unit: str) -> str:
    """Return the line that is printed beside our epsilon; "" without an answer."""
    if second is None:
        return ""
    return f"{NAME} says epsilon {second:.3g} per {unit}, an upper bound like ours"


@lru_cache(maxsize=64)
def _prv(steps: tuple[tuple[float, float, int], ...], delta: float) -> float | None:
    # Loaded here: it takes seconds, and a job without patients' privacy never asks.
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(steps)
    try:
        with warnings.catch_warnings():
            # At rate 1 it takes the logarithm of 0, which is what it should be.
            warnings.simplefilter("ignore")
            found = float(accountant.get_epsilon(delta, eps_error=ERROR))
    except (ValueError, RuntimeError, ArithmeticError, MemoryError, IndexError):
        return None
    return max(0.0, found) if math.isfinite(found) else None
