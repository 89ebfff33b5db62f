"""Which folders are cases, in all three layouts, and whose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.cases import find_cases, patient_of

REAL = Path(__file__).parents[3] / "shared" / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def brats(root: Path, case: str, *roles: str) -> None:
    touch(root, *(f"{case}/{case}_{role}.nii.gz" for role in roles))


def test_brats_layout(tmp_path: Path) -> None:
    brats(tmp_path, "b", "t1", "t1ce", "t2", "flair", "seg")
    brats(tmp_path, "a", "flair", "seg")
    touch(tmp_path, "a/._a_t1.nii.gz", "a/a_adc.nii.gz", "a/notes.txt", "notes.csv", ".hidden/x_t1.nii", "__MACOSX/y")
    a, b = find_cases(tmp_path)
    assert (a.case, a.patient, b.case) == ("a", "a", "b")
    assert dict(a.images) == {"flair": tmp_path / "a/a_flair.nii.gz"}
    assert list(b.images) == ["t1", "t1ce", "t2", "flair"]
    assert set(b.channel.values()) == {None}
    assert b.seg == tmp_path / "b/b_seg.nii.gz"
    assert not b.decathlon


def test_brats_2023_layout_uncompressed_files_and_large_letters(tmp_path: Path) -> None:
    case = "BraTS-GLI-00005-100"
    touch(tmp_path, *(f"{case}/{case}-{role}.nii" for role in ("t1n", "t1c", "T2W", "t2f", "seg")))
    (found,) = find_cases(tmp_path)
    assert {m: p.name.removeprefix(case) for m, p in found.images.items()} == {
        "t1": "-t1n.nii",
        "t1ce": "-t1c.nii",
        "t2": "-T2W.nii",
        "flair": "-t2f.nii",
    }
    assert found.patient == "BraTS-GLI-00005"


def test_decathlon_layout(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/BRATS_001.nii.gz", "imagesTr/._BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")
    (found,) = find_cases(tmp_path)
    assert dict(found.channel) == {"t1": 1, "t1ce": 2, "t2": 3, "flair": 0}
    assert set(found.images.values()) == {tmp_path / "imagesTr/BRATS_001.nii.gz"}
    assert found.seg == tmp_path / "labelsTr/BRATS_001.nii.gz"
    assert found.decathlon


def test_decathlon_description_gives_the_order(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "T1w", "1": "FLAIR", "2": "T2w"}}))
    assert dict(find_cases(tmp_path)[0].channel) == {"t1": 0, "t2": 2, "flair": 1}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[]",
        '{"modality": {"0": "CT"}}',
        '{"modality": {"0": "T1w", "2": "FLAIR"}}',
        '{"modality": {"0": "T1w", "1": "T1"}}',
        '{"modality": ["T1w"]}',
        '{"modality": {"0": 1}}',
        '{"modality": {"0": "seg"}}',
    ],
)
def test_a_wrong_decathlon_description_is_refused(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataRefused, match=r"dataset\.json"):
        find_cases(tmp_path)


def test_a_single_case_folder_and_folders_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "HGG/a/a_t1.nii.gz", "HGG/a/a_seg.nii.gz")
    touch(tmp_path, "LGG/b/b_t1.nii.gz", "LGG/b/b_seg.nii.gz", "Task01/imagesTr/c.nii.gz", "Task01/labelsTr/c.nii.gz")
    assert [one.case for one in find_cases(tmp_path)] == ["a", "b", "c"]
    assert [one.case for one in find_cases(tmp_path / "HGG" / "a")] == ["a"]


def test_seg_may_be_absent_if_not_required(tmp_path: Path) -> None:
    brats(tmp_path, "a", "t1")
    touch(tmp_path, "t/imagesTr/c.nii.gz")
    assert [one.seg for one in find_cases(tmp_path, require_seg=False)] == [None, None]


def test_only_the_listed_cases_are_looked_at(tmp_path: Path) -> None:
    brats(tmp_path, "a", "t1", "seg")
    brats(tmp_path, "damaged", "t1")
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "t/imagesTr/c.nii.gz", "t/labelsTr/c.nii.gz", "t/imagesTr/d.nii.gz")
    assert [one.case for one in find_cases(tmp_path, ["c", "a"])] == ["a", "c"]
    with pytest.raises(DataRefused, match="no case z"):
        find_cases(tmp_path, ["a", "z"])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/a_seg.nii.gz"], ["'a'", "no modality", "a_seg.nii.gz"]),
        (["a/scan1.nii.gz"], ["'a'", "no modality", "scan1.nii.gz"]),
        (["a/a_t1.nii.gz"], ["'a'", "seg is missing"]),
        (["a/a_t1.nii.gz", "a/W39_mask.nii"], ["'a'", "seg is missing", "not used: W39_mask.nii"]),
        (["a/a_t1.nii.gz", "a/a_t1.nii", "a/a_seg.nii"], ["'a'", "two files for t1", "a_t1.nii.gz"]),
        (["a/a_t1.nii.gz", "a/a-t1n.nii.gz", "a/a_seg.nii"], ["'a'", "two files for t1", "a-t1n.nii.gz"]),
        (["a/a_t1.nii.gz", "a/a_seg.nii", "a/a-seg.nii"], ["'a'", "two files for seg"]),
        (["a/a_t1.nii.gz", "a/b_seg.nii.gz"], ["'a'", "b_seg.nii.gz", "a file of 'b'"]),
        (["x/a/a_t1.nii", "x/a/a_seg.nii", "y/a/a_t1.nii", "y/a/a_seg.nii"], ["'a'", "the same case in"]),
        (["imagesTr/a.nii.gz"], ["'a'", "seg is missing"]),
        (["imagesTr/a.nii", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz"], ["'a'", "two files", "a.nii.gz"]),
        (["imagesTr/a.nii", "labelsTr/a.nii", "labelsTr/b.nii"], ["'b'", "b.nii", "without an image"]),
        (["imagesTr/notes.txt"], ["no case"]),
        (["a/notes.txt"], ["no NIfTI file; it holds 1 .txt"]),
        (["notes.txt"], ["no NIfTI file; it holds 1 .txt"]),
        ([], ["empty folder"]),
        (["1/2/3/4/a/a_t1.nii", "1/2/3/4/a/a_seg.nii"], ["more than 3 deep"]),
    ],
)
def test_incomplete_folders_are_refused_by_name(tmp_path: Path, names: list[str], words: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(
        DataRefused, match=r"_\{t1,t1ce,t2,flair,seg\}|one file|only files|every case|an image"
    ) as refusal:
        find_cases(tmp_path)
    assert [word for word in words if word not in str(refusal.value)] == []


def test_an_empty_folder_beside_a_good_case_is_refused(tmp_path: Path) -> None:
    brats(tmp_path, "a", "t1", "seg")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataRefused, match=r"/b\b"):
        find_cases(tmp_path)


def test_all_problems_come_in_one_refusal(tmp_path: Path) -> None:
    for k in range(12):
        brats(tmp_path, f"case{k:02}", "t1")
    with pytest.raises(DataRefused, match="12 cases") as refusal:
        find_cases(tmp_path)
    assert "'case09'" in str(refusal.value)
    assert "'case10'" not in str(refusal.value)
    assert "and 2 more" in str(refusal.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="No such file"):
        find_cases(tmp_path / "absent")


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("BraTS-GLI-00005-100", "BraTS-GLI-00005"),
        ("BraTS-MEN-01234-000", "BraTS-MEN-01234"),
        ("TCGA_DU_5849_19950405", "TCGA_DU_5849"),
        ("TCGA-DU-5849-19950405", "TCGA-DU-5849"),
        ("TCGA-DU-7294", "TCGA-DU-7294"),
        ("BraTS2021_00005", "BraTS2021_00005"),
        ("BRATS_001", "BRATS_001"),
        ("my-12345-100", "my-12345-100"),
    ],
)
def test_default_rule_for_patients(case: str, patient: str) -> None:
    assert patient_of(case) == patient


def test_patient_pattern(tmp_path: Path) -> None:
    brats(tmp_path, "p1x", "t1", "seg")
    brats(tmp_path, "p1y", "t1", "seg")
    brats(tmp_path, "p2x", "t1", "seg")
    assert [one.patient for one in find_cases(tmp_path, patient_pattern="p(.)")] == ["1", "1", "2"]
    with pytest.raises(DataRefused, match="'p2x'"):
        find_cases(tmp_path, patient_pattern="(p1)")
    for pattern in ("(", "p."):
        with pytest.raises(ConfigRefused, match="group 1"):
            find_cases(tmp_path, patient_pattern=pattern)


def test_real_folders() -> None:
    lgg = REAL / "lgg_tcga_multisite_nc" / "px64"
    if not lgg.is_dir():
        pytest.skip("the real data is not beside the repository")
    cases = find_cases(lgg)
    assert len(cases) == 93
    assert len({one.patient for one in cases}) == 93
    assert cases[0].patient == cases[0].case.rpartition("_")[0]
    assert [sum(m in one.images for one in cases) for m in ("t1", "t1ce", "t2", "flair")] == [87, 83, 0, 93]
