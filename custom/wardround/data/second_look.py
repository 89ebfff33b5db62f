"""What should a person look at before training, though every file can be read? Copies,
and masks that may mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.data.conventions import CORE, DEFAULT, Convention
from wardround.data.label_names import MEANS

# More scans than this in one folder look like a group of patients, not like one person.
SCANS_OF_ONE = 4
_WRITES_FOUR = re.compile(r"brats(20)?(1[7-9]|2[01])_.*", re.IGNORECASE)


@dataclass(frozen=True)
class Read:
    """What is known of a case whose files were read.

    values: the values of its unified labels.
    stored: the values in the mask's file.
    digests: a digest of each modality's normalised image.
    folder: the folder that holds the folder of the case.
    """

    case: str
    patient: str
    convention: Convention
    values: frozenset[int]
    stored: frozenset[int]
    digests: Mapping[str, str]
    folder: Path


def about_masks(cases: Sequence[Read]) -> tuple[str, ...]:
    """Return warnings about masks of sub-regions. Whole-tumour masks alone, or no
    tumour at all, give none.
    """
    seen = frozenset().union(*(one.values for one in cases))
    absent = [MEANS[value] for value in (1, 2, 3) if value not in seen] if seen - {0} else []
    guessed = [one for one in cases if not one.convention.proven]
    ones = [one.case for one in guessed if one.values == {0, CORE} and one.stored <= {0, 1}]
    three = [
        one.case
        for one in guessed
        if one.convention is DEFAULT and _WRITES_FOUR.fullmatch(one.case) and 3 in one.stored
    ]
    lines = []
    if absent:
        lines.append(
            f"no case has {' or '.join(absent)}: is this how the site's masks are written? Else state `labels`"
        )
    if ones:
        lines.append(
            f"{len(ones)} of {len(cases)} masks hold 1 alone, which is read as core (first {ones[0]}). If it is the whole "
            'tumour there, the site has two kinds of masks: list the cases of one kind under "cases"'
        )
    if three:
        lines.append(
            f"{len(three)} masks hold 3, where BraTS 2017 to 2021 writes 4 (first {three[0]}): were they converted? A copy for "
            'nnU-Net exchanges 1 and 2 as well: then "labels": "decathlon"; if only 4 became 3: "brats2023"'
        )
    return tuple(lines)


def about_copies(cases: Sequence[Read]) -> tuple[str, ...]:
    """Return warnings about one image that exists twice: of two patients, or as two
    sequences of one case.
    """
    first: dict[str, Read] = {}
    persons: list[tuple[str, str]] = []
    sequences: list[str] = []
    for one in cases:
        if len(set(one.digests.values())) < len(one.digests):
            sequences.append(one.case)
        others = [first[digest] for digest in one.digests.values() if digest in first]
        persons += [(one.case, other.case) for other in others[:1] if other.patient != one.patient]
        first.update(
            {digest: one for digest in one.digests.values() if digest not in first},
        )
    lines = []
    if persons:
        lines.append(
            f"{len(persons)} cases have the very image of another patient, first {persons[0][0]} that of {persons[0][1]}: "
            "one person twice is in training and test"
        )
    if sequences:
        lines.append(f"{len(sequences)} cases have one image as two sequences, first {sequences[0]}: is one a copy?")
    return tuple(lines)


def about_folders(cases: Sequence[Read]) -> tuple[str, ...]:
    """Return a warning where cases lie by twos to fours in folders, as PERSON/SCAN, and
    count as patients of their own.

    One folder for all cases, or larger folders (HGG, LGG), give none.
    """
    inside: dict[Path, dict[str, str]] = {}
    for one in cases:
        inside.setdefault(one.folder, {}).setdefault(one.patient, one.case)
    several = {folder: list(who.values()) for folder, who in sorted(inside.items()) if len(who) > 1}
    if len(inside) < 2 or not several or max(map(len, several.values())) > SCANS_OF_ONE:
        return ()
    folder, names = next(iter(several.items()))
    told = all(name.startswith(folder.name) for name in names)
    rename = "" if told else f"call the folders of the scans {folder.name}_{min(names)}, ... and "
    return (
        f"{len(several)} folders hold up to {SCANS_OF_ONE} cases that count as patients of their own ({folder.name}: "
        f"{', '.join(sorted(names))}): is each one person? Then {rename}set "
        "patient_pattern in the site's file, or one person is in training and test",
    )
