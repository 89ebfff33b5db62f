"""The record beside masks: one vector per patient, missing values flagged, every other mistake refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wardround.core.errors import ConfigRefused, DataRefused
from wardround.data.ehr import Table
from wardround.data.ehr_columns import Column
from wardround.data.ehr_table import for_patients, read_ehr, site_ehr, unknown
from wardround.data.site_config import SiteConfig

TABLE = Table((Column("age", "numeric", "years", 18, 90), Column("sex", "categorical", categories=("f", "m"))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "record.csv"


def test_values_then_flags_and_other_columns_are_not_read(file: Path) -> None:
    file.write_text("note,sex,patient,age [months]\nwhatever,m,a,1080\n,,b,\n")
    found = read_ehr(TABLE, file, {})
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"], np.array([1, 0, 1, 1, 1, 1], np.float32))
    np.testing.assert_array_equal(found["b"], unknown(TABLE))
    assert found["a"].dtype == np.float32


def test_units_of_the_sites_file_and_those_of_columns_that_are_not_used(file: Path) -> None:
    file.write_text("patient,age,sex,crp\na,648,f,3\n")
    found = read_ehr(TABLE, file, {"age": "months", "crp": "mg/dl"})
    assert found["a"][0] == 0
    with pytest.raises(DataRefused, match="a unit for 'ldh'"):
        read_ehr(TABLE, file, {"ldh": "U/l"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,age,sex\na,50,f\n", "no column 'patient'"),
        ("patient,age,sex\na,50,f\na,51,f\n", "1 rows of a patient who has one already"),
        ("patient,age,sex\n,50,f\n", "1 rows without a patient"),
        ("patient,age\na,50\n", "no such column"),
        ("patient,age [kg],sex\na,50,f\n", "the unit 'kg'"),
        ("patient,age,sex\na,old,f\n", "1 of 1 cells that are no number"),
        ("patient,age,sex\na,50\n", "another number of cells"),
    ],
)
def test_mistakes_are_named(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(DataRefused) as refusal:
        read_ehr(TABLE, file, {})
    assert words in refusal.value.found


def test_nobody_is_dropped_and_it_is_said(file: Path) -> None:
    file.write_text("patient,age,sex\na,90,f\nelsewhere,18,m\n")
    said: list[str] = []
    rows = read_ehr(TABLE, file, {})
    found = for_patients(rows, TABLE, {"a-1": "a", "a-2": "a", "b-1": "b", "c-1": "c"}, said.append)
    assert set(found) == {"a", "b", "c"}
    assert found["a"][0] == 1
    assert not found["b"].any()
    words = "record: 2 of 3 patients have no row; all their values are flagged as missing; 1 rows are of nobody here"
    assert said == [words]
    for_patients(rows, TABLE, {"a-1": "a"}, said.append)
    assert len(said) == 1


def test_other_ids_are_a_mistake_but_a_table_without_rows_is_a_hospital_without_a_record(file: Path) -> None:
    with pytest.raises(DataRefused, match="none for any of the 2 patients"):
        for_patients({"x": unknown(TABLE)}, TABLE, {"1": "a", "2": "b"}, print)
    file.write_text("patient,age,sex\n")
    found = for_patients(read_ehr(TABLE, file, {}), TABLE, {"1": "a", "2": "b"}, lambda words: None)
    assert [vector.tolist() for vector in found.values()] == [[0.0] * 6] * 2


def test_a_site_that_names_no_record(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match=r"patient, age \[years\], sex"):
        site_ehr(SiteConfig(data=tmp_path), TABLE)


def test_ids_are_not_given_to_a_network(file: Path) -> None:
    file.write_text("patient,age\n7,50\n")
    for column in (Column("Patient", "numeric", "1", 0, 9), Column("x", "numeric", "1", 0, 9, aliases=("patient",))):
        with pytest.raises(ConfigRefused, match="not given their ids"):
            read_ehr(Table((column,)), file, {})
