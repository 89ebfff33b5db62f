"""What is said about folders that are no case, and the layouts one step away from the known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main
from wardround.core.errors import DataRefused
from wardround.data.cache import open_cohort
from wardround.data.cases import find_cases
from wardround.data.layouts import passed_over, unused_files
from wardround.data.site_config import SiteConfig

IMAGE = np.random.default_rng(0).uniform(1, 9, (8, 9, 10)).astype(np.float32)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[2, 4, 4], MASK[3, 4, 4], MASK[4, 4, 4] = 1, 2, 3
CHANNELS = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
BRATS = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


def case(root: Path, name: str) -> None:
    save(root / name / f"{name}_t1.nii", IMAGE)
    save(root / name / f"{name}_seg.nii", MASK)


def file(root: Path, name: str, content: bytes = b"x") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("P9/P9_t1.mha", b"x", ".mha: convert it to NIfTI"),
        ("P9/P9.nrrd", b"x", "convert it to NIfTI"),
        ("P9/IM0001", bytes(128) + b"DICM", "dcm2niix"),
        ("P9/1.2.840.113619.2", bytes(128) + b"DICM", "dcm2niix"),
        ("P9/a.dcm", b"x", "dcm2niix"),
        ("P9/P9_t1.hdr", b"x", "convert it to NIfTI"),
        ("P9/P9_t1.nii.bz2", b"x", "unpack it"),
        ("P9/readme.txt", b"x", "it holds 1 .txt"),
    ],
)
def test_a_folder_without_nifti_says_what_is_in_it(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    file(tmp_path, name, content)
    with pytest.raises(DataRefused) as alone:
        find_cases(tmp_path)
    for other in ("P1", "P2"):
        case(tmp_path, other)
    with pytest.raises(DataRefused) as beside:
        find_cases(tmp_path)
    for refusal in (alone, beside):
        assert words in refusal.value.found
        assert "P9" in refusal.value.what
        assert "remove" not in str(refusal.value)
        assert "copy" not in str(refusal.value)


def test_folders_without_images_that_are_no_cases_are_passed_over_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("P1", "P2", "P3"):
        case(tmp_path, name)
    for name in ("docs/README.txt", "code/a/b.py", "labels.csv", "P1/@eaDir/P1_t1.nii@SynoEAStream"):
        file(tmp_path, name)
    for name in ("@eaDir/x", ".DS_Store", "__MACOSX/P1/._P1_t1.nii", "#recycle/P8_t1.nii", "lost+found/x", "Thumbs.db"):
        file(tmp_path, name)
    (tmp_path / "extra").mkdir()
    assert main(["data", "check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    unused = sorted(
        line.split("not used")[1].split("/ (")[0].strip() for line in text.splitlines() if "not used" in line
    )
    assert unused == ["code/a", "docs", "extra"]
    (tmp_path / "P4").mkdir()
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "an empty folder" in capsys.readouterr().out


def test_folders_whose_files_have_the_shorter_name(tmp_path: Path) -> None:
    for folder, name in (
        ("UCSF-PDGM-0004_nifti", "UCSF-PDGM-0004"),
        ("sub-01/anat", "sub-01"),
        ("sub-02/ses-1/anat", "sub-02_ses-1"),
    ):
        for word, data in (("T1w", IMAGE), ("FLAIR", IMAGE), ("seg", MASK)):
            save(tmp_path / folder / f"{name}_{word}.nii", data)
        save(tmp_path / folder / f"{name}_brain_segmentation.nii", MASK)
        save(tmp_path / folder / f"{name}_T1_unstripped.nii", IMAGE)
    found = find_cases(tmp_path)
    assert [(one.case, one.patient, sorted(one.images)) for one in found] == [
        ("UCSF-PDGM-0004", "UCSF-PDGM-0004", ["flair", "t1"]),
        ("sub-01", "sub-01", ["flair", "t1"]),
        ("sub-02_ses-1", "sub-02", ["flair", "t1"]),
    ]
    assert [one.case for one in find_cases(tmp_path, ["sub-01"])] == ["sub-01"]


def test_all_patients_in_one_folder_are_named_as_such(tmp_path: Path) -> None:
    for name in ("P1", "P2", "P3"):
        save(tmp_path / "all" / f"{name}_t1.nii", IMAGE)
        save(tmp_path / "all" / f"{name}_seg.nii", MASK)
    with pytest.raises(DataRefused, match="files of 3 cases in one folder"):
        find_cases(tmp_path)


def test_derived_images_of_a_case_are_not_another_case(tmp_path: Path) -> None:
    for name in ("UPENN-GBM-00001_11", "P1"):
        case(tmp_path, name)
        for word, data in (("automated_approx_segm", MASK), ("brain_T1", IMAGE), ("T1_unstripped", IMAGE)):
            save(tmp_path / name / f"{name}_{word}.nii", data)
        (found,) = find_cases(tmp_path / name)
        assert found.seg is not None
        assert (list(found.images), found.seg.name) == (["t1"], f"{name}_seg.nii")
        assert len(unused_files(tmp_path / name)) == 3


def nnunet(root: Path, case_names: tuple[str, ...], described: dict[str, Any] | None, channels: int = 4) -> None:
    for name in case_names:
        for channel in range(channels):
            save(root / "imagesTr" / f"{name}_{channel:04d}.nii", IMAGE + channel)
        save(root / "labelsTr" / f"{name}.nii", MASK)
    if described is not None:
        (root / "dataset.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    "described",
    [
        {"channel_names": CHANNELS, "labels": BRATS, "file_ending": ".nii"},
        {"modality": CHANNELS, "labels": {str(value): word for word, value in BRATS.items()}},
        {"channel_names": CHANNELS, "labels": {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}},
    ],
)
def test_nnunet_raw_is_read(tmp_path: Path, described: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names = ("BraTS2021_00001", "BraTS2021_00002", "BRATS_0003")
    nnunet(tmp_path / "data", names, described)
    files = find_cases(tmp_path / "data")
    assert tuple(one.case for one in files) == tuple(sorted(names))
    assert {role: path.name for role, path in files[0].images.items()} == {
        "t1": "BRATS_0003_0000.nii",
        "t1ce": "BRATS_0003_0001.nii",
        "t2": "BRATS_0003_0002.nii",
        "flair": "BRATS_0003_0003.nii",
    }
    cohort = open_cohort(SiteConfig(tmp_path / "data"), tmp_path / "cache")
    labels = cohort.load(names[0]).labels
    assert labels is not None
    assert [int(labels[i, 4, 4]) for i in (2, 3, 4)] == [2, 1, 3]
    file(tmp_path / "data", "imagesTs/x_0000.nii")
    file(tmp_path / "data", "imagesTr/y.mha")
    assert main(["data", "check", str(tmp_path / "data")]) == 0
    assert "ready to train" in capsys.readouterr().out
    assert passed_over(tmp_path / "data") == ("imagesTr/y.mha", "imagesTs/ (1 images)")


def test_a_task_of_another_format_says_so(tmp_path: Path) -> None:
    file(tmp_path, "imagesTr/a_0000.mha")
    file(tmp_path, "labelsTr/a.mha")
    with pytest.raises(DataRefused, match="convert it to NIfTI"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (None, "no dataset.json"),
        ({"channel_names": CHANNELS}, 'no "labels"'),
        ({"channel_names": {"0": "MRI"}, "labels": BRATS}, "unknown sequence 'MRI'"),
        ({"channel_names": {"0": "T1", "1": "ADC"}, "labels": BRATS}, "unknown sequence 'ADC'"),
        ({"channel_names": {"0": "T1", "1": "T2"}, "labels": BRATS}, "channel 0002"),
        ({"channel_names": {"0": "T1", "1": "T1w"}, "labels": BRATS}, "repeated sequences"),
        ({"channel_names": CHANNELS, "labels": {"organ": 1}}, "not understood"),
    ],
)
def test_nnunet_that_is_not_described_is_refused(tmp_path: Path, described: dict[str, Any] | None, words: str) -> None:
    nnunet(tmp_path, ("a",), described)
    with pytest.raises(DataRefused) as refusal:
        find_cases(tmp_path)
    assert words in refusal.value.found


def test_a_decathlon_set_whose_ids_end_in_four_digits_is_no_nnunet_set(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "P_0001.nii", np.stack([IMAGE] * 4, -1))
    save(tmp_path / "labelsTr" / "P_0001.nii", MASK)
    (found,) = find_cases(tmp_path)
    assert found.decathlon
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    with pytest.raises(DataRefused, match="unknown sequence 'MRI'"):
        find_cases(tmp_path)


def test_the_masks_of_a_task_and_no_advice_to_throw_data_away(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr" / "a.nii", np.stack([IMAGE] * 4, -1))
    save(tmp_path / "imagesTr" / "a.nii.gz", np.stack([IMAGE] * 4, -1))
    save(tmp_path / "labelsTr" / "a.nii", MASK)
    save(tmp_path / "labelsTr" / "b.nii", MASK)
    with pytest.raises(DataRefused) as refusal:
        find_cases(tmp_path)
    assert "two files" in str(refusal.value)
    assert "without an image" in str(refusal.value)
    assert not any(word in str(refusal.value) for word in ("remove", "delete", "copy"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image.set_sform(np.eye(4), 1), "1 x 1 x 1 mm by the sform, 0.86 x 0.86 x 0.8 mm by pixdim"),
        (lambda image: image.header["pixdim"].__setitem__(3, 5.0), "0.86 x 0.86 x 0.8 mm by the sform"),
        (lambda image: image.set_qform(np.diag([-0.86, 0.86, 0.8, 1]), 1), "turn or mirror"),
        (lambda image: image.set_qform(np.diag([-0.86, -0.86, 0.8, 1]), 2), "turn or mirror"),
        (lambda image: image.header.__setitem__("xyzt_units", 3), "micrometre"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    affine = np.diag([0.86, 0.86, 0.8, 1.0])
    for name, wrong in (("good", False), ("bad", True)):
        image = nibabel.Nifti1Image(IMAGE, affine)
        if wrong:
            change(image)
        (tmp_path / name / "P").mkdir(parents=True)
        nibabel.save(image, tmp_path / name / "P" / "P_t1.nii")
        mask = nibabel.Nifti1Image(MASK, affine)
        nibabel.save(mask, tmp_path / name / "P" / "P_seg.nii")
    open_cohort(SiteConfig(tmp_path / "good"), tmp_path / "cache")
    with pytest.raises(DataRefused) as refusal:
        open_cohort(SiteConfig(tmp_path / "bad"), tmp_path / "cache")
    assert words in refusal.value.found


def test_a_link_to_nothing_is_a_case_that_got_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("P1", "P2", "P3"):
        case(tmp_path, name)
    (tmp_path / "P4").symlink_to(tmp_path / "unmounted")
    assert main(["data", "check", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "P4" in text
    assert "is its disk mounted?" in text
    assert {one.case for one in find_cases(tmp_path, ["P1", "P2"])} == {"P1", "P2"}
    (tmp_path / "P4").rename(tmp_path / "backup")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "backup/ (a link to nothing" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["P\n4", "P\x1b[31m4", "P4\x7f"])
def test_control_characters_in_names_are_refused_with_escapes(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in ("P1", "P2", "P3", name):
        case(tmp_path, one)
    assert main(["data", "check", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "rename it" in text
    assert name not in text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("P1/P1_t1", "P1/P1_seg", "P2/P2_t1", "P2/P2_seg", "atlas_t1"),
            ("atlas_t1.nii beside the folders", "move it"),
        ),
        (("segm/P1_seg", "segm/P2_seg", "img/P1/P1_t1"), ("masks of 2 cases and no image", "copy every mask")),
        (("images/P1", "images/P2", "labels/P1", "labels/P2"), ("names say no sequence", "imagesTr")),
        (("imagestr/P1", "imagestr/P2"), ("names say no sequence", "imagesTr")),
    ],
)
def test_what_is_no_case_is_called_what_it_is(
    tmp_path: Path, names: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        save(tmp_path / f"{name}.nii", MASK if "seg" in name or "label" in name else IMAGE)
    assert main(["data", "check", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert all(word in text for word in words)
    assert "whole_tumour" not in text


def test_what_is_wrong_in_an_nnunet_set_is_called_by_its_name(tmp_path: Path) -> None:
    words = {"0": "T1-weighted", "1": "post-contrast T1-weighted", "2": "T2-weighted", "3": "T2-weighted FLAIR"}
    for name in ("a", "b", "c"):
        for channel in range(4):
            save(tmp_path / f"imagesTr/{name}_{channel:04d}.nii", IMAGE)
        save(tmp_path / f"labelsTr/{name}.nii", MASK)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": words, "labels": BRATS}))
    assert len(find_cases(tmp_path)) == 3
    save(tmp_path / "imagesTr/a_0001_old.nii", IMAGE)
    with pytest.raises(DataRefused, match=r"a_0001_old\.nii beside files of one channel"):
        find_cases(tmp_path)
    (tmp_path / "imagesTr/a_0001_old.nii").unlink()
    (tmp_path / "labelsTr/b.nii").unlink()
    with pytest.raises(DataRefused, match=r"add labelsTr/b\.nii\.gz"):
        find_cases(tmp_path)
    save(tmp_path / "labelsTr/b.nii", MASK)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": words, "labels": {"edema": 1, "enhancing": 3}}))
    with pytest.raises(DataRefused, match="name every value in that map"):
        open_cohort(SiteConfig(data=tmp_path), tmp_path / "cache")
