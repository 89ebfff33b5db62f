"""Tables as spreadsheets write them: read where there is one meaning, else refused with what was found; values nobody has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wardround.cli.main import main
from wardround.core.errors import DataRefused
from wardround.data.description import Description, Row, Spec, write_folder
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.ehr_table import read_ehr
from wardround.data.labelled import open_labelled
from wardround.data.pictures import Grid, read_picture
from wardround.data.site_config import SiteConfig
from wardround.research.partition_natural import by_fets_csv

AGE = Column("age", "numeric", "years", 18, 90)
LDH = Column("ldh", "numeric", "U/l", 100, 1000)
CRP = Column("crp", "numeric", "mg/l", 0, 200)
DELTA = Column("delta", "numeric", "1", -20, 20)


def record(tmp_path: Path, content: bytes, *columns: Column) -> dict[str, np.ndarray]:
    file = tmp_path / "r.csv"
    file.write_bytes(content)
    return read_ehr(Table(columns or (AGE,)), file, {})


@pytest.mark.parametrize(
    "content",
    [
        b"patient,age [years]\n001,40\n002,50\n",
        b"PATIENT,Age [years]\r\n001,40\r\n\r\n002,50\r\n",
        b"\xef\xbb\xbfPatient,age [years]\r001,40\r002,50\r",
        b'"Patient","age [years]"\n"001","40"\n" 002 "," 50 "\n,\n  , \n',
        b"patient,age [years],,\n001,40,,\n002,50,,\n",
        b"sep=,\npatient,age [years]\n001,40\n002,50\n",
        b'note,patient,age [years]\n"a; b; c; d",001,40\n,002,50\n',
    ],
)
def test_one_meaning_is_read(tmp_path: Path, content: bytes) -> None:
    found = record(tmp_path, content)
    assert {who: round(float(vector[0]), 3) for who, vector in found.items()} == {"001": -0.389, "002": -0.111}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"patient;age [years]\n001;40\n", "separated by semicolons"),
        (b"patient;age [years];crp\n001;40;5,5\n", "separated by semicolons"),
        (b"sep=;\npatient;age\n001;40\n", "separated by semicolons"),
        (b"patient\tage [years]\n001\t40\n", "separated by tabs"),
        (b"patient|age [years]\n001|40\n", "separated by vertical bars"),
        ("patient,age [years],note\n001,40,M\u00fcller\n".encode("latin-1"), "not UTF-8"),
        ("patient,age [years]\n001,40\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04 and so on", "a spreadsheet"),
        (b'patient,age [years]\n001,"40,5"\n', "1 of them with a decimal comma"),
        (b'patient,age [years]\n001,"40\n', "no CSV"),
        (b"", "no header"),
    ],
)
def test_other_dialects_are_named_and_no_cell_is_shown(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataRefused) as refusal:
        record(tmp_path, content)
    assert words in refusal.value.found
    assert "M\u00fcller" not in str(refusal.value)
    assert "001" not in str(refusal.value)


def test_headers_ignore_case_everywhere(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    spec = Spec(("no", "yes"), ("film",), Table((AGE,)), Grid(16))
    write_folder(
        tmp_path, Description(spec, tmp_path, tmp_path / "cases.csv"), [Row("a", "p", "yes", {"film": "a.png"})]
    )
    table = tmp_path / "cases.csv"
    table.write_text(table.read_text().replace("case,patient,label,film,age", "Case,PATIENT,Label,Film,AGE"))
    assert open_labelled(SiteConfig(tmp_path), tmp_path / "cache").labels == {"a": 1}
    (tmp_path / "fets.csv").write_text("partition_id,SUBJECT_ID\n1,a\n")
    assert by_fets_csv(tmp_path / "fets.csv") == {"site-1": ("a",)}
    table.write_text("case;patient;label;film\na;p;yes;a.png\n")
    with pytest.raises(DataRefused, match="semicolons"):
        open_labelled(SiteConfig(tmp_path), tmp_path / "cache")
    (tmp_path / "fets.csv").write_text("Partition_ID;Subject_ID\n1;a\n")
    with pytest.raises(DataRefused, match="semicolons"):
        by_fets_csv(tmp_path / "fets.csv")


@pytest.mark.parametrize(
    ("column", "cells", "words"),
    [
        (AGE, ("40", "-9", "50", "-9"), "2 of 4 values below zero"),
        (LDH, ("200", "-999"), "1 of 2 values below zero"),
        (CRP, ("20", "999"), "1 of 2 values that are codes for missing"),
        (LDH, ("200", "9999"), "1 of 2 values that are codes for missing"),
        (LDH, ("200", "999", "999"), "2 of 3 values that are codes for missing"),
        (DELTA, ("3", "-99"), "1 of 2 values that are codes for missing"),
        (DELTA, ("3", "-99.0"), "1 of 2 values that are codes for missing"),
        (LDH, ("200", "0", "0"), "2 of 3 values that are 0"),
        (CRP, ("20", "-1"), "1 of 2 values below zero"),
    ],
)
def test_values_that_nobody_has_are_refused(tmp_path: Path, column: Column, cells: tuple[str, ...], words: str) -> None:
    rows = "".join(f"p{n},{cell}\n" for n, cell in enumerate(cells))
    with pytest.raises(DataRefused) as refusal:
        record(tmp_path, f"patient,{column.name}\n{rows}".encode(), column)
    assert words in refusal.value.found
    assert column.name in refusal.value.what
    assert not any(cell in refusal.value.found.split("codes")[0] for cell in ("999", "-99"))


@pytest.mark.parametrize(
    ("column", "cells"),
    [(AGE, ("99", "18")), (LDH, ("999", "400")), (DELTA, ("-9", "-19")), (CRP, ("0", "0")), (AGE, ("", "NA"))],
)
def test_values_that_somebody_may_have_are_read(tmp_path: Path, column: Column, cells: tuple[str, ...]) -> None:
    rows = "".join(f"p{n},{cell}\n" for n, cell in enumerate(cells))
    assert len(record(tmp_path, f"patient,{column.name}\n{rows}".encode(), column)) == len(cells)


GREY = np.random.default_rng(0).integers(20, 200, (16, 16)).astype(np.uint8)


def test_what_is_transparent_is_dark(tmp_path: Path) -> None:
    """White pixels that nobody sees: the same picture as with the darkest value in their place."""
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:5, :5] = 0
    white, dark = GREY.copy(), GREY.copy()
    white[:5, :5] = 255
    dark[:5, :5] = GREY[alpha == 255].min()
    Image.fromarray(dark).save(tmp_path / "dark.png")
    expected = read_picture("c", tmp_path / "dark.png", Grid(16))
    Image.fromarray(np.dstack([white, white, white, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([white, alpha])).save(tmp_path / "la.png")
    Image.fromarray(white).save(tmp_path / "l.png", transparency=255)
    palette = Image.fromarray(white).convert("P")
    palette.putpalette([value for value in range(256) for _ in range(3)])
    palette.putdata(white.ravel().tolist())
    palette.save(tmp_path / "p.png", transparency=255)
    for name in ("rgba", "la", "l", "p"):
        np.testing.assert_allclose(read_picture("c", tmp_path / f"{name}.png", Grid(16)), expected, atol=0.02)
    Image.fromarray(np.dstack([white, white * 0])).save(tmp_path / "nothing.png")
    with pytest.raises(DataRefused, match="no pixel that is opaque"):
        read_picture("c", tmp_path / "nothing.png", Grid(16))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_that_exif_states_is_carried_out(tmp_path: Path, orientation: int) -> None:
    smooth = np.add.outer(3 * np.arange(16), np.arange(16) ** 1.4).astype(np.uint8)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turn(smooth))).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(smooth).save(tmp_path / "plain.png")
    found, plain = (read_picture("c", tmp_path / f"{name}.png", Grid(16)) for name in ("turned", "plain"))
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_a_palette_of_colours_is_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY).convert("P")
    picture.putpalette([value for k in range(256) for value in (k, 0, 255 - k)])
    picture.save(tmp_path / "jet.png")
    with pytest.raises(DataRefused, match="false colours"):
        read_picture("c", tmp_path / "jet.png", Grid(16))


FULL = """
import resource, sys
from pathlib import Path
from wardround.data.cache import open_cohort
from wardround.data.labelled import open_labelled
from wardround.data.site_config import SiteConfig
from wardround.core.errors import ConfigRefused
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
opened = open_labelled if sys.argv[1] == "labelled" else open_cohort
try:
    opened(SiteConfig(Path(sys.argv[2])), Path(sys.argv[3]))
