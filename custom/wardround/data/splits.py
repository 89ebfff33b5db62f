"""Floor 2: training, validation and test patients of a site.

If no patient may ever change its part when others come or go, the part is a function of the patient alone: adding
patients one by one to a set of one shows it. So a hash decides, part sizes are binomial, and only an empty part is
mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wardround.errors import ConfigRefused, DataRefused
from wardround.rng import derive

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Case ids of each part, sorted; no patient is in two parts."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def split_patients(
    cases: Mapping[str, str], fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int = 0
) -> Split:
    """Return the split of cases (case id -> patient id): every patient has a place in [0, 1) from its id and the seed.

    [0, train) is the training part, then val, then test; all cases of a patient are in the same part. The expected
    share of a part is its fraction; with n patients it varies by sqrt(f (1 - f) / n).
    A part without patients gets the one nearest to its interval, out of a part that has more than one. This is the
    only case in which an added patient can change another's part: when it fills that part itself, or is nearer, the
    borrowed one goes back.
    fewer than 3 patients: DataRefused | fractions not all above 0 with sum 1: ConfigRefused
    """
    if len(fractions) != len(PARTS) or not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigRefused(
            "the split's fractions",
            found=str(fractions),
            expected="three numbers above 0 with sum 1",
            fix="for example 0.6 0.2 0.2",
        )
    patients = sorted(set(cases.values()))
    if len(patients) < len(PARTS):
        raise DataRefused(
            "the split into training, validation and test",
            found=f"{len(patients)} patients ({len(cases)} cases)",
            expected="at least 3 patients",
            fix="add patients, or check patient_pattern in the site's file if it joins different patients",
        )
    edges = (0.0, fractions[0], fractions[0] + fractions[1], 1.0)
    place = {patient: derive(seed, "split", patient) / 2**63 for patient in patients}
    part = {patient: sum(place[patient] >= edge for edge in edges[1:3]) for patient in patients}
    for empty in range(len(PARTS)):
        members = list(part.values())
        if empty not in members:
            lenders = [patient for patient in patients if members.count(part[patient]) > 1]
            part[min(lenders, key=lambda p: max(edges[empty] - place[p], place[p] - edges[empty + 1]))] = empty
    of = {name: tuple(sorted(case for case in cases if part[cases[case]] == k)) for k, name in enumerate(PARTS)}
    return Split(of["train"], of["val"], of["test"])
