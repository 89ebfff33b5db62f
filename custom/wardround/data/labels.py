"""Floor 2: what the values of a mask mean.

Unified convention: 0 background, 1 necrotic (or non-enhancing) core, 2 oedema, 3 enhancing; of kind whole_tumour: 0
and 1.

    BraTS                        1 core, 2 oedema, 4 enhancing     4 becomes 3
    BraTS 2023                   1 core, 2 oedema, 3 enhancing     kept
    Decathlon Task01             1 oedema, 2 core, 3 enhancing     1 and 2 change places
    binary whole-tumour mask     1 tumour                          kept

Values alone cannot tell a Decathlon mask from a BraTS 2023 mask: the layout of the files decides (4-D images:
Decathlon).
A BraTS mask that holds only 0 and 1 looks like a whole-tumour mask, so the kind is decided over all cases of a site.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import DataRefused

Labels = NDArray[np.uint8]
LABEL_KINDS = ("brats", "whole_tumour")
_BRATS_TABLE = np.array([0, 1, 2, 3, 3], np.uint8)
_DECATHLON_TABLE = np.array([0, 2, 1, 3], np.uint8)
_EXPECTED = "whole numbers: {0,1,2,4}, {0,1,2,3} or, for a whole-tumour mask, {0,1}"


def unify(case: str, file: str, raw: NDArray[Any], decathlon: bool) -> Labels:
    """Return the values of a mask (any shape, integer or float) in the unified convention.

    no tumour: legal | not finite, not whole, outside 0..4 (Decathlon 0..3), or both 3 and 4: DataRefused
    """
    table = _DECATHLON_TABLE if decathlon else _BRATS_TABLE
    if raw.dtype.kind == "f" and not (np.isfinite(raw).all() and np.array_equal(raw, np.rint(raw))):
        raise _bad_mask(
            case, file, "values that are not whole numbers", "is it an image, or a mask resampled with interpolation?"
        )
    if int(raw.min()) < 0 or int(raw.max()) >= len(table):
        raise _bad_mask(case, file, f"label values {_few(np.unique(raw))}", "correct the label values")
    small = raw.astype(np.uint8)
    if (small == 3).any() and (small == 4).any():
        raise _bad_mask(
            case, file, f"label values {_few(np.unique(small))}: both 3 and 4", "one value for enhancing tumour"
        )
    return table[small]


def label_values(labels: Labels) -> frozenset[int]:
    """Return the distinct values of unified labels."""
    return frozenset(int(value) for value in np.flatnonzero(np.bincount(labels.ravel())))


def detect_label_kind(value_sets: Iterable[Collection[int]]) -> str:
    """Return brats if any case holds a value above 1, else whole_tumour (also when every mask is empty)."""
    return "brats" if any(value > 1 for values in value_sets for value in values) else "whole_tumour"


def check_label_kind(case: str, file: str, values: Collection[int], kind: str) -> None:
    """Raise DataRefused if unified label values do not fit the kind; brats allows 0..3, whole_tumour 0 and 1."""
    if kind == "whole_tumour" and any(value > 1 for value in values):
        raise DataRefused(
            f"case {case!r}, file {file}",
            found=f"label values {_few(np.array(sorted(values)))} (1 core, 2 oedema, 3 enhancing)",
            expected="0 and 1, as the site's data is of kind whole_tumour",
            fix='write "labels": "brats" (or leave it out) in the site\'s file if its masks have sub-regions',
        )


def _few(values: NDArray[Any]) -> str:
    """Return up to 8 values as text; of more only the count, as these are no labels but perhaps intensities."""
    return (
        "{" + ", ".join(str(int(v)) for v in values) + "}" if len(values) <= 8 else f"of {len(values)} different kinds"
    )


def _bad_mask(case: str, file: str, found: str, fix: str) -> DataRefused:
    return DataRefused(f"case {case!r}, file {file}", found=found, expected=_EXPECTED, fix=fix)
