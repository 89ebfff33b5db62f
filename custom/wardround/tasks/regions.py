"""Floor 2: tumour regions from labels and back. Channel order of targets and logits: REGIONS.

| label            | ET | TC | WT |
|------------------|----|----|----|
| 0 background     |    |    |    |
| 1 necrotic core  |    | x  | x  |
| 2 oedema         |    |    | x  |
| 3 enhancing      | x  | x  | x  |

A `whole_tumour` site has labels 0 and 1 only, and 1 means WT: its ET and TC are unknown, not empty.
Source: Menze et al. 2015, doi:10.1109/TMI.2014.2377694 (BraTS); enhancing tumour is 3 as in BraTS 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.errors import ConfigRefused, DataRefused

REGIONS = ("ET", "TC", "WT")
KINDS = ("brats", "whole_tumour")
HIGHEST = {"brats": 3, "whole_tumour": 1}


def known_regions(kind: str) -> NDArray[np.bool_]:
    """Return bool [3] in REGIONS order: what labels of this kind can tell. Another kind: ConfigRefused."""
    _check_kind(kind)
    return np.array([kind == "brats", kind == "brats", True])


def regions_from_labels(labels: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """Return uint8 [3, ...] of 0 and 1 for labels [...]; unknown regions are all 0 (see `known_regions`).

    a label above 3 (brats) or above 1 (whole_tumour): DataRefused | another kind: ConfigRefused
    """
    _check_kind(kind)
    highest = int(labels.max(initial=0))
    if highest > HIGHEST[kind]:
        raise DataRefused(
            "a label value",
            found=f"{highest}",
            expected=f"0 to {HIGHEST[kind]} for labels of kind {kind!r}",
            fix="map BraTS label 4 to 3, or correct the kind of labels in this site's file",
        )
    regions = np.zeros((3, *labels.shape), np.uint8)
    regions[2] = labels > 0
    if kind == "brats":
        regions[0] = labels == 3
        regions[1] = (labels == 1) | regions[0]
    return regions


def nested(regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [3, ...] with ET inside TC inside WT: inner regions are cut back to outer ones, WT never changes."""
    wt = regions[2]
    tc = regions[1] & wt
    return np.stack([regions[0] & tc, tc, wt])


def labels_from_regions(regions: NDArray[np.bool_], kind: str = "brats") -> NDArray[np.uint8]:
    """Return uint8 labels [...] of bool regions [3, ...], made nested first. whole_tumour: 1 inside WT, 0 elsewhere."""
    _check_kind(kind)
    et, tc, wt = nested(regions.astype(bool))
    labels = np.zeros(regions.shape[1:], np.uint8)
    if kind == "whole_tumour":
        labels[wt] = 1
        return labels
    labels[wt] = 2
    labels[tc] = 1
    labels[et] = 3
    return labels


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigRefused(
            "the kind of labels", found=repr(kind), expected=" or ".join(KINDS), fix="correct the site's file"
        )
