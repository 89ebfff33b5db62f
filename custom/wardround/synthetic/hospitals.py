"""What are the hospitals of the phantoms like?

A profile says what a hospital's scanners do to a brain, whom it treats and what it
lacks. The differences are of the kind that normalising each volume cannot remove:
contrast between tissues, weak lesion contrast, noise, blur, bias field, bright spots
that are no tumour, tumour size, a missing modality. So one global model serves some
hospitals badly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from wardround.core.errors import ConfigRefused
from wardround.core.rng import stream
from wardround.data.layouts import MODALITIES
from wardround.synthetic.anatomy import TISSUES

MOST_SITES = 64
# Beyond this the brightness of a tissue says nothing about which tissue it is.
MOST_VARIETY = 5.0
CHANCES = ("findings", "subtypes")
ORIENTATIONS = tuple("".join(axes) for axes in product("RL", "AP", "SI"))

# Rows are MODALITIES, columns TISSUES (csf, grey, white, core, oedema, rim). Units are
# arbitrary; white matter in T1 is 0.75.
BASE_CONTRAST = np.array(
    [
        [0.25, 0.55, 0.75, 0.32, 0.48, 0.55],
        [0.25, 0.55, 0.75, 0.32, 0.48, 1.10],
        [1.00, 0.60, 0.42, 0.85, 0.82, 0.68],
        [0.20, 0.58, 0.48, 0.55, 0.95, 0.74],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Hospital:
    """One site; four-tuples are in the order t1, t1ce, t2, flair.

    gain, gamma: The stored value is gain * brightness ** gamma.
    contrast: (modality, tissue, shift) is added to BASE_CONTRAST.
    noise: The standard deviation of the noise, in the units of BASE_CONTRAST.
    bias_field: The standard deviation of the logarithm of the smooth brightness drift.
    spots: Bright spots in T2 and FLAIR that are no tumour, per patient.
    quiet_every: Every n-th patient has no enhancing tumour (ET empty).
    missing: Modalities that this site does not acquire.
    orientation: The voxel axes of the stored files, one of R/L, A/P, S/I each.
    patients_vary: How far its patients differ from one another, in multiples of what
        the constants of phantom_images.py and phantoms.py say.
    findings: The chance of each kind of finding that is no tumour (findings.py), for
        every patient.
    subtypes: The chance that a patient's tumour is of a rare subtype (subtypes.py).

    ConfigRefused is raised for values that do not exist or are out of range.
    """

    name: str
    patients: int
    tumour_radius_mm: tuple[float, float]
    gain: tuple[float, float, float, float] = (600.0, 600.0, 600.0, 600.0)
    gamma: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    contrast: tuple[tuple[str, str, float], ...] = ()
    noise: float = 0.05
    blur_mm: float = 2.4
    bias_field: float = 0.06
    spots: int = 0
    quiet_every: int = 4
    missing: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0)
    orientation: str = "RAS"
    patients_vary: float = 1.0
    findings: float = 0.0
    subtypes: float = 0.0

    def __post_init__(self) -> None:
        wrong = [m for m in self.missing if m not in MODALITIES]
        wrong += [f"{m}/{t}" for m, t, _ in self.contrast if m not in MODALITIES or t not in TISSUES]
        wrong += [] if len(set(self.missing)) < len(MODALITIES) else ["no modality left"]
        wrong += [] if self.orientation in ORIENTATIONS else [f"orientation {self.orientation!r}"]
        wrong += [] if 0 < self.tumour_radius_mm[0] <= self.tumour_radius_mm[1] else ["tumour_radius_mm"]
        varies = 0 <= self.patients_vary <= MOST_VARIETY
        wrong += [] if varies else [f"patients_vary {self.patients_vary}, not 0 to {MOST_VARIETY:g}"]
        wrong += [f"{what} {getattr(self, what)}, not 0 to 1" for what in CHANCES if not 0 <= getattr(self, what) <= 1]
        wrong += [] if min(self.patients, self.quiet_every) >= 1 and min(self.spacing_mm) > 0 else ["counts or spacing"]
        if wrong:
            raise ConfigRefused(
                f"the phantom hospital {self.name!r}",
                found=", ".join(wrong),
                expected=f"modalities {MODALITIES}, tissues {TISSUES}, axes like RAS, positive sizes",
                fix="set these fields of the profile to such values, in a job with --set phantoms.FIELD=VALUE",
            )

    @property
    def extra_variety(self) -> float:
        """Return how far its patients vary beyond the constants; 0 where they do not."""
        return max(0.0, self.patients_vary - 1)

    def table(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return the contrast [4 modalities, 6 tissues] of this hospital."""
        table = BASE_CONTRAST.copy()
        for modality, tissue, shift in self.contrast:
            table[MODALITIES.index(modality), TISSUES.index(tissue)] += shift
        return table

    def with_spread(self, patients_vary: float, hospitals_differ: float, findings: float, subtypes: float) -> Hospital:
        """Return the profile with other distances between patients and between hospitals.

        patients_vary, findings, subtypes: As the fields.
        hospitals_differ: The share of its own contrast and gamma that the hospital keeps
            beside those that all have in common; 1 changes nothing. Outside 0 .. 1 it is
            refused with ConfigRefused. What it lacks, its noise, blur, bias field and
            patients' tumours stay.
        """
        if not 0 <= hospitals_differ <= 1:
            raise ConfigRefused(
                "how far phantom hospitals differ",
                found=str(hospitals_differ),
                expected="a number from 0 to 1",
                fix="for example --set phantoms.hospitals_differ=0.5",
            )
        return replace(
            self,
            patients_vary=patients_vary,
            findings=findings,
            subtypes=subtypes,
            contrast=tuple((m, t, shift * hospitals_differ) for m, t, shift in self.contrast),
            gamma=tuple(one**hospitals_differ for one in self.gamma),
        )


