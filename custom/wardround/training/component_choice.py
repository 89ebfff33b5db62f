"""What does a hospital drop from the regions that a model finds?

Two filters (tasks/components.py), chosen for each model on this hospital's validation
patients, and no test patient is looked at:

1. of a region only the largest connected part, where that raises its Dice;
2. a region below a limit, half the smallest that an expert drew at this hospital's
   training and validation patients, unless that lowers its Dice; or a limit between the
   volumes that the model finds, where that is better still.

The choice stays at the hospital: it is written beside the weights of the model that is
deployed, so that it predicts as it was evaluated. A patient without a region counts 1
where the model finds none and 0 where it finds one voxel, so few voxels decide much.

Sources: Isensee et al. 2021 (nnU-Net's postprocessing, chosen by cross-validation);
Isensee et al. 2018, arXiv:1809.10483 (the limit for enhancing tumour).
Deviations: 1. The choice is made on one validation split. 2. If all filters together
lower the mean Dice, or the first kind alone does not raise it, they are not used. 3. The
limit of 2. is used where validation shows no loss, because a handful of validation
patients seldom has one without the region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wardround.tasks.components import RegionFilter
from wardround.tasks.metrics import case_scores
from wardround.training.case_scoring import predictions
from wardround.training.mixture import Model, Postprocessed, ValidationScore, bare, score_of_cases

if TYPE_CHECKING:
    from wardround.training.segmentation import SegmentationSite

Bools = NDArray[np.bool_]


def postprocessed(
    site: SegmentationSite,
    models: Mapping[str, Model],
    cases: Sequence[str],
    *,
    largest: bool,
    least_volume: bool,
) -> dict[str, tuple[Model, ValidationScore]]:
    """Return the models that are filtered, with their filter, and how good they are.

    cases: Cases of the validation patients. Every network runs once on each.
    largest, least_volume: Which of the two filters may be used.

    A model that no filter serves is not returned.
    """
    # Eight voxels a byte: a hospital's validation patients fit into memory.
    seen: dict[str, list[tuple[NDArray[np.uint8], tuple[int, ...]]]] = {name: [] for name in models}
    for case in cases:
        for name, regions in predictions(site, {key: bare(model) for key, model in models.items()}, case):
            seen[name].append((np.packbits(regions), regions.shape))
    drawn = _half_the_smallest_drawn(site) if least_volume else {}
    patients = [site.cohort.patients[case] for case in cases]
    found: dict[str, tuple[Model, ValidationScore]] = {}
    for name, model in models.items():
        masks = [np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape) > 0 for bits, shape in seen[name]]
        first = _largest(site, masks, cases) if largest else RegionFilter()
        chosen = _with_limits(site, masks, cases, first, drawn) if least_volume else first
        if chosen:
            rows = _scores(site, masks, cases, chosen)
            score = score_of_cases([row["dice_mean"] for row in rows], patients)
            found[name] = (Postprocessed(bare(model), chosen), score)
    return found


def _largest(site: SegmentationSite, masks: Sequence[Bools], cases: Sequence[str]) -> RegionFilter:
    """Return the filter of largest parts that raises the mean Dice, or none."""
    plain = _scores(site, masks, cases, RegionFilter())
    better = tuple(
        region
        for region in site.task.outputs.names
        if (key := f"dice_{region}") in plain[0]
        and _mean(_scores(site, masks, cases, RegionFilter((region,))), key) > _mean(plain, key)
    )
    chosen = RegionFilter(better)
    raised = better and _mean(_scores(site, masks, cases, chosen), "dice_mean") > _mean(plain, "dice_mean")
    return chosen if raised else RegionFilter()


def _with_limits(
    site: SegmentationSite,
    masks: Sequence[Bools],
    cases: Sequence[str],
    first: RegionFilter,
    drawn: Mapping[str, float],
) -> RegionFilter:
    """Return `first` with the limits that serve validation, or `first` alone.

    drawn: By region, half the smallest volume that an expert drew, in mm^3.
    """
    outputs, kind = site.task.outputs, site.cohort.label_kind
    rows = _scores(site, masks, cases, first)
    voxels = [float(np.prod(site.volume(case).spacing_mm)) for case in cases]
    kept = [first.applied(mask, outputs, site.volume(case).spacing_mm) for mask, case in zip(masks, cases, strict=True)]
    truths = [outputs.targets(site.labels(case), kind).astype(bool) for case in cases]
    limits = {}
    for place, region in enumerate(outputs.names):
        if f"dice_{region}" not in rows[0]:
            continue
        volumes = np.array([mask[place].sum() * voxel for mask, voxel in zip(kept, voxels, strict=True)])
        empty = np.array([not truth[place].any() for truth in truths])
        dice = np.array([row[f"dice_{region}"] for row in rows])
        if limit := best_limit(volumes, empty, dice, drawn.get(region)):
            limits[region] = limit
    chosen = RegionFilter(first.largest, limits)
    lower = _mean(_scores(site, masks, cases, chosen), "dice_mean") < _mean(rows, "dice_mean")
    return first if lower else chosen


def best_limit(
    volumes: NDArray[np.float64], empty: NDArray[np.bool_], dice: NDArray[np.float64], usual: float | None
) -> float | None:
    """Return the volume below which a region is best dropped, or None.

    volumes: Of the region in each case, as the model finds it.
    empty: In which cases there is none of it.
    dice: Of the region in each case as it is found.
    usual: The limit that is used where it does no harm; None where nothing suggests one.

    The other limits that are tried are the geometric means of neighbouring volumes; one
    of them is returned only where it is better than none and than the usual one, of
    equally good ones the smallest.
    """

    def value(limit: float) -> float:
        return float(np.where(volumes < limit, empty.astype(float), dice).mean())

    # Dropping what is already empty changes nothing: value(0) is the mean Dice.
    best, found = value(0.0), None
    if usual is not None and value(usual) >= best:
        best, found = value(usual), usual
    steps = np.unique(volumes[volumes > 0])
    for limit in np.sqrt(steps[:-1] * steps[1:]).tolist():
        if value(limit) > best:
            best, found = value(limit), limit
    return found


def _half_the_smallest_drawn(site: SegmentationSite) -> dict[str, float]:
    """Return half the smallest volume of each region, in mm^3, that an expert drew at
    the training and validation patients; a region that nobody has is left out.
    """
    outputs, kind = site.task.outputs, site.cohort.label_kind
    known = outputs.known(kind)
    smallest: dict[str, float] = {}
    for case in (*site.split.train, *site.split.val):
        voxel = float(np.prod(site.volume(case).spacing_mm))
        truth = outputs.targets(site.labels(case), kind)
        for place, region in enumerate(outputs.names):
            if known[place] and (count := int(np.count_nonzero(truth[place]))):
                smallest[region] = min(smallest.get(region, np.inf), count * voxel)
    return {region: volume / 2 for region, volume in smallest.items()}


def _scores(
    site: SegmentationSite, masks: Sequence[Bools], cases: Sequence[str], chosen: RegionFilter
) -> list[dict[str, float]]:
    """Return the Dice of every case with what is left of the regions."""
    outputs, kind = site.task.outputs, site.cohort.label_kind
    rows = []
    for mask, case in zip(masks, cases, strict=True):
        truth, spacing = outputs.targets(site.labels(case), kind).astype(bool), site.volume(case).spacing_mm
        given = (chosen.applied(mask, outputs, spacing), truth, outputs.known(kind))
        rows.append(case_scores(*given, spacing, outputs.names, with_hd95=False))
    return rows


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