except ConfigRefused as refusal:
    print(refusal)
    raise SystemExit(2)
"""


@pytest.mark.parametrize("kind", ["labelled", "masks"])
def test_a_disk_without_room_is_a_refusal_and_leaves_nothing_half_written(tmp_path: Path, kind: str) -> None:
    """A limit on the size of files stands for the full disk: the same calls fail."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    if kind == "labelled":
        spec = Spec(("no", "yes"), ("film",), Table(), Grid(64))
        data.mkdir()
        Image.fromarray(GREY).save(data / "a.png")
        rows = [Row(f"c{n}", f"p{n}", "yes", {"film": "a.png"}) for n in range(9)]
        write_folder(data, Description(spec, data, data / "cases.csv"), rows)
    else:
        import nibabel

        for case in "abc":
            (data / case).mkdir(parents=True)
            image = np.random.default_rng(0).uniform(1, 9, (24, 24, 24)).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), data / case / f"{case}_t1.nii.gz")
            nibabel.save(
                nibabel.Nifti1Image((image > 8).astype(np.uint8), np.eye(4)), data / case / f"{case}_seg.nii.gz"
            )
    words = [sys.executable, "-c", FULL, kind, str(data), str(cache)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert "make room" in done.stdout
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "content",
    [
        b",patient,age [years]\n0,001,40\n1,002,50\n",
        b'"","patient","age [years]"\n"1","001",40\n"2","002",50\n',
        b"patient,age (years)\n001,40\n002,50\n",
        b"patient,age (months),note\n001,480,x\n002,600,\n",
    ],
)
def test_tables_of_r_and_pandas_and_units_in_round_brackets_are_read(tmp_path: Path, content: bytes) -> None:
    found = record(tmp_path, content)
    assert {who: round(float(vector[0]), 3) for who, vector in found.items()} == {"001": -0.389, "002": -0.111}


