"""What can be read and may yet be wrong is told: copies, whole-tumour masks beside sub-regions, converted masks."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main


def case(root: Path, name: str, values: tuple[int, ...], seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[0, 0, : len(values)] = values
    files = {"t1": draw.uniform(1, 9, labels.shape).astype("f4"), "t2": draw.uniform(1, 9, labels.shape).astype("f4")}
    (root / name).mkdir(parents=True)
    for word, data in {**files, "seg": labels}.items():
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), root / name / f"{name}_{word}.nii")


def checked(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["data", "check", str(root), *more]) == 0
    return capsys.readouterr().out


def test_copies_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one"
    for seed, name in enumerate(("P1", "P2", "P3", "Q7_2019", "Q7_2020")):
        case(one, name, (1, 2, 4), min(seed, 3))
    assert "very image" not in checked(one, capsys)  # of one patient: a follow-up may be a copy
    clean = tmp_path / "clean"
    for seed, name in enumerate(("P1", "P2", "P3")):
        case(clean, name, (1, 2, 4), seed)
    assert "beware" not in checked(clean, capsys)
    (clean / "P3" / "P3_t1.nii").write_bytes((clean / "P1" / "P1_t1.nii").read_bytes())
    assert "1 cases have the very image of another patient, first P3 that of P1" in checked(clean, capsys)
    (clean / "P3" / "P3_t1.nii").write_bytes((clean / "P3" / "P3_t2.nii").read_bytes())
    assert "1 cases have one image as two sequences, first P3" in checked(clean, capsys)


def test_masks_that_may_mean_something_else_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("P1", "P2", "P3")):
        case(tmp_path / "two", name, (1,) if name == "P3" else (1, 2, 4), seed)
        case(tmp_path / "own", name, (1, 2, 3), seed)
        case(tmp_path / "2021", f"BraTS2021_0000{seed}", (1, 2, 3), seed)
    text = checked(tmp_path / "two", capsys)
    assert "1 of 3 masks hold 1 alone, which is read as core (first P3)" in text
    assert "presumed" in text
    text = checked(tmp_path / "2021", capsys)
    assert "3 masks hold 3, where BraTS 2017 to 2021 writes 4" in text
    text = checked(tmp_path / "2021", capsys, "--labels", "decathlon")
    assert "beware" not in text
    assert "presumed" not in text
    assert "beware" not in checked(tmp_path / "own", capsys)


def test_scans_in_the_folder_of_a_person_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(6):
        case(tmp_path / "x" / f"P{seed // 2}", f"scan{'AB'[seed % 2]}{seed}", (1, 2, 4), seed)
        case(tmp_path / "y" / f"P{seed // 2}", f"P{seed // 2}_2020010{seed + 1}", (1, 2, 4), seed)
        case(tmp_path / "z" / ("HGG" if seed else "LGG"), f"Q{seed}", (1, 2, 4), seed)
    text = checked(tmp_path / "x", capsys)
    assert "3 folders hold up to 4 cases that count as patients of their own (P0: scanA0, scanB1)" in text
    for sound in ("y", "z"):
        assert "folders hold" not in checked(tmp_path / sound, capsys)


def test_two_people_whose_folders_of_scans_have_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("P0", "P1"):
        case(tmp_path / name, "MR1", (1, 2, 4), 0)
        for file in (tmp_path / name / "MR1").iterdir():
            file.rename(file.with_name(file.name.removeprefix("MR1_")))
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "call the folders P0_MR1 and P1_MR1" in capsys.readouterr().out
