"""How many synthetic patients of a hospital train, validate and test?

A patient's part is a function of its id (data/splits.py). So a hospital has as many in
each part as it should if the right patients exist there and others do not; the split
itself is the same for phantoms as for real patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from wardround.core.errors import ConfigRefused
from wardround.data.splits import PARTS, part_of
from wardround.synthetic.hospitals import Hospital


def case_name(profile: Hospital, index: int) -> str:
    """Return the case id of a patient, which is the patient's id too."""
    return f"phantom-{profile.name}-p{index:03d}"


def patients_of_parts(profile: Hospital, wanted: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers of the first patients that fill every part of the split.

    A patient's part is a function of its id (data/splits.py), so which patients a
    hospital has decides how many of them train. Other patients do not exist there.

    wanted: The number of patients for each of PARTS. Below 1 is refused with
        ConfigRefused, because an empty part would borrow.
    """
    if set(wanted) != set(PARTS) or min(wanted.values()) < 1:
        raise ConfigRefused(
            "the parts of a cohort of phantoms",
            found=", ".join(f"{part} {count}" for part, count in wanted.items()),
            expected=f"1 patient or more for each of {', '.join(PARTS)}",
            fix="for example --set phantoms.train=[12] --set phantoms.val=[4] --set phantoms.test=[12]",
        )
    left, chosen = dict(wanted), []
    for index in count():
        part = part_of(case_name(profile, index))
        if left[part]:
            left[part] -= 1
            chosen.append(index)
        if not any(left.values()):
            break
    return tuple(chosen)
