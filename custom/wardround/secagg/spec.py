"""What does a job promise about its sum? One frozen value, from which all else follows.

fixed   no masks, no encryption, no ring
        the server reads integers: for comparison
masked  masks
        Bonawitz et al. 2017: the server reads the sum alone
he      encryption (masks optional)
        exact BFV: the server reads nothing
ring    masks, encryption and ring
        Zhou et al. 2024: passed from site to site, each adding its own
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

from wardround.core.errors import ConfigRefused
from wardround.core.keystream import WORD
from wardround.core.traits import (
    ADDITIVE,
    ALONE,
    COUNTED,
    FIXED_LAYOUT,
    PUBLIC_COUNT,
    READABLE,
    SAME_BLOCKS,
    SUFFICIENT,
    Part,
    Traits,
)
from wardround.secagg.bfv import plain_modulus
from wardround.secagg.packing import Packing

# In a sum of two, each site would learn the update of the other.
LEAST_SITES = 3
NAMES = {
    "fixed": "a sum in fixed point",
    "masked": "a masked sum",
    "he": "an encrypted sum",
    "he with masks": "an encrypted and masked sum",
    "ring": "a sum passed around a ring",
}
"""The name of the sum by its mode."""
NEEDS = frozenset({ADDITIVE, FIXED_LAYOUT})
WHY = {
    COUNTED: "the number of a hospital's patients, by which the sum weighs its update; or --set secagg.weights=equal",
    # In the first round with masks both models still start and train alike: the sum of
    # the one less that of the other is, block by block, what those who keep the block
    # have left out; where that is one hospital, its update.
    SUFFICIENT: "masks (--set secagg.masks=true): without them somebody can open a single update, with one share of the noise",
    ALONE: "one model, or the same blocks everywhere: the difference of two sums is the update of those that keep a block",
}
ANY_SUM = Part(
    "a secure sum",
    Traits(
        needs=NEEDS,
        needs_one_of=frozenset({ALONE, SAME_BLOCKS}),
        breaks=frozenset({READABLE}),
        why=WHY,
    ),
)
"""What holds for the sum of every mode."""


@final
@dataclass(frozen=True)
class SecAggSpec:
    """The settings of a secure sum; none has a default.

    sites: the most that one sum may hold; it sizes the fields.
    min_clients: fewer are never summed; 3 or more.
    bits: of the payload, 4 to 16.
    weights: equal (1 each), patients_plaintext (n_i, which the server learns) or
        patients_in_sum (n_i inside the sum only).
    reference_patients: n_i is coded as n_i / reference_patients.
    threshold: how many sites must help to open a masked sum, more than half of `sites`:
        with fewer, a server that lies opens it for two sets with two groups of sites. 0
        means all but one, at least 3.
    """

    sites: int
    min_clients: int
    bits: int
    weights: Literal["equal", "patients_plaintext", "patients_in_sum"]
    reference_patients: int
    masks: bool
    encryption: bool
    ring: bool
    threshold: int

    def __post_init__(self) -> None:
        switches, numbers = (
            ("masks", "encryption", "ring"),
            ("sites", "min_clients", "bits", "reference_patients", "threshold"),
        )
        wrong = [name for name in switches if not isinstance(getattr(self, name), bool)]
        wrong += [name for name in numbers if type(getattr(self, name)) is not int]
        if wrong or self.weights is None:
            raise _refused(
                f"no proper {', '.join(wrong) or 'weights'}",
                "every value: whole numbers, and true or false",
            )
        if not LEAST_SITES <= self.min_clients <= self.sites <= 256:
            raise _refused(
                f"min_clients {self.min_clients}, sites {self.sites}",
                "3 <= min_clients <= sites <= 256: a sum of two tells each of them the other's update",
            )
        if not 4 <= self.bits <= 16 or self.weights not in (
            "equal",
            "patients_plaintext",
            "patients_in_sum",
        ):
            raise _refused(
                f"bits {self.bits}, weights {self.weights!r}",
                "4 to 16 bits, equal, patients_plaintext or patients_in_sum",
            )
        if self.ring and not (self.masks and self.encryption):
            raise _refused(
                "a ring without masks or encryption",
                "both: else neighbours read each other's updates",
            )
        # More than half: two groups without a common site cannot both open a sum.
        least = max(LEAST_SITES, self.sites // 2 + 1)
        if self.reference_patients < 1 or not (self.threshold == 0 or least <= self.threshold <= self.sites):
            raise _refused(
                f"reference_patients {self.reference_patients}, threshold {self.threshold}",
                f"reference_patients >= 1, threshold 0 or {least} to {self.sites}",
            )

    @property
    def name(self) -> str:
        """Return the name under which refusals and the compatibility table list it."""
        return f"{NAMES[self.mode]}{' weighted by patients' if self.weighted else ''}"

    @property
    def traits(self) -> Traits:
        """Return what a sum needs. Nobody opens a single update of it, without weights no
        count is in it, and only with `patients_plaintext` may the server know the counts.
        """
        breaks = ANY_SUM.traits.breaks
        if self.weights != "patients_plaintext":
            breaks = breaks | {PUBLIC_COUNT}
        needs = NEEDS if self.masks else NEEDS | {SUFFICIENT}
        if self.weighted:
            return replace(ANY_SUM.traits, needs=needs | {COUNTED}, breaks=breaks)
        return replace(ANY_SUM.traits, needs=needs, breaks=breaks | {COUNTED})

    @property
    def weighted(self) -> bool:
        """Return whether an update counts by its site's number of patients."""
        return self.weights != "equal"

    @property
    def hides_counts(self) -> bool:
        """Return whether the number of a site's patients is in the sum and nowhere else."""
        return self.weights == "patients_in_sum"

    @property
    def levels(self) -> int:
        """Return the largest whole number of the codec."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def modulus(self) -> int:
        """Return the modulus of the words: a prime under encryption, else 2**64."""
        return plain_modulus(2 * self.levels * self.sites + 1, self.sites) if self.encryption else WORD

    @property
    def packing(self) -> Packing:
        """Return how integers are packed into words."""
        return Packing(self.levels, self.sites, self.modulus)

    @property
    def mode(self) -> str:
        """Return the short name that reports print."""
        if self.ring:
            return "ring"
        if self.encryption:
            return "he with masks" if self.masks else "he"
        return "masked" if self.masks else "fixed"

    def weight(self, patients: int) -> float:
        """Return the factor w_i of a site's update."""
        return patients / self.reference_patients if self.weighted else 1.0

    def denominator(self, sites: int, patients: int) -> float:
        """Return the sum of the w_i from what the sum revealed."""
        return patients / self.reference_patients if self.weighted else float(sites)

    def threshold_of(self, sites: int) -> int:
        """Return how many of `sites` sites open a masked sum together."""
        return min(sites, self.threshold) if self.threshold else max(LEAST_SITES, sites - 1)

    def require_enough(self, sites: int, what: str) -> None:
        """Raise ConfigRefused unless a sum over so many sites is allowed."""
        if not self.min_clients <= sites <= self.sites:
            raise ConfigRefused(
                what,
                found=f"{sites} sites",
                expected=f"{self.min_clients} to {self.sites} sites (min_clients and sites of the job's protection)",
                fix="add sites, or print the job for so many with `wardround jobs write`",
            )


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "the job's protection",
        found=found,
        expected=expected,
        fix="print the job again with `--set secagg.NAME=VALUE` for what was found",
    )
