"""What do predictions look like beside the expert's masks?

The pictures of test patients stay at the hospital.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wardround.reports.overlay import draw_overlay
from wardround.tasks.metrics import case_scores

if TYPE_CHECKING:
    from wardround.training.mixture import Model
    from wardround.training.segmentation import SegmentationSite

OVERLAYS = 2
SEQUENCES = {"flair": "FLAIR", "t1ce": "T1 with contrast", "t2": "T2", "t1": "T1"}
# In this order: FLAIR shows the whole tumour, contrast-enhanced T1 its core.
_SHOWN_ON = ("flair", "t1ce", "t2", "t1")


def overlays(
    site: SegmentationSite,
    model: Model,
    words: str,
    folder: Path,
    patients: Sequence[str] = (),
) -> list[Path]:
    """Draw one test case of each of the first patients and return the files.

    words: The model's name, as the title says it.
    """
    cases = [next(case for case in site.split.test if site.cohort.patients[case] == one) for one in patients]
    return [_overlay(site, model, words, case, folder) for case in (cases or site.split.test)[:OVERLAYS]]


def shown_on(present: Sequence[str]) -> str:
    """Return the image to draw on: the best for tumours, else the first."""
    return next((name for name in _SHOWN_ON if name in present), present[0])


def _overlay(site: SegmentationSite, model: Model, words: str, case: str, folder: Path) -> Path:
    volume = site.volume(case)
    names, regions = site.task.inputs.names, site.task.outputs
    shown = shown_on([name for name, has in zip(names, volume.present, strict=True) if has])
    truth = regions.targets(site.labels(case), site.cohort.label_kind).astype(bool)
    known = regions.known(site.cohort.label_kind)[:, None, None, None]
    # A region that no mask of this site tells was never trained here and is not shown.
    prediction = site.predict(model, case) & known
    image = np.asarray(volume.image[names.index(shown)], np.float32)
    path = folder / f"{site.name}-{site.split.test.index(case)}.png"
    score = case_scores(
        prediction,
        truth,
        known.ravel(),
        volume.spacing_mm,
        regions.names,
        with_hd95=False,
    )["dice_mean"]
    title = f"{case} at {site.name}, {SEQUENCES.get(shown, shown)}: {words} model, Dice {score:.2f}"
    return draw_overlay(image, truth, prediction, title, path, regions.names, volume.spacing_mm)
