"""What a hospital keeps for itself after a job: its models, its per-patient page, overlays. None of it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wardround.data.layouts import MODALITIES
from wardround.hospital.judging import Judgement
from wardround.hospital.segmentation import SegmentationSite, labels_of
from wardround.models import checkpoint
from wardround.reports.overlay import draw_overlay
from wardround.reports.site_page import write_site_report
from wardround.tasks.regions import known_regions, regions_from_labels

OVERLAYS = 2
_SHOWN_ON = ("flair", "t1ce", "t2", "t1")


def keep_models(
    judgement: Judgement, site: SegmentationSite, identity: str, model: Mapping[str, Any], out: Path
) -> Path:
    """Write the model to deploy as `deploy_model.npz`, with what `wardround predict` needs, and return its path."""
    name = judgement.numbers["deploy"]
    candidate = judgement.numbers["candidates"][name]
    meta = {
        "model": dict(model),
        "candidate": name,
        "k": candidate["k"],
        "val_dice": candidate["val"],
        "patch": list(site.sampling.size),
        "label_kind": site.cohort.label_kind,
    }
    path = out / "deploy_model.npz"
    arrays = site.layout.unflatten(judgement.weights[name].detach().cpu().numpy())
    checkpoint.save(path, arrays, identity, meta)
    return path


def write_page(judgement: Judgement, site: SegmentationSite, job: str, facts: Mapping[str, Any], out: Path) -> Path:
    """Write site_report.html with one row per test patient and model, and overlays of the first test patients."""
    deploy = judgement.numbers["deploy"]
    rows = [
        {"patient": patient, "model": name, **{key: round(value, 4) for key, value in row.items()}}
        for name, per_patient in judgement.rows.items()
        for patient, row in zip(_patients(site), per_patient, strict=True)
    ]
    pictures = [_overlay(site, judgement, deploy, case, out / "overlays") for case in site.split.test[:OVERLAYS]]
    about = {key: facts[key] for key in ("label", "cases", "modalities", "label_kind", "device")}
    run = {"job": job, "site": site.name, "phantoms": facts["phantoms"], "about": about, "final": judgement.numbers}
    return write_site_report(run, rows, pictures, out)


def _patients(site: SegmentationSite) -> list[str]:
    return list(dict.fromkeys(site.cohort.patients[case] for case in site.split.test))


def _overlay(site: SegmentationSite, judgement: Judgement, deploy: str, case: str, folder: Path) -> Path:
    volume = site.volume(case)
    shown = next(name for name in _SHOWN_ON if volume.present[MODALITIES.index(name)])
    truth = regions_from_labels(labels_of(volume), site.cohort.label_kind).astype(bool)
    known = known_regions(site.cohort.label_kind)[:, None, None, None]
    prediction = site.predict(judgement.weights[deploy], case) & known  # what was never trained is not shown
    image = np.asarray(volume.image[MODALITIES.index(shown)], np.float32)
    path = folder / f"{site.name}-{site.split.test.index(case)}.png"
    return draw_overlay(image, truth, prediction, f"{site.name}: {case}, {shown}, {deploy}", path, volume.spacing_mm)
