"""Overlays show only the regions that the site's masks know."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.models.nets import UNet3d
from wardround.reports.verdict import floors
from wardround.training import overlays
from wardround.training.evaluation import Evaluation
from wardround.training.pages import write_page
from wardround.training.segmentation import SegmentationSite


@pytest.mark.parametrize(("binary", "shown"), [(True, {"WT"}), (False, {"ET", "TC", "WT"})])
def test_overlays_leave_out_regions_that_were_never_trained(cohorts, site, tmp_path, monkeypatch, binary, shown):
    folder = shutil.copytree(cohorts[0], tmp_path / "cases")
    for path in folder.glob("*/*_seg.nii.gz") if binary else ():
        mask = nib.load(path)
        whole = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(whole, mask.affine), path)
    cohort = open_cohort(SiteConfig(data=folder), tmp_path / "cache")
    like = site()
    split = split_patients(cohort.patients)
    one = SegmentationSite("site-1", cohort, split, UNet3d(channels=(4, 8)), like.sampling, 0, "cpu")
    monkeypatch.setattr(one, "predict", lambda w, case: np.ones((3, *one.volume(case).image.shape[1:]), bool))
    drawn = []
    monkeypatch.setattr(
        overlays, "draw_overlay", lambda image, truth, prediction, *rest: drawn.append(prediction) or rest[1]
    )
    overlays._overlay(one, one.model.vector, "local", split.test[0], tmp_path)
    regions = ("ET", "TC", "WT")
    assert {name for name, region in zip(regions, drawn[0], strict=True) if region.any()} == shown


def test_the_worst_patients_come_first_with_volumes_and_pictures(site, tmp_path):
    one = site()
    patients = list(dict.fromkeys(one.cohort.patients[case] for case in one.split.test))
    weights = one.model.vector.clone()
    good = one.rows(weights, one.split.test)
    rows = [row | {"dice_mean": 0.9 - 0.1 * place} for place, row in enumerate(good)]
    candidate = {"k": 0, "val": 0.9, "test": one.summary(rows), "gain": None}
    numbers = {"candidates": {"local": candidate}, "deploy": "local", "usable": True}
    made = Evaluation(numbers, {"local": rows}, {"local": weights}, floors())
    facts = {"label": "north", "phantoms": True}
    page = write_page(made, one, "a job", facts, tmp_path / "out").read_text()
    assert len(patients) >= 2
    worst_first = [page.index(f'<th scope="row">{patient}</th>') for patient in reversed(patients)]
    assert worst_first == sorted(worst_first)
    assert "ml: predicted / expert" in page
    assert str(tmp_path / "out" / "deploy_model.npz") in page
    assert f"{patients[-1]} at site-1, FLAIR: local model, Dice" in page
    assert "site-1-0" not in page
