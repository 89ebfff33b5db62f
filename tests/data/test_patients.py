"""One person's scans are one patient; ids that look like scans are told; ids that almost fit a table are refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.cli.main import main
from wardround.core.errors import DataRefused
from wardround.data.cases import find_cases, patient_of
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.ehr_table import for_patients, unknown

IMAGE = np.random.default_rng(0).uniform(1, 9, (8, 8, 8)).astype(np.float32)
TABLE = Table((Column("age", "numeric", "years", 18, 90),))


def cohort(root: Path, *cases: str) -> None:
    mask = np.zeros(IMAGE.shape, np.uint8)
    mask[4, 4, 4] = 1
    for case in cases:
        (root / case).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(IMAGE, np.eye(4)), root / case / f"{case}_t1.nii")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), root / case / f"{case}_seg.nii")


@pytest.mark.parametrize(
    "scans",
    [
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001-101"),
        ("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001-2"),
        ("Brats18_TCIA02_117_1", "Brats18_TCIA02_117_2"),
        ("TCGA_DU_5849_19950405", "TCGA_DU_5849_19960101"),
        ("TCGA-02-0003", "TCGA-02-0003_pre"),
        ("sub-01_ses-01", "sub-01_ses-02"),
        ("sub-01", "sub-01_ses-preop"),
        ("smith_pre", "smith_post"),
        ("P1-preop", "P1-postop"),
        ("P1_2019", "P1_2020"),
        ("17_20190401", "17_20200101"),
        ("P1_2019-04-01", "P1_2020-01-01"),
        ("Patient-001_week-000", "Patient-001_week-012"),
        ("PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2"),
        ("P7_baseline", "P7_followup"),
        ("P7_t0", "P7_t1"),
        ("P7_scan01", "P7_scan02"),
        ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU001d"),
        ("UCSD-PTGBM-0002_01", "UCSD-PTGBM-0002_02"),
        ("RHUH-0001_0", "RHUH-0001_1"),
        ("Patient-001_week-000-1", "Patient-001_week-044"),
    ],
)
def test_scans_of_one_person(scans: tuple[str, str]) -> None:
    assert len({patient_of(scan) for scan in scans}) == 1


@pytest.mark.parametrize(
    "people",
    [
        ("P_001", "P_002"),
        ("case_2001", "case_2002"),
        ("scan_001", "scan_002"),
        ("BraTS2021_00001", "BraTS2021_00002"),
        ("BRATS_001", "BRATS_002"),
        ("BraTS20_Training_001", "BraTS20_Training_002"),
        ("TCGA-DU-5849", "TCGA-DU-5850"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"),
        ("phantom-north-000", "phantom-north-001"),
        ("sub-01", "sub-02"),
    ],
)
def test_people_stay_people(people: tuple[str, str]) -> None:
    assert len({patient_of(one) for one in people}) == 2


def test_check_counts_persons_and_warns_where_ids_differ_only_in_a_last_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort(tmp_path / "known", *(f"UPENN-GBM-0000{n}_{scan}" for n in range(3) for scan in (11, 21)))
    assert main(["data", "check", str(tmp_path / "known")]) == 0
    text = capsys.readouterr().out
    assert "patients    3" in text
    assert "UPENN-GBM-00000_11 is read as a scan of UPENN-GBM-00000" in text
    cohort(tmp_path / "strange", *(f"K{n}x_{scan}" for n in range(3) for scan in ("A7", "B7")))
    assert main(["data", "check", str(tmp_path / "strange")]) == 0
    text = capsys.readouterr().out
    assert "patients    6" in text
    assert "set patient_pattern" in text
    assert main(["data", "check", str(tmp_path / "strange"), "--patient-pattern", "^(K[0-9])"]) == 0
    text = capsys.readouterr().out
    assert "patients    3" in text
    assert "set patient_pattern" not in text
    cohort(tmp_path / "twice", "P1", "p1", "P-1", "P2", "P3")
    assert main(["data", "check", str(tmp_path / "twice")]) == 0
    assert "3 patients' ids differ only in case of letters" in capsys.readouterr().out
    cohort(tmp_path / "plain", "DU_001", "DU_002", "HT_001", "HT_002")
    assert main(["data", "check", str(tmp_path / "plain")]) == 0
    assert "patient_pattern" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "rows", "reason"),
    [
        (("001", "002", "042", "117"), ("1", "2", "42", "117"), "leading zeros"),
        (("P1", "P2"), ("p1", "P2"), "upper and lower case"),
        (("P1", "P2"), ("P 1", "P2"), "blanks"),
        (("7", "8"), ("7.0", "8.0"), "spreadsheets"),
        (("P-1", "P-2"), ("P_1", "P_2"), "separators"),
        (("sub-01", "sub-02"), ("01", "02"), "a word before or behind"),
        (("12", "13"), ("BraTS-00012", "BraTS-00013"), "a word before or behind"),
        (("P001", "P002"), ("1", "2"), "a word before or behind"),
        (("M\u00fcller",), ("Mu\u0308ller",), "accents"),
    ],
)
def test_ids_that_almost_fit_are_refused(images: tuple[str, ...], rows: tuple[str, ...], reason: str) -> None:
    with pytest.raises(DataRefused) as refusal:
        for_patients({who: unknown(TABLE) for who in rows}, TABLE, {one: one for one in images}, print)
    assert reason in refusal.value.found
    assert not any(f" {who}" in refusal.value.found for who in rows if len(who) > 2)


def test_a_table_that_names_scans_is_refused_and_rows_of_others_are_not() -> None:
    images = {"UPENN-GBM-00001_11": "UPENN-GBM-00001", "UPENN-GBM-00002_11": "UPENN-GBM-00002"}
    with pytest.raises(DataRefused, match="named by a scan"):
        for_patients({case: unknown(TABLE) for case in images}, TABLE, images, print)
    said: list[str] = []
    others = {"DU_11": unknown(TABLE), "HT_10": unknown(TABLE), "10": unknown(TABLE)}
    found = for_patients(others | {"DU_1": unknown(TABLE)}, TABLE, {"DU_1": "DU_1", "DU_2": "DU_2"}, said.append)
    assert set(found) == {"DU_1", "DU_2"}
    assert "3 rows are of nobody here" in said[0]


def test_the_check_refuses_a_record_without_its_leading_zeros(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ("001", "002", "003", "042", "117")
    cohort(tmp_path / "data", *ids)
    file = tmp_path / "wardround.json"
    file.write_text(json.dumps({"data": "data", "record": "r.csv"}))
    (tmp_path / "r.csv").write_text("Patient,age\n" + "".join(f"{int(who)},50\n" for who in ids))
    assert main(["data", "check", str(file)]) == 2
    text = capsys.readouterr().out
    assert "4 of 5 patients have no row" in text
    assert "leading zeros" in text
    assert "1 thing is wrong" in text
    (tmp_path / "r.csv").write_text("Patient,age\n" + "".join(f"{who},50\n" for who in ids))
    assert main(["data", "check", str(file)]) == 0


def test_lists_of_cases_and_tables_of_sites_say_why_they_almost_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort(tmp_path / "data", *(f"{n:03d}" for n in range(1, 7)))
    with pytest.raises(DataRefused, match="leading zeros"):
        find_cases(tmp_path / "data", ["1", "2", "003"])
    table = tmp_path / "sites.csv"
    table.write_text("Case,SITE\n" + "".join(f"{n},{'ab'[n > 3]}\n" for n in range(1, 7)))
    assert main(["partition", "column", str(tmp_path / "data"), str(tmp_path / "out"), "--table", str(table)]) == 2
    assert "leading zeros" in capsys.readouterr().err
    table.write_text("Case,SITE\n" + "".join(f"{n:03d},{'ab'[n > 3]}\n" for n in range(1, 7)))
    assert main(["partition", "column", str(tmp_path / "data"), str(tmp_path / "out"), "--table", str(table)]) == 0


def test_sites_with_two_patients_are_not_advertised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort(tmp_path / "my data", *(f"P_{n}" for n in range(6)))
    out = tmp_path / "out of it"
    split = ["partition", "quantity", str(tmp_path / "my data"), str(out), "--ratio", "1", "--labels", "brats"]
    assert main([*split, "--sites", "2"]) == 0
    text = capsys.readouterr().out
    assert f"--sites-file '{out}/sites.json'" in text
    assert json.loads((out / "sites.json").read_text())["site-1"]["labels"] == "brats"
    split[3] = str(tmp_path / "few")
    assert main([*split, "--sites", "3", "--min-patients", "2"]) == 0
    text = capsys.readouterr().out
    assert "fewer than 3 patients" in text
    assert "use it" not in text
