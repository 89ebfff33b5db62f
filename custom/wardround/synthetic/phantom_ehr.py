"""What is the record of a phantom patient?

It holds age, sex and two laboratory values that depend on the tumour's type. The type
is one of synthetic/phantom_types.py, or, beside masks, one of `kind_of`: whether the
tumour enhances, and how large it is.

Given the type all four are independent with known distributions, so the best possible
accuracy from the record alone, or from the record and some of the sequences, can be
computed. A function of the type alone would make the images superfluous; no connection
would make the record superfluous. The numbers hold no medical truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.core.rng import stream
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column

CLASSES = ("ring", "halo", "ring_halo")
RING = (True, False, True)
HALO = (False, True, True)
SEEN_IN = {"t1": (), "t1ce": ("ring",), "t2": ("halo",), "flair": ("halo",)}
COLUMNS = Table(
    (
        Column("age", "numeric", "years", 18, 90),
        Column("sex", "categorical", categories=("f", "m")),
        Column("crp", "numeric", "mg/l", 0, 100),
        Column("ldh", "numeric", "U/l", 100, 500),
    )
)
MISSING_LAB = 0.15
LARGE_MM3 = 50_000.0

# (mean over all types, shift of each type at strength 1, standard deviation)
_NORMAL = {
    "age": (54.0, (9.0, -9.0, 0.0), 11.0),
    "crp": (45.0, (-12.0, 0.0, 12.0), 14.0),
    "ldh": (280.0, (0.0, -45.0, 45.0), 60.0),
}
_MALE = (0.5, (0.0, -0.15, 0.15))


def kind_of(volumes_mm3: Mapping[str, float]) -> int:
    """Return the type that a tumour with these volumes (ET, WT) has in the record.

    0 has no enhancing part; 1 and 2 enhance, 1 is smaller than LARGE_MM3 and 2 is
    larger. So the record tells in part whether ET is empty, and how large the tumour is
    (CRP rises from 0 to 2 by 24 mg/l, LDH from 1 to 2 by 90 U/l). It does not tell
    where. T1ce shows the same, where a site has it and training does not hide it.
    """
    if not volumes_mm3["ET"]:
        return 0
    return 1 if volumes_mm3["WT"] < LARGE_MM3 else 2


def draw_record(kind: int, rng: np.random.Generator, strength: float = 1.0) -> dict[str, str]:
    """Return the cells of a patient of type `kind`.

    Each laboratory value is missing with probability 0.15.
    strength: The factor on all differences between types, from 0 (no connection) to 2.
    """
    record = {"sex": "m" if rng.uniform() < _MALE[0] + strength * _MALE[1][kind] else "f"}
    for name, (middle, shifts, deviation) in _NORMAL.items():
        value = rng.normal(middle + strength * shifts[kind], deviation)
        lost = rng.uniform() < MISSING_LAB and name != "age"
        record[name] = "" if lost else f"{max(value, 0):.1f}"
    return record


def posterior(
    record: Sequence[dict[str, str]],
    seen: Sequence[str] = (),
    truth: Sequence[int] = (),
    strength: float = 1.0,
    priors: Sequence[float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float64]:
    """Return the probability of each type, [N, 3].

    It is given the record and what the modalities `seen` show. What a modality shows
    (ring, halo) is taken from the patient's true type, as a perfect reader would see
    it.
    """
    log = np.tile(np.log(np.asarray(priors, np.float64)), (len(record), 1))
    for i, cells in enumerate(record):
        for k in range(len(CLASSES)):
            male = _MALE[0] + strength * _MALE[1][k]
            log[i, k] += np.log(male if cells["sex"] == "m" else 1 - male)
            for name, (middle, shifts, deviation) in _NORMAL.items():
                if cells[name]:
                    log[i, k] -= 0.5 * ((float(cells[name]) - middle - strength * shifts[k]) / deviation) ** 2
    shown = {sign for modality in seen for sign in SEEN_IN[modality]}
    for sign, table in (("ring", RING), ("halo", HALO)):
        if sign in shown:
            log[np.array(table)[None, :] != np.array(table)[np.asarray(truth, int)][:, None]] = -np.inf
    odds = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float64)


def bayes_limit(
    seen: Sequence[str] = (),
    strength: float = 1.0,
    priors: Sequence[float] = (1.0, 1.0, 1.0),
    draws: int = 4000,
) -> float:
    """Return the accuracy that nobody can beat from the record and `seen`.

    It is simulated, with a standard error of at most 0.5 / sqrt(draws), as the mean of
    the largest posterior probability (that a few CRP values below 0 are written as 0 is
    ignored). With strength 1 and equal priors it is .73 for the record alone, .89 with
    t1ce or with flair, and 1 if both signs are seen. Images of real scanners are
    noisier than `seen` assumes, so a network stays below.
    """
    rng = stream(0, "phantom record limit")
    share = np.asarray(priors, np.float64) / np.sum(priors)
    truth = [int(k) for k in rng.choice(len(CLASSES), draws, p=share)]
    record = [draw_record(k, rng, strength) for k in truth]
    return float(posterior(record, seen, truth, strength, priors).max(axis=1).mean())
