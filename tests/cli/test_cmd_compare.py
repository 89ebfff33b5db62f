"""`wardround compare`: what differs between runs, paired by hospital."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from wardround.cli.main import main


def keep(run: dict[str, Any], folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    return str(folder)


@pytest.fixture
def two(run: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The second run is .1 better at site-1 and .05 worse at site-2, with another learning rate."""
    run["settings"] = {"lr": 0.05, "num_rounds": 6, "score": "Dice"}
    other = copy.deepcopy(run)
    other["settings"]["lr"] = 0.01
    other["final"]["site-1"]["candidates"]["personalised"]["test"]["dice_mean"]["value"] = 0.8
    other["final"]["site-2"]["candidates"]["local"]["test"]["dice_mean"]["value"] = 0.55
    return run, other


def test_settings_that_differ_and_paired_differences(two: Any, tmp_path: Path, capsys: Any) -> None:
    first, second = keep(two[0], tmp_path / "slow"), keep(two[1], tmp_path / "fast")
    assert main(["compare", first, second, "--out", str(tmp_path / "c.html")]) == 0
    out = capsys.readouterr().out
    assert "lr" in out.split("mean test score")[0]
    assert "rounds" not in out.split("mean test score")[0]
    assert "0.025 [-0.050, 0.100]" in out  # (.1 - .05) / 2; of two hospitals the ends are the two differences
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "0.025" in page
    assert "paired by hospital" in page
    assert out.rstrip().endswith(f"open this: {(tmp_path / 'c.html').resolve()}")


@pytest.mark.parametrize("out", ["/proc/x.html", "."])
def test_a_page_that_cannot_be_written_is_refused_before_the_runs_are_read(
    out: str, tmp_path: Path, capsys: Any
) -> None:
    assert main(["compare", str(tmp_path), "--out", out]) == 2
    said = capsys.readouterr().err
    assert f"--out {Path(out).parent if out != '.' else out}" in said
    assert all(word in said for word in ("found:", "expected:", "to do:"))


def test_of_what_is_learnt_only_the_parts_that_differ_are_shown(two: Any, tmp_path: Path, capsys: Any) -> None:
    for one, way in zip(two, ("head_z_scores", "low -160; high 240; " + 9 * "and so on "), strict=True):
        one["settings"] |= {"task.normalisation": way, "task.inputs": "t1; t2", "algorithm_class": "wardround.x.Y"}
    first, second = keep(two[0], tmp_path / "a"), keep(two[1], tmp_path / "b")
    assert main(["compare", first, second, "--out", str(tmp_path / "c.html")]) == 0
    rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows[1:] if not row.startswith("-")] == ["lr", "task.normalisation"]
    assert "head z scores" in rows[-1]
    assert rows[-1].endswith("…")
    assert max(map(len, rows)) < 90
    assert 9 * "and so on " in (tmp_path / "c.html").read_text() + " "


def test_scores_that_are_not_told_leave_a_hospital_out(two: Any, tmp_path: Path, capsys: Any) -> None:
    two[1]["final"]["site-2"]["candidates"] = {"local": {}}
    first, second = keep(two[0], tmp_path / "a" / "x"), keep(two[1], tmp_path / "b" / "x")
    assert main(["compare", first, second, "--out", str(tmp_path / "c.html")]) == 0
    assert "0.100" in capsys.readouterr().out.split("minus the first")[1]


@pytest.mark.parametrize("spoil", ["one", "task", "hospitals", "phantoms"])
def test_runs_that_cannot_be_compared(two: Any, spoil: str, tmp_path: Path, capsys: Any) -> None:
    if spoil == "task":
        two[1]["settings"]["score"] = "balanced accuracy"
    if spoil == "hospitals":
        two[1]["final"] = {"site-9": two[1]["final"]["site-1"]}
    if spoil == "phantoms":
        two[1]["phantoms"] = True
    places = [keep(one, tmp_path / str(n)) for n, one in enumerate(two)]
    assert main(["compare", *places[: 1 if spoil == "one" else 2], "--out", str(tmp_path / "c.html")]) == 2
    assert "runs to compare" in capsys.readouterr().err
    assert not (tmp_path / "c.html").exists()
