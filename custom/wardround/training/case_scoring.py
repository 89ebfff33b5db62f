"""How are the regions that models predict at one hospital scored, per case and patient?

Every case is opened once, however many models are scored on it, and no network runs
twice on it (training/mixture.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wardround.tasks.inference import mixed_logits
from wardround.tasks.metrics import case_scores, case_volumes
from wardround.training.mixture import Model, filter_of, outputs

if TYPE_CHECKING:
    from wardround.training.segmentation import SegmentationSite

CaseRows = list[dict[str, float]]


def predictions(
    site: SegmentationSite, models: Mapping[str, Model], case: str
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield (name, predicted regions, bool [R, H, W, D]) of every model."""
    for name, logits in outputs(models, partial(site.logits, case=case), mixed_logits):
        regions = site.task.outputs
        found = regions.nested(logits > 0)
        yield name, filter_of(models[name]).applied(found, regions, site.volume(case).spacing_mm)


def scores_of(
    site: SegmentationSite, models: Mapping[str, Model], cases: Sequence[str], *, with_hd95: bool
) -> dict[str, CaseRows]:
    """Return for each model one dictionary of scores per case (tasks.metrics)."""
    regions, kind = site.task.outputs, site.cohort.label_kind
    known, far = regions.known(kind), site.task.missed_mm
    rows: dict[str, CaseRows] = {name: [] for name in models}
    for case in cases:
        truth = regions.targets(site.labels(case), kind).astype(bool)
        for name, predicted in predictions(site, models, case):
            given = (predicted, truth, known, site.volume(case).spacing_mm, regions.names)
            row = case_scores(*given, with_hd95=with_hd95, missed_mm=far)
            rows[name].append(row | (case_volumes(*given) if with_hd95 else {}))
    return rows


def by_patient(site: SegmentationSite, cases: Sequence[str], rows: Sequence[Mapping[str, float]]) -> CaseRows:
    """Return the mean row of each patient, the unit of every count and interval."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for case, row in zip(cases, rows, strict=True):
        groups.setdefault(site.cohort.patients[case], []).append(row)
    return [{key: float(np.mean([row[key] for row in group])) for key in group[0]} for group in groups.values()]
