"""Overlays show only the regions that the site's masks know."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from wardround.data.cache import open_cohort
from wardround.data.site_config import SiteConfig
from wardround.data.splits import split_patients
from wardround.hospital import overlays
from wardround.hospital.segmentation import SegmentationSite
from wardround.models.nets import UNet3d


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
