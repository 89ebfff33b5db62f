"""What this package writes as CSV holds no formula, and says the same when it is read again."""

import csv
import io
from pathlib import Path

import pytest

from wardround.core.tables import csv_text, plain
from wardround.data.description import Description, Row, Spec, read_rows, write_folder
from wardround.data.ehr import Table
from wardround.data.pictures import Grid
from wardround.research.partition_files import write_sites

FORMULAS = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    '=HYPERLINK("http://x","y")',
    "\N{FULLWIDTH EQUALS SIGN}1",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([["a", text, f"x;{text}"]]), newline="")))
    assert rows == [["a", "'" + text, f"x;{text}"]]
    assert plain(rows[0][1]) == text
    assert f'"x;{text[:1]}' in csv_text([["a", text, f"x;{text}"]])


@pytest.mark.parametrize(
    "text", ["", "-5", "+3.25", "-.5e-3", "a-b", "'quoted'", "a,b", 'a"b', "a\nb", "3.5", "''=", "'=1"]
)
def test_other_cells_come_back_as_they_were(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([["a", text]]), newline="")))
    assert [plain(cell) for cell in rows[0]] == ["a", text]


def test_numbers_stay_numbers() -> None:
    assert csv_text([["p", "n"], [-0.25, None], [1e-7, -3]]) == "p,n\n-0.25,\n1e-07,-3\n"


def test_a_partition_of_strange_names(tmp_path: Path) -> None:
    """The id of a case is a stranger's word: in the table of a partition it is text."""
    write_sites(tmp_path / "out", tmp_path, {"one": ["=1+1"], "two": ["b"]})
    assert "\n1,'=1+1\n" in (tmp_path / "out" / "partition.csv").read_text()


def test_a_folder_of_labelled_cases_with_strange_names(tmp_path: Path) -> None:
    description = Description(Spec(("a", "b"), ("t1",), Table(), Grid(16)), tmp_path, tmp_path / "x")
    write_folder(tmp_path / "out", description, [Row("=c1", "@p1", "a", {"t1": "x.png"})])
    text = (tmp_path / "out" / "cases.csv").read_text()
    assert "'=c1,'@p1,a,x.png\n" in text
    assert read_rows(tmp_path / "out" / "cases.csv")[1] == [
        {"case": "=c1", "patient": "@p1", "label": "a", "t1": "x.png"}
    ]


def test_no_other_writer_of_tables_in_the_package() -> None:
    for file in (Path(__file__).parents[1] / "custom" / "wardround").rglob("*.py"):
        assert "csv.writer" not in file.read_text(), file
        assert "csv.DictWriter" not in file.read_text(), file
