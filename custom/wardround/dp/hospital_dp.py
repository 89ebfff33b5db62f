"""Hospital-level DP: ONE clip of the whole scaled update, and noise before rounding.

    site    D = w_i - w_t                       u = D / s
            x = g round(u min(1, C' / ||u||) / g)
            q = round((x + N(0, d^2 I)) / h)
    all     Q = sum of q_i over the n counted sites
            w <- w + rate s h Q / n
    noise   d = z C / sqrt(min_clients - 1 - colluders) in a secure sum,
            d = z C where single updates can be read

s holds public positive scales, one for each block (dp/scales.py); s = 1 is isotropic
noise. The clip is taken AFTER the division and over all blocks at once, so any s is
valid that depends on public numbers and earlier releases only.
Neighbours: hospital j takes part, is counted and adds its noise in both worlds. In one
of them its update is x_j, in the other zero: a hospital added or removed
(dp/releases.py), with n public and the weights 1 / n. What is hidden is what a
hospital's data do, not that it is a member: the signed roster shows that. One hospital
moves the sum of x by at most C, exactly: x is a whole number of g, which is so fine (C'
= C (1 - 2^-11)) that rounding cannot lift x over C.
Adversary: one site that reads the sum and knows its own noise, and `colluders` more.
(In a sum that the server reads, the server is one of them.) At least min_clients - 1 -
colluders shares stay unknown to them, the target's own included. So mu <= 1 / z for
each release, whoever drops out, as long as sums below min_clients stay closed. A site
that adds no noise on purpose is a colluder. Each update may enter ONE opened sum: the
same integers under two rosters are two releases. Not covered is that a hospital refuses
(an update that is not finite) or is late, which all see as a dropout.
Rounding: the noise dithers. round(x + N) needs no second clip and no wider bound;
dp/noise_shares.py proves it and counts what is left. There is no error feedback: it
would carry an unclipped rest into the next round. Overflow cannot happen: h is so large
that C and the largest number that gaussian_noise can draw (below REACH standard
deviations) fit into one digit of the codec.
Sources: McMahan et al. 2018, arXiv:1710.06963; Kairouz et al. 2021, arXiv:2102.06387
(zeroed-out neighbours, shares).
Deviations: 1. Rounded Gaussian shares instead of discrete ones. 2. Scales per block.
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
from wardround.core.traits import (
    ADDITIVE,
    ALONE,
    ANCHORED,
    BOUNDED,
    COUNTED,
    DEFERRABLE,
    FIXED_LAYOUT,
    INTEGER,
    UNPROMISED,
    WHOLE,
    Traits,
)
from wardround.dp.gaussian_noise import normal, secret_words
from wardround.dp.releases import GaussianRelease

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# ROUNDING is the share of the clip that rounding may add. REACH is above the 9.1
# standard deviations that the sampler can draw. With noise of at least FINEST steps of
# the codec, rounding costs about 1e-26 for a value (dp/noise_shares.py).
ROUNDING = 2.0**-12
REACH = 9.2
FINEST = 2.5
LEAST_SITES = 3
LEAST_SCALE = 2.0**-20
LARGEST_SCALE = 2.0**20
_LOWEST = -60
_HIGHEST = 20


@final
@dataclass(frozen=True)
class HospitalDP:
    """The parameters of hospital-level DP; none has a default.

    ConfigRefused is raised when a value is missing or senseless, when a sum would hold
    no honest share of noise, and when the noise is below FINEST steps of the codec.

    max_update_norm: the clip C.
    noise_multiplier: z.
    sites: the most sites that one sum may hold.
    min_clients: fewer sites than this are never summed.
    colluders: how many sites may tell a reader their noise.
    distributed: True if nobody ever reads a single update (a secure sum). If False,
        every site adds the whole noise itself.
    bits: of one number of the codec.
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
        needs=frozenset({ALONE, ADDITIVE, FIXED_LAYOUT, WHOLE, ANCHORED}),
        gives=frozenset({BOUNDED, INTEGER}),
        # A number of patients is a number about the hospital's data, and no noise hides it. What left in a later
        # round would meet the noise of other hospitals there than that which was drawn for it, and the sum of two
        # updates could lie beyond the grid that was made for one.
        breaks=frozenset({COUNTED, DEFERRABLE, UNPROMISED}),
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
            raise _wrong(
                found,
                "3 <= min_clients <= sites <= 256, colluders 0 or more, 4 to 16 bits",
            )
        if self.shares < 1:
            raise _wrong(
                f"min_clients {self.min_clients} with {self.colluders} colluders",
                "min_clients of colluders + 2 or more",
            )
        if not _LOWEST <= self.exponent <= _HIGHEST:
            raise _wrong(
                f"a step of 2**{self.exponent}",
                f"2**{_LOWEST} to 2**{_HIGHEST}: another clip",
            )
        if self.deviation < FINEST * self.step:
            found = f"noise of {self.deviation / self.step:.2g} steps with {self.bits} bits"
            raise _wrong(found, f"at least {FINEST} steps: more bits, or more noise")

    @property
    def shares(self) -> int:
        """Return how many shares of noise add up to the whole.

        It is 1 where single updates can be read.
        """
        return self.min_clients - 1 - self.colluders if self.distributed else 1

    @property
    def deviation(self) -> float:
        """Return the standard deviation d of one site's noise, in units of u."""
        return self.noise_multiplier * self.max_update_norm / math.sqrt(self.shares)

    @property
    def levels(self) -> int:
        """Return the largest whole number of the codec."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def exponent(self) -> int:
        """Return the least e with C + REACH d <= (levels - 1) 2**e."""
        mantissa, exponent = math.frexp((self.max_update_norm + REACH * self.deviation) / (self.levels - 1))
        return exponent - 1 if mantissa == 0.5 else exponent

    @property
    def step(self) -> float:
        """Return h. It is the same for every block, every site and every round."""
        return math.ldexp(1.0, self.exponent)

    @property
    def release(self) -> GaussianRelease:
        """Return what a ledger counts for one update of one site."""
        return GaussianRelease("hospital", self.noise_multiplier, 1)

    def fine_step(self, size: int) -> float:
        """Return g for `size` values: a power of two that is at most h.

        Rounding to it adds at most ROUNDING x C to a norm.
        """
        return min(
            self.step,
            2.0 ** math.floor(math.log2(2 * ROUNDING * self.max_update_norm / math.sqrt(size))),
        )


@final
@dataclass(frozen=True)
class Released:
    """An update that may leave, and its cost.

    The update is in units of u and in whole numbers of h, so the codec keeps every bit.
    """

    update: dict[str, Array]
    release: GaussianRelease


def clipped(promise: HospitalDP, u: Floats) -> Ints:
    """Return x / g, int64, for scaled updates [..., size].

    It is NOT private before noise is added. The sum of (x / g)^2 is at most (C / g)^2
    in whole numbers, and the direction is kept up to rounding; zeros stay zeros. NaN or
    inf raises ReleaseRefused.
    """
    if not np.isfinite(u).all():
        raise _not_finite("the scaled update")
    # Divided by the largest value first, so that no square overflows or vanishes.
    peak = np.max(np.abs(u), axis=-1, keepdims=True, initial=2.0**-960)
    norm = peak * np.sqrt(np.sum(np.square(u / peak), axis=-1, keepdims=True))
    with np.errstate(divide="ignore"):
        factor = np.minimum(1.0, promise.max_update_norm * (1 - 2 * ROUNDING) / norm)
    found: Ints = np.rint(u * factor / promise.fine_step(u.shape[-1])).astype(np.int64)
    return found


def noised(promise: HospitalDP, x: Ints) -> Ints:
    """Return q, int64 [..., size], with fresh noise: what a site hands to the codec.

    |q| is at most `levels`, whatever is drawn.

    x: what `clipped` returns.
    """
    fine = promise.fine_step(x.shape[-1])
    noise = normal(secret_words(x.size)).reshape(x.shape) * promise.deviation
    found: Ints = np.rint((x * fine + noise) / promise.step).astype(np.int64)
    return found


def privatise(promise: HospitalDP, difference: Arrays, scales: Mapping[str, float]) -> Released:
    """Return the release of one site.

    It has the names and shapes of `difference` and the values q h in units of u. NaN or
    inf raises ReleaseRefused, and nothing leaves. Scales that do not fit, or that are
    not within 2**-20 to 2**20, raise ConfigRefused.
    """
    require_scales(difference, scales)
    layout = Layout.of(difference)
    u = np.concatenate([np.asarray(block, np.float64).ravel() / scales[name] for name, block in difference.items()])
    values: Any = noised(promise, clipped(promise, u)) * promise.step
    return Released(layout.unflatten(values.astype(np.float32)), promise.release)


def require_scales(blocks: Arrays, scales: Mapping[str, float]) -> None:
    """Raise ConfigRefused unless every block has a scale in the allowed range.

    The range is LEAST_SCALE to LARGEST_SCALE. An update without blocks is refused too.
    """
    for name in blocks:
        if name not in scales or not _within(scales[name], LEAST_SCALE, LARGEST_SCALE):
            raise _wrong(
                f"scale {scales.get(name)} of block {name!r}",
                "a number from 2**-20 to 2**20 for every block",
            )
    if not blocks:
        raise _wrong("an update without blocks", "at least one block that is shared")


def signal_to_noise(promise: HospitalDP, counted: int, values: int, num_rounds: int) -> float:
    """Return the norm of the signal over the norm of the noise in a whole run.

    It is n mu / sqrt(values) times sqrt(shares / n), at best: every one of the n =
    `counted` updates fills the clip, and all point the same way in all rounds. Below 1
    the run is mostly noise, and fewer values should be shared. The last factor is what
    colluders, quorum and reader cost.
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
    return ConfigRefused(
        "hospital-level DP",
        found=found,
        expected=expected,
        fix="print the job again with other values of `dp` (`--set dp.NAME=VALUE`)",
    )