def test_a_first_column_without_a_name_that_does_not_count_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="empty or repeated name"):
        record(tmp_path, b",patient,age\n7,001,40\n9,002,50\n")


def test_nobody_is_130_years_old(tmp_path: Path) -> None:
    for age in (150, 300, 400):
        with pytest.raises(DataRefused, match="1 of 2 values above 130 years"):
            record(tmp_path, f"patient,age [years]\n001,{age}\n002,50\n".encode())
    with pytest.raises(DataRefused, match="unit"):
        record(tmp_path, b"patient,age (mg/l)\n001,40\n")
    record(tmp_path, b"patient,age\n001,103\n002,#N/A\n")


def labelled(folder: Path, rows: list[str], frames: int = 1) -> list[str]:
    folder.mkdir()
    first, *others = (
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (16, 16)).astype(np.uint8)) for n in range(frames)
    )
    for name in {row.rpartition(",")[2] for row in rows}:
        first.save(folder / name, save_all=frames > 1, append_images=others) if frames > 1 else first.save(
            folder / name
        )
    (folder / "dataset.json").write_text(
        '{"kind": "classification", "classes": ["a", "b"], "modalities": ["t1"], "size": 16}'
    )
    (folder / "cases.csv").write_text("\n".join(["case,patient,label,t1", *rows]) + "\n")
    return [str(folder)]


def test_one_picture_of_two_patients_is_told_and_two_pictures_in_one_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"c{n},{n},{'ab'[n % 2]},{n}.png" for n in range(12)]
    assert main(["data", "check", *labelled(tmp_path / "sound", rows)]) == 0
    assert "beware" not in capsys.readouterr().out
    rows[3] = rows[3].replace("3.png", "4.png")
    assert main(["data", "check", *labelled(tmp_path / "twice", rows)]) == 0
    assert "1 images are named for several patients" in capsys.readouterr().out
    assert main(["data", "check", *labelled(tmp_path / "frames", rows[:2], frames=2)]) == 2
    assert "2 pictures in one file" in capsys.readouterr().out


def test_patients_of_a_table_that_look_like_scans_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"c{n},p{n // 2}_{n % 2 + 1},{'ab'[n // 2 % 2]},{n}.png" for n in range(12)]
    assert main(["data", "check", *labelled(tmp_path / "scans", rows)]) == 0
    text = capsys.readouterr().out
    assert "12 ids differ only in a last part: are '1' and '2' scans of one person?" in text
    assert "one id per person in the column `patient`" in text
