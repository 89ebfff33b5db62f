"""How do tumours of one hospital look different from one another?

Gliomas bleed, calcify, turn to cysts, or are suppressed in FLAIR although T2 is bright.
Each subtype is rare, so a hospital with few patients has not seen most of them. Phantoms
whose tumours all look alike say after four patients all that there is to learn.

The shifts are invented in the manner of textbooks. They are no model of any disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.data.layouts import MODALITIES
from wardround.synthetic.anatomy import TISSUES


@dataclass(frozen=True)
class Subtype:
    """One kind of tumour.

    shifts: (modality, tissue, shift) is added to the hospital's contrast.
    """

    name: str
    shifts: tuple[tuple[str, str, float], ...]


SUBTYPES: tuple[Subtype, ...] = (
    Subtype(
        "bleeding",
        (("t1", "core", 0.55), ("t1ce", "core", 0.50), ("t2", "core", -0.45), ("flair", "core", -0.15)),
    ),
    Subtype(
        "cystic",
        (("t1", "core", -0.08), ("t1ce", "core", -0.08), ("t2", "core", 0.15), ("flair", "core", -0.35)),
    ),
    Subtype(
        "calcified",
        (("t2", "core", -0.45), ("flair", "core", -0.35), ("t1", "core", 0.15), ("t1ce", "rim", -0.30)),
    ),
    Subtype(
        "suppressed in FLAIR",
        (("flair", "oedema", -0.28), ("flair", "core", -0.20), ("t2", "oedema", 0.15), ("t2", "core", 0.12)),
    ),
    Subtype(
        "faint",
        (("t2", "oedema", -0.25), ("flair", "oedema", -0.20), ("t1", "oedema", 0.18), ("t1ce", "oedema", 0.15)),
    ),
)


def subtype_shifts(chance: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what is added to the contrast of one patient's hospital, [4, 6].

    chance: That the tumour is one of SUBTYPES, each as likely as the others; else 0 is
        returned.
    """
    shifts = np.zeros((len(MODALITIES), len(TISSUES)), np.float32)
    is_rare, which = rng.uniform() < chance, int(rng.integers(len(SUBTYPES)))
    if is_rare:
        for modality, tissue, shift in SUBTYPES[which].shifts:
            shifts[MODALITIES.index(modality), TISSUES.index(tissue)] = shift
    return shifts
