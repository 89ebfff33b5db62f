"""Pictures of test patients: expert beside prediction. They stay at the hospital."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wardround.reports.overlay import draw_overlay
from wardround.tasks.metrics import case_scores

if TYPE_CHECKING:
    from wardround.training.segmentation import SegmentationSite

OVERLAYS = 2
SEQUENCES = {"flair": "FLAIR", "t1ce": "T1 with contrast", "t2": "T2", "t1": "T1"}
_SHOWN_ON = ("flair", "t1ce", "t2", "t1")


def overlays(site: SegmentationSite, w: Tensor, words: str, folder: Path, patients: Sequence[str] = ()) -> list[Path]:
    """Draw a test case of each of the first patients and return the files. words: the model's name."""
    cases = [next(case for case in site.split.test if site.cohort.patients[case] == one) for one in patients]
    return [_overlay(site, w, words, case, folder) for case in (cases or site.split.test)[:OVERLAYS]]


def shown_on(present: Sequence[str]) -> str:
    """Return which of a case's images a picture is drawn on: the one that shows tumours best, else the first."""
    return next((name for name in _SHOWN_ON if name in present), present[0])


def _overlay(site: SegmentationSite, w: Tensor, words: str, case: str, folder: Path) -> Path:
    volume = site.volume(case)
    names, regions = site.task.inputs.names, site.task.outputs
    shown = shown_on([name for name, has in zip(names, volume.present, strict=True) if has])
    truth = regions.targets(site.labels(case), site.cohort.label_kind).astype(bool)
    known = regions.known(site.cohort.label_kind)[:, None, None, None]
    prediction = site.predict(w, case) & known  # what was never trained is not shown
    image = np.asarray(volume.image[names.index(shown)], np.float32)
    path = folder / f"{site.name}-{site.split.test.index(case)}.png"
    score = case_scores(prediction, truth, known.ravel(), volume.spacing_mm, regions.names, with_hd95=False)[
        "dice_mean"
    ]
    title = f"{case} at {site.name}, {SEQUENCES.get(shown, shown)}: {words} model, Dice {score:.2f}"
    return draw_overlay(image, truth, prediction, title, path, regions.names, volume.spacing_mm)
