"""Floor 3: the privacy loss of sampled Gaussians, composed by FFT: an upper bound of delta(epsilon), with its error inside.

Each step's loss log P/Q is cut into cells, and a cell's mass is put on its two ends so that its mass under P AND under Q
stays: the pair got only worse, and its mean loss did not move. Powers of the Fourier transform compose the steps. Mass
that may lie beyond the window (Chernoff, with the discrete loss) and the rounding of the FFT are added to delta.
Both directions are composed: a unit added, a unit removed.
Source: Koskela et al. 2020, arXiv:1906.03049 (FFT); Doroshenko et al. 2022, arXiv:2207.04380 ("connect the dots").
Deviations: 1. one fixed number of points instead of a fixed mesh; 2. the tail bound is Chernoff's at one order; 3. below
`LEAST_NOISE` everybody is counted as taking part, which is an upper bound and vacuous anyway.
Why not the PRV accountant of Opacus: it adds .01 to epsilon whatever its size, looks at one direction, imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from wardround.errors import ConfigRefused

POINTS = 2**18
TAIL = 1e-4
LEAST_NOISE = 0.1
ORDERS = np.array([1 + x / 10 for x in range(1, 100)] + list(range(12, 64)) + [72, 80, 96, 128, 160, 192, 256], float)
_UNIT = float(np.finfo(np.float64).eps)
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Part(NamedTuple):
    """Equal steps: noise over sensitivity, chance to take part (1: surely), how many."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


