"""A mask's values in the unified convention.

The unified convention has 0 background, 1 necrotic (or non-enhancing) core, 2 oedema, 3
enhancing; masks of kind whole_tumour have 0 and 1. conventions.py says how stored
values become these. A BraTS mask that holds only 0 and 1 looks like a whole-tumour
mask, so the kind is decided over all cases of a site.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import DataRefused
from wardround.data.conventions import DEFAULT, OF_TASK, Convention, how_to_say

Labels = NDArray[np.uint8]
_THREE_AND_FOUR = (
    "3 and 4: BRATS 2012 to 2015? There 3 is non-enhancing core (brats2015). After treatment, or BraTS-MET: 4 is the resection "
    "cavity (brats_post, brats_met). BraTS-PED: 1 enhancing, 3 cyst, 4 oedema (brats_ped)"
)


def unify(
    case: str,
    file: str,
    raw: NDArray[Any],
    convention: Convention = DEFAULT,
) -> tuple[Labels, frozenset[int]]:
    """Return a mask (any shape, integer or float) in the unified convention, and the
    values that are stored.

    A mask without tumour is legal. Values that are not finite, not whole or not in the
    convention, and 3 beside 4 where each of them means enhancing, are refused with
    DataRefused.
    """
    if raw.dtype.kind == "f" and not (np.isfinite(raw).all() and np.array_equal(raw, np.rint(raw))):
        raise _bad_mask(
            case,
            file,
            "values that are not whole numbers",
            convention,
            "is it an image, or a mask resampled with interpolation?",
        )
    table = np.zeros(256, np.uint8)
    table[list(convention.meaning)] = list(convention.meaning.values())
    inside = raw.min() >= 0 and raw.max() < len(table)
    values = np.flatnonzero(np.bincount(raw.astype(np.uint8).ravel())) if inside else np.unique(raw)
    stored = frozenset(int(value) for value in values)
    if stored - {0, *convention.meaning}:
        advice = _advice(stored) if convention.name != "map" else "name every value in that map, background too"
        if convention.name == OF_TASK:
            advice = 'write masks with these values, or list the cases that have them under "cases" in the site\'s file'
        raise _bad_mask(case, file, f"label values {_few(stored)}", convention, advice)
    if {3, 4} <= stored and convention.meaning[3] == convention.meaning[4]:
        found = f"label values {_few(stored)}: both 3 and 4"
        raise _bad_mask(
            case,
            file,
            found,
            convention,
            f"{_THREE_AND_FOUR}. {how_to_say()}",
        )
    return table[raw.astype(np.uint8)], stored


def label_values(labels: Labels) -> frozenset[int]:
    """Return the distinct values of unified labels."""
    return frozenset(int(value) for value in np.flatnonzero(np.bincount(labels.ravel())))


def check_label_kind(case: str, file: str, values: Collection[int], kind: str) -> None:
    """Raise DataRefused if unified label values do not fit the kind: brats allows 0..3,
    whole_tumour 0 and 1.
    """
    if kind == "whole_tumour" and any(value > 1 for value in values):
        raise DataRefused(
            f"case {case!r}, file {file}",
            found=f"label values {_few(values)} (1 core, 2 oedema, 3 enhancing)",
            expected="0 and 1, as the site's data is of kind whole_tumour",
            fix='write "labels": "brats" (or leave it out) in the site\'s file if its masks have sub-regions',
        )


def _advice(stored: Collection[int]) -> str:
    if set(stored) <= {0, 255} or (len(stored) == 2 and 0 in stored):
        return "a whole-tumour mask has the values 0 and 1: write its tumour value as 1"
    return f"{_THREE_AND_FOUR}. {how_to_say()}" if 4 in stored else how_to_say()


def _few(values: Collection[int]) -> str:
    """Return up to 8 values as text. Of more values only the count is given: they are
    no labels, but perhaps intensities.
    """
    if len(values) > 8:
        return f"of {len(values)} different kinds"
    return "{" + ", ".join(str(value) for value in sorted(values)) + "}"


def _bad_mask(
    case: str,
    file: str,
    found: str,
    convention: Convention,
    fix: str,
) -> DataRefused:
    reader = "the map of labels" if convention.name == "map" else convention.name
    reader = "the job's task" if convention.name == OF_TASK else reader
    expected = f"whole numbers, as {reader} reads them: 0 background, {convention.words()}"
    if convention.kind == "whole_tumour":
        expected = "0 and 1, as the site's data is of kind whole_tumour"
    return DataRefused(
        f"case {case!r}, file {file}",
        found=found,
        expected=expected,
        fix=fix,
    )
