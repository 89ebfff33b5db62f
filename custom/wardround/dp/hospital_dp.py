"""Hospital-level DP: ONE clip of the whole scaled update, and noise that hides it before it becomes integers.

    site    D = w_i - w_t    u = D / s    x = g round(u min(1, C' / ||u||) / g)    q = round((x + N(0, d^2 I)) / h)
    all     Q = sum of q_i over the sites that are counted (n of them)             w <- w + rate s h Q / n
    d = z C / sqrt(min_clients - 1 - colluders) in a secure sum, d = z C where single updates can be read

s: public positive scales, one for each block (dp/scales.py); s = 1 is isotropic noise. The clip is taken AFTER the division,
over all blocks at once, so any s will do, as long as it depends on public numbers and earlier releases only.
Neighbours: hospital j takes part, is counted and adds its noise in both worlds; in one of them its update is x_j, in the
other zero: a hospital added or removed (dp/releases.py), n public and the weights 1 / n. What is hidden is what a hospital's
data do, not that it is a member: the signed roster says that. One hospital moves the sum of x by at most C, exactly: x is
a whole number of g, so fine (C' = C (1 - 2^-11)) that rounding cannot lift it over C.
Against whom: one site that reads the sum and knows its own noise, and `colluders` more (in a sum that the server reads,
the server is one). What they do not know is at least min_clients - 1 - colluders shares, the target's own included: so mu
<= 1 / z for each release, whoever drops out, as long as sums below min_clients stay closed. A site that adds no noise on
purpose is a colluder. Each update may enter ONE opened sum: the same integers under two rosters are two releases.
Not covered: that a hospital refuses (an update that is not finite) or is late, which all see as a dropout.
Rounding: the noise dithers. round(x + N) needs no second clip and no wider bound; dp/noise_shares.py proves it and counts what is
left. No error feedback: it would carry an unclipped rest into the next round. Overflow cannot happen: h is so large that
C and the largest number that gaussian_noise can draw (below REACH standard deviations) fit into one digit of the codec.
Sources: McMahan et al. 2018, arXiv:1710.06963; Kairouz et al. 2021, arXiv:2102.06387 (zeroed-out neighbours, shares).
Deviations: 1. rounded Gaussian shares instead of discrete ones; 2. scales per block of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from wardround.core.arrays import Array, Arrays, Layout
from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.traits import ADDITIVE, ALONE, BOUNDED, COUNTED, FIXED_LAYOUT, INTEGER, UNPROMISED, WHOLE, Traits
from wardround.dp.gaussian_noise import normal, secret_words
from wardround.dp.releases import GaussianRelease

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ROUNDING, REACH, FINEST = 2.0**-12, 9.2, 2.5
LEAST_SITES, LEAST_SCALE, LARGEST_SCALE = 3, 2.0**-20, 2.0**20
_LOWEST, _HIGHEST = -60, 20


@final
@dataclass(frozen=True)
class HospitalDP:
    """A promise: no defaults. max_update_norm C, noise_multiplier z, bits of the codec; sites: the most that one sum may hold.

    hidden: True if nobody ever reads a single update (a secure sum); False: every site adds the whole noise itself
    colluders: sites that tell a reader their noise | fewer than min_clients are never summed
    a value missing or senseless, a sum with no honest share, noise below FINEST steps of the codec: ConfigRefused
    """

    max_update_norm: float
    noise_multiplier: float
    sites: int
    min_clients: int
    colluders: int
    distributed: bool
    bits: int

    name: ClassVar[str] = "hospital-level differential privacy"
    traits: ClassVar[Traits] = Traits(
        needs=frozenset({ALONE, ADDITIVE, FIXED_LAYOUT, WHOLE}),
        gives=frozenset({BOUNDED, INTEGER}),
        # A number of patients is a number about the hospital's data, and no noise hides it.
        breaks=frozenset({COUNTED, UNPROMISED}),
        why={ALONE: "one model: the update of a second one would leave too, and the clip is of one"},
    )

    def __post_init__(self) -> None:
        whole = (self.sites, self.min_clients, self.colluders, self.bits)
        if not isinstance(self.distributed, bool) or any(type(value) is not int for value in whole):
            raise _wrong(f"{self}", "every value given: whole numbers, and true or false")
        if not (_within(self.max_update_norm, 1e-6, 1e6) and _within(self.noise_multiplier, 1e-4, 1e4)):
            raise _wrong(
                f"max_update_norm {self.max_update_norm}, noise_multiplier {self.noise_multiplier}",
                "1e-6 to 1e6 and 1e-4 to 1e4",
            )
        if not (LEAST_SITES <= self.min_clients <= self.sites <= 256 and self.colluders >= 0 and 4 <= self.bits <= 16):
            found = f"min_clients {self.min_clients}, sites {self.sites}, colluders {self.colluders}, bits {self.bits}"
            raise _wrong(found, "3 <= min_clients <= sites <= 256, colluders 0 or more, 4 to 16 bits")
        if self.shares < 1:
            raise _wrong(
                f"min_clients {self.min_clients} with {self.colluders} colluders",
                "min_clients of colluders + 2 or more",
            )
        if not _LOWEST <= self.exponent <= _HIGHEST:
            raise _wrong(f"a step of 2**{self.exponent}", f"2**{_LOWEST} to 2**{_HIGHEST}: another clip")
        if self.deviation < FINEST * self.step:
            found = f"noise of {self.deviation / self.step:.2g} steps with {self.bits} bits"
            raise _wrong(found, f"at least {FINEST} steps: more bits, or more noise")

    @property
    def shares(self) -> int:
        """Return how many shares of noise add up to the whole: 1 where single updates can be read."""
        return self.min_clients - 1 - self.colluders if self.distributed else 1

    @property
    def deviation(self) -> float:
        """Return the standard deviation d of one site's noise, in units of u."""
        return self.noise_multiplier * self.max_update_norm / math.sqrt(self.shares)

    @property
    def levels(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def exponent(self) -> int:
        """Return the least e with C + REACH d <= (levels - 1) 2**e."""
        mantissa, exponent = math.frexp((self.max_update_norm + REACH * self.deviation) / (self.levels - 1))
        return exponent - 1 if mantissa == 0.5 else exponent

    @property
    def step(self) -> float:
        """Return h: the same for every block, every site and every round."""
        return math.ldexp(1.0, self.exponent)

    @property
    def release(self) -> GaussianRelease:
        """Return what a ledger counts for one update of one site."""
        return GaussianRelease("hospital", self.noise_multiplier, 1)

    def fine_step(self, size: int) -> float:
        """Return g for `size` values: a power of two, h or less; rounding to it adds at most ROUNDING x C to a norm."""
        return min(self.step, 2.0 ** math.floor(math.log2(2 * ROUNDING * self.max_update_norm / math.sqrt(size))))


@final
@dataclass(frozen=True)
class Released:
    """An update that may leave (in units of u, whole numbers of h, so the codec keeps every bit), and its cost."""

    update: dict[str, Array]
    release: GaussianRelease


def clipped(promise: HospitalDP, u: Floats) -> Ints:
    """Return x / g, int64, for scaled updates [..., size]: NOT private before noise is added.

    Guarantees: sum of (x / g)^2 <= (C / g)^2 in whole numbers; direction kept up to rounding | zeros: zeros
    NaN or inf: ReleaseRefused
    """
    if not np.isfinite(u).all():
        raise _not_finite("the scaled update")
    peak = np.max(np.abs(u), axis=-1, keepdims=True, initial=2.0**-960)
    norm = peak * np.sqrt(np.sum(np.square(u / peak), axis=-1, keepdims=True))
    with np.errstate(divide="ignore"):
        factor = np.minimum(1.0, promise.max_update_norm * (1 - 2 * ROUNDING) / norm)
    found: Ints = np.rint(u * factor / promise.fine_step(u.shape[-1])).astype(np.int64)
    return found


def noised(promise: HospitalDP, x: Ints) -> Ints:
    """Return q, int64 [..., size], with fresh noise for x as `clipped` gives it: what a site hands to the codec.

    Guarantees: |q| <= levels of the codec, whatever is drawn
    """
    fine = promise.fine_step(x.shape[-1])
    noise = normal(secret_words(x.size)).reshape(x.shape) * promise.deviation
    found: Ints = np.rint((x * fine + noise) / promise.step).astype(np.int64)
    return found


def privatise(promise: HospitalDP, difference: Arrays, scales: Mapping[str, float]) -> Released:
    """Return the release of one site: names and shapes of `difference`, values q h in units of u.

    NaN or inf: ReleaseRefused, nothing leaves | scales that do not fit, or are not within 2**-20 .. 2**20: ConfigRefused
    """
    require_scales(difference, scales)
    layout = Layout.of(difference)
    u = np.concatenate([np.asarray(block, np.float64).ravel() / scales[name] for name, block in difference.items()])
    values: Any = noised(promise, clipped(promise, u)) * promise.step
    return Released(layout.unflatten(values.astype(np.float32)), promise.release)


def require_scales(blocks: Arrays, scales: Mapping[str, float]) -> None:
    """Raise ConfigRefused unless every block has a scale within LEAST_SCALE .. LARGEST_SCALE, and there are blocks."""
    for name in blocks:
        if name not in scales or not _within(scales[name], LEAST_SCALE, LARGEST_SCALE):
            raise _wrong(f"scale {scales.get(name)} of block {name!r}", "a number from 2**-20 to 2**20 for every block")
    if not blocks:
        raise _wrong("an update without blocks", "at least one block that is shared")


def signal_to_noise(promise: HospitalDP, counted: int, values: int, num_rounds: int) -> float:
    """Return norm of the signal over norm of the noise in a whole run: n mu / sqrt(values) times sqrt(shares / n).

    That is at best: every one of the n = `counted` updates fills the clip, and all point the same way in all rounds.
    Below 1 the run is mostly noise: share fewer values. The last factor is what colluders, quorum and reader cost.
    """
    mu = math.sqrt(num_rounds) / promise.noise_multiplier
    return counted * mu / math.sqrt(values) * math.sqrt(promise.shares / counted)


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _not_finite(what: str) -> ReleaseRefused:
    return ReleaseRefused(
        f"{what} for a private release",
        found="NaN or inf",
        expected="finite numbers",
        fix="lower the learning rate or check this site's images",
    )


def _wrong(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused("hospital-level DP", found=found, expected=expected, fix="correct `privacy` in the job")
