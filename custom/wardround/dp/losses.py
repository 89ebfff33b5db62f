"""What do releases with Poisson sampling cost together?

Google's library `dp-accounting` answers it: it composes distributions of the privacy
loss. It rounds them so that the result is an upper bound ("connect the dots"), in both
directions: one unit added, one unit removed. This file chooses its mesh and leaves room
for its arithmetic.
Source: Koskela et al. 2020, arXiv:1906.03049 (FFT); Doroshenko et al. 2022,
arXiv:2207.04380 ("connect the dots").
Deviations: 1. The mesh follows the losses, because the library's own (1e-4) is too
coarse for small losses and too slow for large ones. 2. The library does not count the
rounding of its FFT: ROUNDING for every step is taken from delta.
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from typing import NamedTuple

from wardround.core.errors import ConfigRefused

# The mesh is this fraction of the standard deviation of one step's loss. Rounding to it
# widens the composed loss by at most one part in 32,000 (an eighth of its square), and
# costs as much in epsilon.
FINENESS = 1 / 64
# 256 float64 roundings for every step: an allowance, not a proof. The tests compare
# with the closed form.
ROUNDING = 2.0**-44
# An attack with 1 % false positives cannot use a larger epsilon than log(100):
# exp(epsilon) times 1 % would be above 1.
_EPSILONS = [step / 100 for step in range(461)]


class Part(NamedTuple):
    """Equal steps.

    noise_multiplier: noise over sensitivity.
    sample_rate: the chance of a unit to take part; 1 means that it surely does.
    steps: how many.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


class Bound(NamedTuple):
    """Upper bounds.

    epsilon: at the delta that was asked for.
    delta_at_zero: delta at epsilon 0.
    tpr: the rate of true positives at a given rate of false ones.
    """

    epsilon: float
    delta_at_zero: float
    tpr: float


@lru_cache(maxsize=256)
def compose(parts: tuple[Part, ...], delta: float, fpr: float) -> Bound:
    """Return what all the parts cost together.

    It is the worse of a unit added and a unit removed. A delta that is not well above
    ROUNDING times the number of steps raises ConfigRefused.

    parts: one or more.
    fpr: the rate of false positives of the attack whose true positives are bounded.
    """
    # Loaded here: the library takes a second, and most commands never ask for a sampled
    # epsilon.
    import numpy as np
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    steps = sum(part.steps for part in parts)
    left = delta - steps * ROUNDING
    if left < 0.9 * delta:
        raise ConfigRefused(
            "the accountant",
            found=f"delta {delta:g} over {steps} steps, with a numerical error of {delta - left:.1g}",
            expected="a delta ten times above the error, which grows with the number of steps",
            fix="ask for a larger delta (1e-5 is usual), or for fewer steps",
        )
    spread = math.sqrt(sum(part.steps * (part.sample_rate / part.noise_multiplier) ** 2 for part in parts) / steps)
    distributions = [
        from_gaussian_mechanism(
            part.noise_multiplier,
            sampling_prob=part.sample_rate,
            value_discretization_interval=spread * FINENESS,
        ).self_compose(part.steps)
        for part in parts
    ]
    total = reduce(lambda one, other: one.compose(other, tail_mass_truncation=1e-15), distributions)
    # Where exp(loss) overflows, the library finds no epsilon: it is infinite, which is
    # an upper bound.
    with np.errstate(over="ignore", invalid="ignore"):
        epsilon = float(total.get_epsilon_for_delta(left))
        deltas = np.asarray(total.get_delta_for_epsilon(_EPSILONS)) + (delta - left)
    tpr = float(np.min(np.exp(_EPSILONS) * fpr + deltas))
    return Bound(
        epsilon if math.isfinite(epsilon) else math.inf,
        min(1.0, float(deltas[0])),
        min(1.0, tpr),
    )
