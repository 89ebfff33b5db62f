"""What does a job with patient-level DP-SGD promise, apart from its training?

The training is in dp/dp_sgd.py. Whoever only charges for the noise, or checks it (the
outbound filter, the ledger, a site's policy), reads this file and needs no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from wardround.core.errors import ConfigRefused
from wardround.core.traits import ADDITIVE, ALONE, FIXED_LAYOUT, SAME_BLOCKS, UNPROMISED, WHOLE, Traits

# The share of the clip that rounding to the grid may add to one patient's gradient.
ROUNDING = 2.0**-12


@final
@dataclass(frozen=True)
class PatientDP:
    """The parameters of patient-level DP; none has a default.

    A missing or senseless value raises ConfigRefused.

    max_grad_norm: the clip C.
    noise_multiplier: z.
    sample_rate: q, the chance of a patient to be drawn in a step.
    reference_patients: M, agreed in public before training, for example the same round
        number at every site. The real number of a site's patients enters nowhere.
    """

    max_grad_norm: float
    noise_multiplier: float
    sample_rate: float
    reference_patients: int

    name: ClassVar[str] = "patient-level differential privacy"
    # The proof of the noise is of the bytes that the training made, so no other stage
    # may come before.
    traits: ClassVar[Traits] = Traits(
        needs=frozenset({ALONE, SAME_BLOCKS, ADDITIVE, FIXED_LAYOUT, WHOLE}),
        breaks=frozenset({UNPROMISED}),
        why={
            ALONE: "one model: the update of a second one would leave without noise, or uncounted",
            SAME_BLOCKS: "the same blocks at every hospital: masks are chosen by training patients, without noise",
        },
    )

    def __post_init__(self) -> None:
        given = None not in (
            self.max_grad_norm,
            self.noise_multiplier,
            self.sample_rate,
            self.reference_patients,
        )
        good = given and 0 < self.max_grad_norm < 1e6 and 0 < self.noise_multiplier < 1e4 and 0 < self.sample_rate <= 1
        if not (good and self.reference_patients >= 1):
            raise ConfigRefused(
                "patient-level DP",
                found=f"max_grad_norm {self.max_grad_norm}, noise_multiplier {self.noise_multiplier}, sample_rate "
                f"{self.sample_rate}, reference_patients {self.reference_patients}",
                expected="0 < max_grad_norm, 0 < noise_multiplier, 0 < sample_rate <= 1, reference_patients >= 1",
                fix="set dp.max_grad_norm, dp.noise_multiplier, dp.sample_rate and dp.reference_patients with `--set`",
            )

    @property
    def denominator(self) -> float:
        """Return q M, the expected number of patients per step, whatever the draw."""
        return self.sample_rate * self.reference_patients

    def step(self, size: int) -> float:
        """Return h for `size` parameters.

        It is a power of two, chosen so that rounding moves a patient by at most
        ROUNDING x C.
        """
        return 2.0 ** math.floor(math.log2(2 * ROUNDING * self.max_grad_norm / math.sqrt(size)))