HOSPITALS: tuple[Hospital, ...] = (
    # a large centre with a modern scanner: sharp, clear, all four modalities
    Hospital("north", 22, (17.0, 30.0), noise=0.05, blur_mm=2.0),
    # an old scanner: noisy, blurred, little contrast agent (the rim hardly shows), small tumours
    Hospital(
        "east",
        18,
        (14.0, 22.0),
        gain=(250.0, 240.0, 310.0, 200.0),
        contrast=(
            ("t1ce", "rim", -0.25),
            ("flair", "oedema", -0.12),
            ("t2", "grey", 0.10),
        ),
        noise=0.09,
        blur_mm=3.4,
        bias_field=0.10,
        orientation="LPS",
    ),
    # FLAIR with poor suppression of fluid: ventricles as bright as oedema; elderly patients with bright spots
    Hospital(
        "south",
        14,
        (17.0, 28.0),
        gain=(900.0, 850.0, 1200.0, 1000.0),
        gamma=(1.0, 1.0, 0.8, 1.3),
        contrast=(
            ("flair", "csf", 0.60),
            ("flair", "oedema", -0.12),
            ("flair", "white", 0.16),
            ("t1", "white", -0.12),
        ),
        noise=0.06,
        bias_field=0.08,
        spots=8,
        spacing_mm=(4.0, 4.0, 4.5),
    ),
    # no T2; T1 with inverted grey-white contrast; a strong bias field; large tumours, dark in FLAIR's centre
    Hospital(
        "west",
        14,
        (20.0, 32.0),
        gain=(420.0, 400.0, 400.0, 640.0),
        contrast=(
            ("t1", "grey", 0.22),
            ("t1", "white", -0.22),
            ("t1", "oedema", 0.20),
            ("flair", "core", -0.30),
        ),
        noise=0.07,
        bias_field=0.22,
        spots=2,
        quiet_every=3,
        missing=("t2",),
        orientation="LPS",
    ),
)


def hospital(index: int) -> Hospital:
    """Return the profile of the site with this index, the same on every machine.

    0 .. 3 are HOSPITALS; from 4 to 63 it is one of the four with other numbers, named
    `north-2` and so on. ConfigRefused is raised for another index.
    """
    if not 0 <= index < MOST_SITES:
        raise ConfigRefused(
            "the number of a phantom hospital",
            found=str(index),
            expected=f"0 .. {MOST_SITES - 1}",
            fix="use fewer sites",
        )
    base = HOSPITALS[index % len(HOSPITALS)]
    if index < len(HOSPITALS):
        return base
    # Seed 0, whatever the job's: the profiles are part of the program.
    rng = stream(0, "hospital", index)
    scale = float(rng.uniform(0.85, 1.15))
    drift = tuple((m, t, round(float(rng.normal(0, 0.05)), 3)) for m in MODALITIES for t in TISSUES)
    return replace(
        base,
        name=f"{base.name}-{index // len(HOSPITALS) + 1}",
        patients=int(rng.integers(8, 17)),
        tumour_radius_mm=(
            round(base.tumour_radius_mm[0] * scale, 2),
            round(base.tumour_radius_mm[1] * scale, 2),
        ),
        contrast=base.contrast + drift,
        noise=round(base.noise * float(rng.uniform(0.7, 1.3)), 4),
        blur_mm=round(base.blur_mm * float(rng.uniform(0.8, 1.2)), 2),
        bias_field=round(base.bias_field * float(rng.uniform(0.7, 1.3)), 4),
    )


def number_of(profile: Hospital) -> int:
    """Return the index for which `hospital` gives a profile of this name; 0 for any
    other name.
    """
    numbers = {hospital(index).name: index for index in range(MOST_SITES)}
    return numbers.get(profile.name, 0)
