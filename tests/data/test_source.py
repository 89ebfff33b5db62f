"""Files of another task than the brain's: names, a window of intensities, masks as they are stored."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cache import open_cohort
from wardround.data.cases import find_cases
from wardround.data.site_config import SiteConfig
from wardround.data.source import Channels, Source, Window
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.organ_phantoms import write_organs

CT = Source(Channels(("ct",), {"ct": ("ct", "image")}), Window(-160, 240), "organs", (1, 2))


def test_a_window_is_zero_in_air_and_the_same_for_everybody() -> None:
    found = Window(-160, 240)(np.array([-1000, -160, 40, 240, 3000], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, 1.25, 2.5, 2.5])
    for low, high in ((1, 1), (True, 2), ("a", 2), (0, 1e9), (float("nan"), 1)):
        with pytest.raises(ConfigRefused, match="window"):
            Window(low, high)  # type: ignore[arg-type]


def test_phantoms_of_ct_are_read_as_the_task_says(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_organs(root, hospital(1), 0, (16, 16, 16), 4, ["ct"], [1, 2])
    assert write_organs(root, hospital(1), 0, (16, 16, 16), 4, ["ct"], [1, 2])[0].parent == root
    cohort = open_cohort(SiteConfig(data=root), tmp_path / "cache", source=CT)
    assert (cohort.label_kind, cohort.modalities) == ("organs", {"ct": 4})
    volume = cohort.load(cohort.cases[0])
    assert (volume.image.shape, volume.present.tolist()) == ((1, 16, 16, 16), [True])
    assert set(np.unique(volume.labels)) == {0, 1, 2}
    assert (volume.image[0, 0, 0] == 0).all(), "air"
    with pytest.raises(DataRefused):
        find_cases(root)  # to the brain tumour task these are no cases


def test_the_single_image_of_an_images_tr_folder_is_a_3d_file(tmp_path: Path) -> None:
    (first, *_) = write_organs(tmp_path / "p", hospital(0), 0, (16, 16, 16), 1, ["ct"], [1])
    for folder, role in (("imagesTr", "ct"), ("labelsTr", "seg")):
        (tmp_path / "task" / folder).mkdir(parents=True)
        (first / f"{first.name}_{role}.nii.gz").rename(tmp_path / "task" / folder / "spleen_1.nii.gz")
    (tmp_path / "task" / "dataset.json").write_text(
        '{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}'
    )
    (found,) = find_cases(tmp_path / "task", source=CT)
    assert (found.case, dict(found.channel)) == ("spleen_1", {"ct": None})
    cohort = open_cohort(SiteConfig(data=tmp_path / "task"), tmp_path / "cache", source=CT)
    assert cohort.entries["spleen_1"].values == {0, 1}


def test_values_that_the_task_has_not_and_a_convention_beside_it_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (folder, *_) = write_organs(root, hospital(0), 0, (16, 16, 16), 1, ["ct"], [1, 2])
    file = folder / f"{folder.name}_seg.nii.gz"
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * np.uint8(3), image.affine), file)
    with pytest.raises(DataRefused, match="the job's task reads them"):
        open_cohort(SiteConfig(data=root), tmp_path / "cache", source=CT)
    with pytest.raises(ConfigRefused, match="the job says what the values of a mask mean"):
        open_cohort(SiteConfig(data=root, labels="brats"), tmp_path / "cache", source=CT)


def test_the_cache_of_brain_mri_is_not_that_of_another_task(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_organs(root, hospital(0), 0, (16, 16, 16), 2, ["ct"], [1, 2])
    other = Source(CT.channels, Window(0, 100), "organs", (1, 2))
    first, second = (open_cohort(SiteConfig(data=root), tmp_path / "cache", source=one) for one in (CT, other))
    assert first.entries[first.cases[0]].folder != second.entries[first.cases[0]].folder
