import json
from pathlib import Path
from typing import Any

import pytest

from wardround.cli.main import main
from wardround.reports.schema import build

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def workspace(root: Path, run: dict[str, Any]) -> Path:
    folder = root / "server" / "simulate_job" / "wardround"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_a_simulator_workspace_is_rebuilt_with_its_pictures(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace(tmp_path, run)
    picture = tmp_path / "site-1" / "simulate_job" / "wardround" / "overlays" / "site-1-0.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(PNG)
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "north (site-1): Deploy the personalised model" in out
    assert "site-2: Deploy your own local model" in out
    assert str(folder / "report.html") in out
    assert json.loads((folder / "report.json").read_text())["outcome"] == "complete"
    assert "data:image/png;base64" in (folder / "report.html").read_text()


def test_a_downloaded_result_shows_no_pictures(run: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "job" / "workspace" / "wardround"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    picture = folder / "overlays" / "x.png"
    picture.parent.mkdir()
    picture.write_bytes(PNG)
    assert main(["report", str(tmp_path / "job"), "--out", str(tmp_path / "page")]) == 0
    assert "data:image/png" not in (tmp_path / "page" / "report.html").read_text()
    assert not (folder / "report.html").exists()


def test_a_report_alone_is_enough(run: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(build(run)))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "report.json").read_text()) == build(run)
    assert main(["report", str(tmp_path / "report.json")]) == 0


def test_remarks_of_a_complete_run_are_printed(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace(tmp_path, run | {"remarks": ["site-2 is not in round 1: no answer in time"]})
    assert main(["report", str(tmp_path)]) == 0
    assert "REMARK: site-2 is not in round 1: no answer in time" in capsys.readouterr().out


def test_an_incomplete_run_exits_with_1_and_its_problems(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace(tmp_path, run | {"problems": ["site-2 was lost in round 1: refused: data"]})
    assert main(["report", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: site-2 was lost" in out
    assert "INCOMPLETE" in out


def test_a_silently_lost_site_is_a_problem_too(run: dict[str, Any], tmp_path: Path) -> None:
    del run["final"]["site-2"]
    workspace(tmp_path, run)
    assert main(["report", str(tmp_path)]) == 1


def test_a_crashed_simulation_says_what_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server" / "simulate_job").mkdir(parents=True)
    for party, text in (("server", ""), ("site-1", "2025 ERROR")):
        (tmp_path / party).mkdir(exist_ok=True)
        (tmp_path / party / "error_log.txt").write_text(text)
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "site-1" / "error_log.txt") in err
    assert str(tmp_path / "server" / "error_log.txt") not in err


def test_nothing_and_too_much_are_refused(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no run.json" in capsys.readouterr().err
    for job in ("a", "b"):
        (tmp_path / job / "wardround").mkdir(parents=True)
        (tmp_path / job / "wardround" / "run.json").write_text(json.dumps(run))
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "a" / "wardround") in err
    assert str(tmp_path / "b" / "wardround") in err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"job": 3}', '{"verdicts": {}}'])
def test_files_that_are_no_runs_are_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    assert "to do:" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("phantoms", "helped"), [(True, False), (True, True), (False, False)])
def test_the_last_lines_are_the_verdicts_and_the_page_to_open(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], phantoms: bool, helped: bool
) -> None:
    """A short demonstration that helped nobody says why; one that helped, and real patients, get no such sentence."""
    run["phantoms"] = phantoms
    if not helped:
        run["final"]["site-1"]["deploy"] = "local"
    folder = workspace(tmp_path, run)
    assert main(["report", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"open this: {(folder / 'report.html').resolve()}"
    said = [place for place, line in enumerate(lines) if "Deploy" in line]
    assert said[-1] - said[0] == 1
    assert said[-1] >= len(lines) - 4
    assert lines[-2].startswith("each hospital's own report: ")
    assert any("demonstration is short" in line for line in lines) == (phantoms and not helped)
