"""Patient-level DP under ONE noise of all hospitals: what does each add to a sum?

    patient   r_p = round(g_p f_p / g),   f_p = min(1, c / ||g_p||), c = C (1 - 2 R)
              (normalised: f_p = c / ||g_p||)
    hospital  q = round((g sum_p r_p + N(0, d^2 I)) / h)
    all       Q = sum of q over the counted hospitals;  private gradient = h Q / M
    noise     d = z C / sqrt(min_clients - 1 - colluders)

g_p is the mean gradient over everything that training patient p has in the round, with
respect to the blocks that are trained. EVERY training patient is in every round. M is
the public number of reference patients; a hospital's own number enters nowhere.
Neighbours: one patient added or removed at one hospital. The r_p are whole numbers and
||g r_p|| <= C after rounding (R is what rounding may add), so the sum moves by at most
C, in exact arithmetic. One patient REPLACED by another moves it by up to 2 C, which is
twice mu. A patient whose images lie in k hospitals of one sum moves it by up to k C,
which is k times mu, and no hospital can know k.
Adversary: one hospital that reads the sum and knows its own noise, and `colluders`
more; or the server, which knows none. At least min_clients - 1 - colluders shares, the
patient's own hospital's included, stay unknown to them, so mu <= 1 / z for a release
and sqrt(T) / z for T of them, whoever drops out. dp/joint_claims.py says what is left
if another hospital adds no noise. In contrast to dp/dp_sgd.py the promise rests on the others.
Overflow cannot happen: h is so large that max_patients C and the largest number that
gaussian_noise draws fit into one digit of the codec. A hospital with more patients than
max_patients is refused; that it has more is then no secret.
Rounding to h dithers and needs no wider bound (dp/noise_shares.py).
Sources: Abadi et al. 2016, arXiv:1607.00133 (clip per sample; here a sample is a
patient, without sampling); Kairouz et al. 2021, arXiv:2102.06387 (shares of one noise);
Dong et al. 2022, arXiv:1905.02383, corollary 3.3 (mu adds up in squares).
Deviations: 1. Rounded Gaussian shares instead of discrete ones. 2. Normalised clip as
in Bu et al. 2023, arXiv:2206.07136, without their constant in the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

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
    SAME_BLOCKS,
    SUFFICIENT,
    UNPROMISED,
    WHOLE,
    Traits,
)
from wardround.dp.gaussian_noise import normal, secret_words
from wardround.dp.hospital_dp import FINEST, REACH
from wardround.dp.releases import GaussianRelease

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# ROUNDING is the share R of the clip that rounding may add to one patient. EXACT is the
# largest whole number that float32, in which a sum travels to the filter, keeps.
ROUNDING = 2.0**-9
EXACT = 2**24
LEAST_SITES = 3
MOST_PATIENTS = 100_000


@final
@dataclass(frozen=True)
class JointDP:
    """The parameters of patient-level DP under one noise; none has a default.

    ConfigRefused is raised when a value is missing or senseless, when a sum would hold
    no honest share of noise, and when the noise is below FINEST steps of the codec.

    max_grad_norm: the clip C of one patient's gradient.
    normalised: whether shorter gradients are stretched to C as well.
    noise_multiplier: z, of the whole noise over C.
    sites: the most hospitals that one sum may hold.
    min_clients: fewer hospitals than this are never summed.
    colluders: how many hospitals may tell a reader their noise.
    max_patients: the most training patients that one hospital may have.
    reference_patients: M, by which every released sum is divided.
    bits: of one number of the codec.
    """

    max_grad_norm: float
    normalised: bool
    noise_multiplier: float
    sites: int
    min_clients: int
    colluders: int
    max_patients: int
    reference_patients: int
    bits: int

    name: ClassVar[str] = "patient-level differential privacy with one noise"
    # Only masks keep everybody from reading one hospital's integers, which hold no more than its own share.
    distributed: ClassVar[bool] = True
    traits: ClassVar[Traits] = Traits(
        needs=frozenset({ALONE, SAME_BLOCKS, ADDITIVE, FIXED_LAYOUT, WHOLE, ANCHORED}),
        gives=frozenset({BOUNDED, INTEGER}),
        breaks=frozenset({COUNTED, DEFERRABLE, SUFFICIENT, UNPROMISED}),
        why={
            ALONE: "one model: the update of a second one would leave without noise, or uncounted",
            SAME_BLOCKS: "the same blocks at every hospital: masks are chosen by training patients, without noise",
        },
    )

    def __post_init__(self) -> None:
        whole = ("sites", "min_clients", "colluders", "max_patients", "reference_patients", "bits")
        wrong = [name for name in whole if type(getattr(self, name)) is not int]
        wrong += [name for name in ("max_grad_norm", "noise_multiplier") if not _number(getattr(self, name))]
        if wrong or not isinstance(self.normalised, bool):
            raise _wrong(
                f"no proper {', '.join(wrong) or 'normalised'}", "every value given: numbers, and true or false"
            )
        if not (1e-6 <= self.max_grad_norm <= 1e6 and 1e-4 <= self.noise_multiplier <= 1e4):
            raise _wrong(
                f"max_grad_norm {self.max_grad_norm}, noise_multiplier {self.noise_multiplier}",
                "1e-6 to 1e6 and 1e-4 to 1e4",
            )
        if not (LEAST_SITES <= self.min_clients <= self.sites <= 256 and self.colluders >= 0 and 4 <= self.bits <= 16):
            raise _wrong(
                f"min_clients {self.min_clients}, sites {self.sites}, colluders {self.colluders}, bits {self.bits}",
                "3 <= min_clients <= sites <= 256, colluders 0 or more, 4 to 16 bits",
            )
        if not (1 <= self.max_patients <= MOST_PATIENTS and self.reference_patients >= 1):
            raise _wrong(
                f"max_patients {self.max_patients}, reference_patients {self.reference_patients}",
                f"1 to {MOST_PATIENTS}, and 1 or more",
            )
        if self.shares < 1:
            raise ConfigRefused(
                "one noise of all hospitals",
                found=f"a quorum of {self.min_clients} with {self.colluders} colluders: nobody's noise is left",
                expected="min_clients of colluders + 2 or more",
                fix=f"--set federation.min_clients={self.colluders + 2}, or --set dp.colluders=0",
            )
        if self.deviation < FINEST * self.step:
            found = f"noise of {self.deviation / self.step:.2g} steps with {self.bits} bits for {self.max_patients} patients"
            raise _wrong(found, f"at least {FINEST} steps: more bits, more noise or a smaller dp.max_patients")

    @property
    def shares(self) -> int:
        """Return how many shares of noise add up to the whole."""
        return self.min_clients - 1 - self.colluders

    @property
    def deviation(self) -> float:
        """Return the standard deviation d of one hospital's noise."""
        return self.noise_multiplier * self.max_grad_norm / math.sqrt(self.shares)

    @property
    def levels(self) -> int:
        """Return the largest whole number of the codec."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def exponent(self) -> int:
        """Return the least e with max_patients C + REACH d <= (levels - 1) 2**e."""
        reach = self.max_patients * self.max_grad_norm + REACH * self.deviation
        mantissa, exponent = math.frexp(reach / (self.levels - 1))
        return exponent - 1 if mantissa == 0.5 else exponent

    @property
    def step(self) -> float:
        """Return h. It is the same for every value, every hospital and every round."""
        return math.ldexp(1.0, self.exponent)

    @property
    def reach(self) -> float:
        """Return c, the norm to which a gradient is cut before it is rounded."""
        return self.max_grad_norm * (1 - 2 * ROUNDING)

    @property
    def release(self) -> GaussianRelease:
        """Return what a ledger counts for one sum."""
        return GaussianRelease("patient", self.noise_multiplier, 1, in_shares=True)

    def fine_step(self, size: int) -> float:
        """Return g for `size` values: a power of two.

        Rounding to it adds at most ROUNDING x C to a patient's norm.
        """
        return 2.0 ** math.floor(math.log2(2 * ROUNDING * self.max_grad_norm / math.sqrt(size)))

    def require_exact(self, size: int) -> None:
        """Raise ConfigRefused unless sums of `size` values are exact in float32."""
        largest = self.max_patients * self.max_grad_norm / self.fine_step(size)
        if largest > EXACT:
            raise _wrong(
                f"a sum of up to {largest:.3g} steps, for {size} trained values and {self.max_patients} patients",
                f"at most {EXACT}: fewer trained values (sharing.train) or a smaller dp.max_patients",
            )

    def require_patients(self, patients: int) -> None:
        """Raise ConfigRefused for a hospital with more training patients than a sum has
        room for. The number itself is not named: a refusal may reach a log.
        """
        if patients > self.max_patients:
            raise ConfigRefused(
                "the training patients of this hospital",
                found="more than dp.max_patients of the job",
                expected=f"at most {self.max_patients}, the same public number at every hospital",
                fix="print the job with a larger --set dp.max_patients=NUMBER, or give this hospital fewer training patients",
            )

    def gradient(self, mean: Mapping[str, NDArray[np.float32]], sites: int) -> dict[str, NDArray[np.float32]]:
        """Return the released sum over M, from the mean over `sites` hospitals.

        It is post-processing of the sum: every hospital computes the same bits.
        """
        factor = sites / self.reference_patients
        return {name: (block.astype(np.float64) * factor).astype(np.float32) for name, block in mean.items()}


def noised(promise: JointDP, total: Floats) -> Ints:
    """Return q, int64 of the same shape, with fresh noise.

    |q| is at most `levels`, whatever is drawn. A value that is not finite, or that no
    sum of max_patients patients gives, raises ReleaseRefused: nothing leaves.

    total: g times the sum of the r_p.
    """
    most = promise.max_patients * promise.max_grad_norm
    if not np.isfinite(total).all() or float(np.abs(total).max(initial=0.0)) > most:
        raise ReleaseRefused(
            "a sum of patients' gradients",
            found="NaN, inf, or a number that no patients of this promise give",
            expected=f"finite numbers within {most:g}",
            fix="print the job again with `wardround jobs write`; if it stays, check this site's images",
        )
    noise = normal(secret_words(total.size)).reshape(total.shape) * promise.deviation
    found: Ints = np.rint((total + noise) / promise.step).astype(np.int64)
    return found


def signal_to_noise(promise: JointDP, hospitals: int, patients: int, values: int, num_rounds: int) -> float:
    """Return the norm of the signal over that of the noise in a whole run, at best.

    It is N mu / sqrt(values) times sqrt(shares / hospitals): every patient's gradient
    fills the clip, and all point the same way in all rounds.
    """
    mu = math.sqrt(num_rounds) / promise.noise_multiplier
    return patients * mu / math.sqrt(values) * math.sqrt(promise.shares / hospitals)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "patient-level DP with one noise of all hospitals",
        found=found,
        expected=expected,
        fix="print the job again with other values of `dp` (`--set dp.NAME=VALUE`)",
    )
