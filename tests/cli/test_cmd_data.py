import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main


def test_phantoms_can_be_checked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    assert main(["phantoms", str(out), "--sites", "2", "--patients", "4", "--shape", "16", "18", "20"]) == 0
    assert json.loads((out / "sites.json").read_text())["site-2"] == {
        "data": "site-2",
        "name": "east",
        "record": "site-2/record.csv",
    }
    capsys.readouterr()
    assert main(["data", "check", str(out / "sites.json")]) == 0
    text = capsys.readouterr().out
    assert text.count("ready to train") == 2
    assert "site-1 (north)" in text
    assert "16 x 18 x 20 (4)" in text
    assert "t1 4, t1ce 4, t2 4, flair 4" in text
    assert text.count("4 of 4 patients have a row; --job says which columns to check") == 2


def test_the_fourth_hospital_alone_has_no_t2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["phantoms", str(tmp_path / "w"), "--hospital", "4", "--patients", "3", "--shape", "16", "16", "16"]) == 0
    )
    assert main(["data", "check", str(tmp_path / "w")]) == 0
    assert "t2 0" in capsys.readouterr().out


def test_phantoms_do_not_overwrite_a_partition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "partition.csv").write_text("x")
    assert main(["phantoms", str(tmp_path)]) == 2
    assert "partition.csv" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["partition.csv"]


@pytest.mark.parametrize("arguments", [("--sites", "0"), ("--sites", "2", "--hospital", "1"), ("--patients", "x")])
def test_senseless_phantoms_are_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["phantoms", str(tmp_path / "p"), *arguments])
    assert stop.value.code == 2
    assert not (tmp_path / "p").exists()


def test_too_small_phantoms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantoms", str(tmp_path / "p"), "--hospital", "1", "--shape", "4", "4", "4"]) == 2
    assert "at least 12 voxels" in capsys.readouterr().err


def test_every_damaged_case_is_named_in_full(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cases"
    shutil.copytree(hospitals / "site-1", folder)
    first, second, third = sorted(path for path in folder.iterdir() if path.is_dir())[:3]
    image = first / f"{first.name}_flair.nii.gz"
    image.write_bytes(image.read_bytes()[:100])
    seg = second / f"{second.name}_seg.nii.gz"
    mask = nibabel.load(seg)
    nibabel.save(nibabel.Nifti1Image(np.full(mask.shape, 7, np.uint8), mask.affine), seg)
    (third / f"{third.name}_seg.nii.gz").unlink()
    assert main(["data", "check", str(folder)]) == 2
    text = capsys.readouterr().out
    assert text.count("WRONG: ") == 3
    assert text.count("to do:") == 3
    assert all(case.name in text for case in (first, second, third))
    assert "cases       2" in text
    assert "3 things are wrong" in text
    assert "ready to train" not in text


def test_labels_of_another_kind_are_refused(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(hospitals / "site-1"), "--labels", "whole_tumour"]) == 2
    assert "of kind whole_tumour" in capsys.readouterr().out


def test_too_few_patients_are_a_problem(hospitals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = ["--patient-pattern", "^(phantom)"]
    assert main(["data", "check", str(hospitals / "site-1"), *pattern]) == 2
    out = capsys.readouterr().out
    assert "patients    1" in out
    assert "at least 3 patients" in out


def test_a_sites_own_file_is_understood(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = sorted(path.name for path in (hospitals / "site-2").iterdir() if path.is_dir())
    file = tmp_path / "wardround.json"
    file.write_text(json.dumps({"data": str(hospitals / "site-2"), "name": "Mercy", "cases": cases[:3]}))
    assert main(["data", "check", str(file)]) == 0
    text = capsys.readouterr().out
    assert "Mercy" in text
    assert "cases       3" in text
    file.write_text(json.dumps({"data": str(hospitals / "site-2"), "casse": []}))
    assert main(["data", "check", str(file)]) == 2
    assert "casse" in capsys.readouterr().err


def test_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path)]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(tmp_path / "absent")])
    assert stop.value.code == 2
    assert "there is no" in capsys.readouterr().err


def test_a_folder_of_labelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wardround.synthetic.hospitals import hospital
    from wardround.synthetic.phantom_types import write_types

    root = write_types(tmp_path / "types", hospital(3), 0, 12, (20, 20, 16), (1, 1, 0))
    lines = (root / "cases.csv").read_text().splitlines()
    fields = lines[1].split(",")
    lines[1] = ",".join([*fields[:2], "", *fields[3:]])
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    (root / "images" / "left.png").write_bytes(b"of nobody")
    before = sorted(path.name for path in root.rglob("*"))
    assert main(["data", "check", str(root)]) == 0
    text = capsys.readouterr().out
    for words in ("cases       11", "patients    11", "ring_halo 0", "1 cases, left out", "t1 11, t1ce 11, t2 0"):
        assert words in text
    for words in ("no test patient with", "crp", "ready to train"):
        assert words in text
    assert sorted(path.name for path in root.rglob("*")) == before
    assert "1 images that no row names, first images/left.png" in text
    assert main(["data", "check", str(root), "--patient-pattern", "(.)"]) == 2
    assert "WRONG" in capsys.readouterr().out
    next(root.glob("images/*p003_t1.png")).write_bytes(b"no picture")
    assert main(["data", "check", str(root)]) == 2
    assert "p003" in capsys.readouterr().out


def test_the_record_is_checked_as_a_job_reads_it(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (hospitals / "site-1" / "record.csv").read_text().splitlines()
    file, table = tmp_path / "wardround.json", tmp_path / "record.csv"
    check = ["data", "check", str(file), "--job", "brats_ehr_fedavg"]
    file.write_text(json.dumps({"data": str(hospitals / "site-1")}))
    assert main(check) == 2
    assert "no 'record' in the site's file" in capsys.readouterr().out
    file.write_text(json.dumps({"data": str(hospitals / "site-1"), "record": "record.csv"}))
    for header, rows, code, words in (
        (lines[0], lines[1:], 0, "5 of 5 patients have a row; age 100 %, sex=f 100 %"),
        (lines[0], lines[1:3], 0, "2 of 5 patients have a row; age 40 %"),
        (lines[0], [], 0, "0 of 5 patients have a row; age 0 %"),
        (
            lines[0],
            [f"{lines[1].split(',')[0]},50,f,250,200"],
            0,
            "crp: 1 values are more than one range beyond 0 .. 100 mg/l",
        ),
        (lines[0].replace("mg/l", "mmol/l"), lines[1:], 2, "'mmol/l'"),
        (lines[0].replace("ldh", "other"), lines[1:], 2, "no such column"),
        (lines[0], ["somebody,50,f,1,200"], 2, "none for any of the 5 patients"),
    ):
        table.write_text("\n".join([header, *rows]) + "\n")
        assert main(check) == code
        assert words in capsys.readouterr().out
    assert main([*check[:3], "--job", "ehr_fusion_fedavg"]) == 2
    assert "a job for classes" in capsys.readouterr().err