@final
@dataclass(frozen=True)
class Losses:
    """A composed loss: mass[k] at the loss k * mesh (losses below 0 do not matter), `beyond` at infinity."""

    mesh: float
    mass: Floats
    beyond: float

    def delta(self, epsilon: float) -> float:
        """Return delta(epsilon), for epsilon >= 0."""
        gaps = np.arange(len(self.mass)) * self.mesh - epsilon
        above = gaps > 0
        return min(1.0, float(self.beyond - self.mass[above] @ np.expm1(-gaps[above])))

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon >= 0 with delta(epsilon) <= delta; infinity if the window has none."""
        losses, under_p, under_q = self._tails()
        target = delta - self.beyond
        reached = under_p - np.exp(losses) * under_q <= target
        last = int(np.argmax(reached))
        if target <= 0 or not reached[last]:
            return math.inf
        if last == 0:
            return 0.0
        # between two points of the mesh, delta is linear in exp(epsilon)
        return float(min(losses[last], max(losses[last - 1], np.log((under_p[last] - target) / under_q[last]))))

    def tpr(self, fpr: float) -> float:
        """Return the greatest true positive rate of an attack with this false positive rate."""
        losses, under_p, under_q = self._tails()
        return min(1.0, float(self.beyond + np.min(np.exp(losses) * (fpr - under_q) + under_p)))

    def _tails(self) -> tuple[Floats, Floats, Floats]:
        """Return the losses (below 700: exp is finite) and the mass from each of them on, under P and under Q."""
        losses = np.arange(len(self.mass)) * self.mesh
        under_p = np.cumsum(self.mass[::-1])[::-1]
        under_q = np.cumsum((self.mass * np.exp(-losses))[::-1])[::-1]
        finite = losses < 700
        return losses[finite], under_p[finite], under_q[finite]


def compose(parts: Sequence[Part], delta: float) -> tuple[Losses, Losses]:
    """Return the losses when a unit is removed and when it is added, good for epsilon at `delta`.

    a delta that the FFT's rounding drowns (1e-11 for one step, 1e-9 for 10,000): ConfigRefused
    """
    parts = [part if part.noise_multiplier >= LEAST_NOISE else part._replace(sampling_rate=1.0) for part in parts]
    tail = TAIL * delta
    window, order = _window(parts, tail)
    half = POINTS // 2
    mesh = window / (half - 1)
    losses = mesh * np.arange(1 - half, half)
    removed, added = [], []
    for part in parts:
        mixture, alone = _cells(part, losses)
        removed.append(_split(mixture, alone, losses))
        added.append(_split(alone[::-1], mixture[::-1], losses))
    steps = [part.steps for part in parts]
    one, other = (_power(masses, steps, losses, order - 1) for masses in (removed, added))
    if max(one.beyond, other.beyond) > delta / 10:
        raise ConfigRefused(
            "the accountant",
            found=f"delta {delta:g} over {sum(steps)} steps, with a numerical error of {max(one.beyond, other.beyond):.1g}",
            expected="a delta ten times above the error, which grows with the number of steps",
            fix="ask for a larger delta (1e-5 is usual), or for fewer steps",
        )
    return one, other


def renyi(part: Part, orders: Floats = ORDERS) -> Floats:
    """Return the Renyi divergence of ONE step at every order above 1, by quadrature (a unit removed, the worse one).

    Source: Mironov et al. 2019, arXiv:1908.10530, theorem 4 and equation 6
    """
    from scipy.special import logsumexp

    z, q, _ = part
    if q == 1 or z < LEAST_NOISE:
        return orders / (2 * z * z)
    found = []
    for order in orders:
        # the integrand is analytic in a strip of half-width pi z^2: the trapezoidal rule converges exponentially
        width = min(z, z * z) / 4
        x = np.arange(-14 * z, order + 14 * z, width)
        ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z * z))
        density = -x * x / (2 * z * z) - math.log(z * math.sqrt(2 * math.pi) / width)
        found.append(max(0.0, float(logsumexp(density + order * ratio))) / (order - 1))
    return np.array(found)


def _window(parts: Sequence[Part], tail: float) -> tuple[float, float]:
    """Return a loss that neither a step nor the sum exceeds with a chance above `tail`, and the order that says so."""
    steps, single = sum(part.steps for part in parts), [renyi(part) for part in parts]
    total = np.sum([part.steps * one for part, one in zip(parts, single, strict=True)], axis=0)
    bounds = total - math.log(tail) / (ORDERS - 1)
    steep = [float(np.min(one - math.log(tail / steps) / (ORDERS - 1))) for one in single]
    return max(float(bounds.min()), *steep), float(ORDERS[int(bounds.argmin())])


def _cells(part: Part, losses: Floats) -> tuple[Floats, Floats]:
    """Return the mass of every cell below, between and above the losses, with the unit (a mixture) and without."""
    from scipy.special import ndtr

    z, q, _ = part
    with np.errstate(divide="ignore"):
        share = np.maximum(0.0, q - (1 - q) * np.expm1(np.minimum(700, -losses)))
        edges = np.concatenate([[-np.inf], z * z * (losses + np.log(share) - math.log(q)) + 0.5, [np.inf]])

    def between(points: Floats) -> Floats:
        low, high = points[:-1], points[1:]
        found: Floats = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
        return found

    alone = between(edges / z)
    return (1 - q) * alone + q * between((edges - 1) / z), alone


def _split(p: Floats, q: Floats, losses: Floats) -> Floats:
    """Return mass on the losses, and at infinity (last), that dominates cells of mass p and q."""
    inner, low, mesh = p[1:-1], losses[:-1], losses[1] - losses[0]
    up = np.clip((inner - q[1:-1] * np.exp(np.minimum(low, 700))) / -np.expm1(-mesh), 0, inner)
    mass = np.zeros(len(losses) + 1)
    mass[1:-1] += up
    mass[:-2] += inner - up
    mass[0] += p[0]
    mass[-1] = p[-1]
    return mass


def _power(masses: Sequence[Floats], steps: Sequence[int], losses: Floats, rate: float) -> Losses:
    """Return the composition of masses[i], steps[i] times each; what may be wrong is added at infinity."""
    from scipy.special import logsumexp

    half, mesh = POINTS // 2, losses[1] - losses[0]
    product, beyond, moment, rounding = np.ones(half + 1, np.complex128), 0.0, 0.0, 1.0
    for mass, count in zip(masses, steps, strict=True):
        around = np.zeros(POINTS)
        around[:half], around[half + 1 :] = mass[half - 1 : -1], mass[: half - 1]
        one = np.fft.rfft(around)
        product *= one**count
        beyond += count * mass[-1]
        rounding += count * float(np.linalg.norm(np.abs(one) ** (count - 1)))
        with np.errstate(divide="ignore"):
            moment += count * float(logsumexp(rate * losses + np.log(mass[:-1])))
    wrapped = math.exp(min(0.0, moment - rate * losses[-1]))
    composed = np.maximum(0.0, np.fft.irfft(product, POINTS)[:half])
    return Losses(float(mesh), composed, beyond + wrapped + 2 * _UNIT * math.log2(POINTS) * rounding)
