import json
import shlex
from pathlib import Path

import pytest

from wardround.cli import cmd_partition
from wardround.cli.main import main
from wardround.research.partition import METHODS


def test_every_method_of_the_library_is_offered() -> None:
    assert cmd_partition.METHODS.keys() == METHODS.keys()


def test_a_partition_is_written_and_told(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sites"
    arguments = ["--sites", "2", "--min-patients", "1", "--ratio", "1"]
    assert main(["partition", "quantity", str(hospitals / "site-1"), str(out), *arguments]) == 0
    entries = json.loads((out / "sites.json").read_text())
    assert sorted(len(entry["cases"]) for entry in entries.values()) == [2, 3]
    text = capsys.readouterr().out
    for site, entry in entries.items():
        assert f"{site}: {len(entry['cases'])} cases, {len(entry['cases'])} patients" in text
        assert json.loads((out / site / "wardround.json").read_text()) == entry


def test_a_table_names_the_sites(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = sorted(path.name for path in (hospitals / "site-1").iterdir() if path.is_dir())
    table = tmp_path / "clinical.csv"
    table.write_text("id,clinic\n" + "".join(f"{case},{'AB'[i > 1]}\n" for i, case in enumerate(cases)))
    options = ["--table", str(table), "--site-column", "clinic", "--case-column", "id", "--min-patients", "2"]
    assert main(["partition", "column", str(hospitals / "site-1"), str(tmp_path / "out"), *options]) == 0
    assert "site-1 (A): 2 cases" in capsys.readouterr().out


def test_patients_are_counted_with_the_pattern(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--patient-pattern", r"(\w)$", "--sites", "2", "--min-patients", "1"]
    assert main(["partition", "size", str(hospitals / "site-1"), str(tmp_path / "out"), *options]) == 0
    assert "3 cases, 3 patients" in capsys.readouterr().out


def test_refusals(hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(hospitals / "site-1"), str(tmp_path / "out")
    assert main(["partition", "size", data, out, "--sites", "2"]) == 2
    assert "fewer" in capsys.readouterr().err or not Path(out).exists()
    assert main(["partition", "pattern", data, out, "--pattern", "no-group"]) == 2
    assert "no group" in capsys.readouterr().err
    assert main(["partition", "size", data, data + "/inside", "--sites", "2"]) == 2
    assert "inside the data folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("pattern",), ("size", "--ratio", "2"), ("dance",), ("fets", "--table", "absent")]
)
def test_options_of_another_method_are_refused(arguments: tuple[str, ...], hospitals: Path, tmp_path: Path) -> None:
    method, *rest = arguments
    with pytest.raises(SystemExit) as stop:
        main(["partition", method, str(hospitals / "site-1"), str(tmp_path / "out"), *rest])
    assert stop.value.code == 2


def test_the_command_to_use_it_can_be_pasted_whatever_the_path(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my sites; $HOME"
    assert main(["partition", "pattern", str(hospitals / "site-1"), str(out), "--pattern", "^(phantom)"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("use it: ")]
    assert shlex.split(line)[-2:] == ["--sites-file", str(out / "sites.json")]
