from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.inspection import inspect
from wardround.data.site_config import SiteConfig, read_sites


def write(root: Path, case: str, mask: int, shape: tuple[int, int, int] = (8, 9, 10), step: float = 2.0) -> Path:
    folder = root / case
    folder.mkdir(parents=True)
    affine = np.diag([step, step, step, 1.0])
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    seg = np.zeros(shape, np.uint8)
    seg[4, 4, 4] = mask
    nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{case}_t1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(seg, affine), folder / f"{case}_seg.nii.gz")
    return folder


def quiet(done: int, total: int) -> None:
    """Tell nobody."""


def test_everything_is_counted_and_nothing_is_written(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for case in ("TCGA_DU_0001_19990101", "TCGA_DU_0001_20000101", "TCGA_DU_0002_19990101"):
        write(root, case, 1)
    write(root, "TCGA_HT_0003_19990101", 0, (12, 8, 8), 1.0)
    before, calls = sorted(tmp_path.rglob("*")), []
    found = inspect(SiteConfig(data=root), lambda done, total: calls.append((done, total)))
    assert (found.cases, found.patients, found.empty) == (4, 3, 1)
    assert found.modalities == {"t1": 4, "t1ce": 0, "t2": 0, "flair": 0}
    assert found.label_kind == "whole_tumour"
    assert found.shapes == {(8, 9, 10): 3, (12, 8, 8): 1}
    assert found.spacings == {(2.0, 2.0, 2.0): 3, (1.0, 1.0, 1.0): 1}
    assert found.split == {"train": 1, "val": 1, "test": 1}
    assert found.problems == ()
    assert calls == [(n, 4) for n in range(1, 5)]
    assert sorted(tmp_path.rglob("*")) == before


def test_one_label_above_1_makes_the_site_brats_and_the_site_may_say_otherwise(tmp_path: Path) -> None:
    for case, mask in (("a", 1), ("b", 2), ("c", 4)):
        write(tmp_path, case, mask)
    assert inspect(SiteConfig(data=tmp_path), quiet).label_kind == "brats"
    refused = inspect(SiteConfig(data=tmp_path, labels="whole_tumour"), quiet)
    assert [problem.what for problem in refused.problems] == [
        "case 'b', file b_seg.nii.gz",
        "case 'c', file c_seg.nii.gz",
    ]


def test_every_problem_is_listed_and_the_sound_cases_are_still_counted(tmp_path: Path) -> None:
    for number in range(14):
        folder = write(tmp_path, f"case-{number:02d}", 1)
        if number >= 2:
            (folder / f"case-{number:02d}_seg.nii.gz").unlink()
    image = tmp_path / "case-00" / "case-00_t1.nii.gz"
    image.write_bytes(image.read_bytes()[:60])
    found = inspect(SiteConfig(data=tmp_path), quiet)
    assert len(found.problems) == 13
    assert found.cases == 1
    assert found.split == {}


def test_two_patients_are_too_few(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write(tmp_path, case, 1)
    found = inspect(SiteConfig(data=tmp_path), quiet)
    assert ["at least 3 patients" in problem.expected for problem in found.problems] == [True]


def test_a_named_case_that_is_not_there_leaves_nothing_to_inspect(tmp_path: Path) -> None:
    write(tmp_path, "a", 1)
    with pytest.raises(DataRefused, match="no case b"):
        inspect(SiteConfig(data=tmp_path, cases=("a", "b")), quiet)


def test_a_sites_file_and_a_file_of_sites_are_both_read(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    file = tmp_path / "x.json"
    file.write_text('{"data": "d", "name": "Mercy"}')
    assert read_sites(file) == {"site": SiteConfig(data=tmp_path / "d", name="Mercy")}
    file.write_text('{"b": {"data": "d"}, "a": {"data": "d", "labels": "brats"}}')
    assert list(read_sites(file)) == ["b", "a"]
    assert read_sites(file)["a"].labels == "brats"


@pytest.mark.parametrize("content", ["{}", '{"a": {}}', '{"a": {"data": "absent"}}', '{"a": 1}', "[]"])
def test_files_that_name_no_data_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigRefused):
        read_sites(tmp_path / "x.json")
