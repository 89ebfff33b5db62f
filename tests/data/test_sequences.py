"""The words of sequences and masks: usual ones are read, two for one are refused, and what is not used is named."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main
from wardround.core.errors import DataRefused
from wardround.data.cases import find_cases
from wardround.data.layouts import unused_files
from wardround.data.listing import nifti_stem
from wardround.data.sequences import SEG, split_name

IMAGE = np.random.default_rng(0).uniform(1, 9, (8, 9, 10)).astype(np.float32)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[4, 4, 4] = 1


def named(file: str) -> tuple[str, str] | None:
    """Return (case, sequence) as an image's name says it; a mask or any other name: None."""
    said = split_name(nifti_stem(Path(file)) or "")
    return None if said is None or said[1] == SEG else said


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        is_mask = any(word in name.casefold() for word in ("seg", "mask"))
        data = MASK if is_mask else IMAGE
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), root / name)


@pytest.mark.parametrize(
    "words",
    [
        "T1 T1c T2 FLAIR seg",
        "t1n t1gd t2w t2f seg",
        "T1w T1GAD T2w flair SEG",
        "t1_pre t1-ce t2wi FL segm",
        "T1wi T1_post T2W t2_flair tumor_segmentation",
        "t1native ce-gadolinium_T1w t2 T2-FLAIR tumourMask",
        "t1 t1_contrast t2 flr segmentation",
    ],
)
@pytest.mark.parametrize("gap", ["_", "-", "."])
def test_usual_words_are_read(tmp_path: Path, words: str, gap: str) -> None:
    put(tmp_path, *(f"P/P{gap}{word}.nii" for word in words.split()))
    (found,) = find_cases(tmp_path)
    t1, t1ce, t2, flair, seg = (tmp_path / f"P/P{gap}{word}.nii" for word in words.split())
    assert dict(found.images) == {"t1": t1, "t1ce": t1ce, "t2": t2, "flair": flair}
    assert found.seg == seg
    assert unused_files(tmp_path / "P") == ()


def test_the_word_alone_and_another_spelling_of_accents(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a/T1.nii",
        "a/FLAIR.nii",
        "a/seg.nii",
        "M\u00fcller/Mu\u0308ller_t1.nii",
        "M\u00fcller/Mu\u0308ller_seg.nii",
    )
    assert [(one.case, sorted(one.images)) for one in find_cases(tmp_path)] == [
        ("M\u00fcller", ["t1"]),
        ("a", ["flair", "t1"]),
    ]


def test_a_word_of_the_case_itself_is_no_contrast_agent(tmp_path: Path) -> None:
    put(tmp_path, "P1_post/P1_post_T1.nii", "P1_post/P1_post_seg.nii", "P_gd/P_gd_T1.nii", "P_gd/P_gd_seg.nii")
    assert [list(one.images) for one in find_cases(tmp_path)] == [["t1"], ["t1"]]


@pytest.mark.parametrize(
    "names", [("T1c", "T1gd"), ("t1", "t1w"), ("flair", "t2f"), ("T2", "t2w"), ("seg", "segmentation")]
)
def test_two_files_for_one_sequence_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    put(
        tmp_path, *(f"P/P_{name}.nii" for name in ("T1", "seg", *names) if name.lower() not in ("t1",) or name in names)
    )
    with pytest.raises(DataRefused, match="two files for") as refusal:
        find_cases(tmp_path)
    assert "remove" not in refusal.value.fix
    assert all((tmp_path / f"P/P_{name}.nii").exists() for name in names)


