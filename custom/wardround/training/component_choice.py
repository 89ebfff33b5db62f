"""For which regions does a hospital keep the largest connected part alone?

For those whose Dice on its validation patients gets better by it, model by model. The
choice looks at no test patient, and it stays at the hospital: it is written beside the
weights of the model that is deployed, so that it predicts as it was evaluated.

Source: Isensee et al. 2021 (nnU-Net's postprocessing, chosen by cross-validation).
Deviations: 1. The choice is made on one validation split. 2. If all chosen regions
together do not raise the mean Dice, none is filtered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wardround.tasks.components import with_largest_parts
from wardround.tasks.metrics import case_scores
from wardround.training.case_scoring import predictions
from wardround.training.mixture import Model, Postprocessed, ValidationScore, bare, score_of_cases

if TYPE_CHECKING:
    from wardround.training.segmentation import SegmentationSite

Bools = NDArray[np.bool_]


def postprocessed(
    site: SegmentationSite, models: Mapping[str, Model], cases: Sequence[str]
) -> dict[str, tuple[Model, ValidationScore]]:
    """Return the models that are better with a filter, with it, and how good they are.

    cases: Cases of the validation patients. Every network runs once on each.

    A model that no filter makes better is not returned.
    """
    # Eight voxels a byte: a hospital's validation patients fit into memory.
    seen: dict[str, list[tuple[NDArray[np.uint8], tuple[int, ...]]]] = {name: [] for name in models}
    for case in cases:
        for name, regions in predictions(site, {key: bare(model) for key, model in models.items()}, case):
            seen[name].append((np.packbits(regions), regions.shape))
    found: dict[str, tuple[Model, ValidationScore]] = {}
    for name, model in models.items():
        masks = [np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape) > 0 for bits, shape in seen[name]]
        plain = _scores(site, masks, cases, ())
        chosen = tuple(
            region
            for region in site.task.outputs.names
            if (key := f"dice_{region}") in plain[0]
            and _mean(_scores(site, masks, cases, (region,)), key) > _mean(plain, key)
        )
        better = _scores(site, masks, cases, chosen)
        if chosen and _mean(better, "dice_mean") > _mean(plain, "dice_mean"):
            patients = [site.cohort.patients[case] for case in cases]
            score = score_of_cases([row["dice_mean"] for row in better], patients)
            found[name] = (Postprocessed(bare(model), chosen), score)
    return found


def _scores(
    site: SegmentationSite, masks: Sequence[Bools], cases: Sequence[str], chosen: Sequence[str]
) -> list[dict[str, float]]:
    """Return the Dice of every case, with the largest part alone of the chosen regions."""
    outputs, kind = site.task.outputs, site.cohort.label_kind
    rows = []
    for mask, case in zip(masks, cases, strict=True):
        truth = outputs.targets(site.labels(case), kind).astype(bool)
        given = (with_largest_parts(mask, outputs, chosen), truth, outputs.known(kind))
        rows.append(case_scores(*given, site.volume(case).spacing_mm, outputs.names, with_hd95=False))
    return rows


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