def test_every_image_that_is_not_used_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in "PQR":
        put(tmp_path, *(f"{case}/{case}_{word}.nii" for word in ("T1", "T1c", "T2", "FLAIR", "seg")))
    put(tmp_path, "P/P_adc.nii.gz", "Q/raw/Q_dwi.nii", "atlas.nii.gz", "R/R_T1_bias.nii")
    (tmp_path / "R" / "R_perf.mha").write_bytes(b"x")
    (tmp_path / "R" / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "R" / "notes.txt").write_text("x")
    assert unused_files(tmp_path / "R") == ("IM0001", "R_T1_bias.nii", "R_perf.mha")
    assert main(["data", "check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "t1 3, t1ce 3, t2 3, flair 3" in text
    lines = [line.split("not used")[1].strip() for line in text.splitlines() if "not used" in line]
    unused = ["P/P_adc.nii.gz", "Q/raw/Q_dwi.nii", "R/IM0001", "R/R_T1_bias.nii", "R/R_perf.mha", "atlas.nii.gz"]
    assert sorted(lines) == sorted(unused)


def test_a_mask_under_another_word_is_named_in_the_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "P/P_t1.nii", "P/P_roi_mask_x.nii")
    assert main(["data", "check", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "seg is missing" in text
    assert "if P_roi_mask_x.nii is the mask, name it P_seg.nii.gz" in text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("P_T1c.nii.gz", ("P", "t1ce")),
        ("P-t2f.nii", ("P", "flair")),
        ("T1GD.nii.gz", ("", "t1ce")),
        ("P_seg.nii", None),
        ("P_adc.nii", None),
        ("P_t1.mha", None),
    ],
)
def test_names_outside_of_a_folder(name: str, found: tuple[str, str] | None) -> None:
    assert named(name) == found


def test_names_in_another_encoding_are_refused_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case in ("P1", "P2", "P3", "P4"):
        put(tmp_path, f"{case}/{case}_t1.nii", f"{case}/{case}_seg.nii")
    latin = os.fsdecode(b"M\xfcller")
    for name in ("_t1.nii", "_seg.nii"):
        (tmp_path / "P3" / f"P3{name}").rename(tmp_path / "P3" / f"{latin}{name}")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "M\\xfcller_seg.nii" in capsys.readouterr().out
    (tmp_path / "P3").rename(tmp_path / latin)
    assert main(["data", "check", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "not UTF-8" in text
    assert "rename it" in text
    assert len(list(tmp_path.iterdir())) == 4
    assert main(["data", "check", str(tmp_path / latin)]) == 2
    out, err = capsys.readouterr()
    assert "M\\xfcller" in out + err


def test_a_name_that_says_two_sequences_says_none(tmp_path: Path) -> None:
    """T1 FLAIR is a T1 with inversion, no FLAIR; a mask of `t2` may be any mask."""
    for name in ("P_T1_FLAIR.nii.gz", "P_t2_seg.nii", "sub-01_acq-T1c_T1w.nii", "P_post_T1.nii", "x-contrast_T1w.nii"):
        assert named(name) is None
    for name in ("P_post-contrast_T1.nii", "P_contrast-enhanced_T1-weighted.nii"):
        assert named(name) == ("P", "t1ce")
    assert named("P_pre-contrast_T1.nii") == ("P", "t1")
    assert named("P_t2_flair.nii.gz") == ("P", "flair")
    put(tmp_path, "x/P_T1_FLAIR.nii", "x/P_T2.nii", "x/P_T1.nii", "x/P_seg.nii")
    with pytest.raises(DataRefused, match="'P' in the folder"):
        find_cases(tmp_path)
    (tmp_path / "x").rename(tmp_path / "P")
    (found,) = find_cases(tmp_path)
    assert set(found.images) == {"t1", "t2"}
    assert unused_files(tmp_path / "P") == ("P_T1_FLAIR.nii",)


def test_masks_of_the_public_sets(tmp_path: Path) -> None:
    for case, word in (
        ("TCGA-02-0006_1996.08.23", "GlistrBoost_ManuallyCorrected"),
        ("UCSD-PTGBM-0002_01", "BraTS_tumor_seg"),
        ("P1", "Segmentation_Label"),
    ):
        put(tmp_path, f"{case}/{case}_T1.nii", f"{case}/{case}_seg_x.nii")
        (tmp_path / case / f"{case}_seg_x.nii").rename(tmp_path / case / f"{case}_{word}.nii")
    put(tmp_path, "TCGA-02-0006_1996.08.23/TCGA-02-0006_1996.08.23_GlistrBoost.nii")
    assert len(find_cases(tmp_path)) == 3
    assert unused_files(tmp_path / "TCGA-02-0006_1996.08.23") == ("TCGA-02-0006_1996.08.23_GlistrBoost.nii",)
