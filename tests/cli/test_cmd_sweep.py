"""`wardround sweep`: a grid from the command line, resumed, refused; small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wardround.cli.main import main
from wardround.jobs import recipes
from wardround.research import sweep
from wardround.research import sweep_run as hospital_sweep
from wardround.synthetic.hospitals import hospital
from wardround.synthetic.phantom_types import write_types

JOB = "tumour_type_fedavg"
SMALL = (
    *("--set", "sampling.size=16", "--set", "model.size=[16,16]", "--set", "phantoms.shape=[16,16,12]"),
    *("--set", "model.depth=1", "--set", "sampling.batch=2", "--set", "num_rounds=1", "--set", "work=2"),
    *("--set", "model_selection.steps=[0,1]", "--sites", "2", "--seeds", "3,4"),
)
MORE = ("--patients", "9", "--min-patients", "4")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep: two alphas, one site lacks a modality, two seeds."""
    found = tmp_path_factory.mktemp("sweep") / "out"
    assert main(["sweep", JOB, *SMALL, *MORE, "--alpha", ".1,inf", "--missing", "1", "--out", str(found)]) == 0
    return found


def test_every_run_is_in_the_table(out: Path) -> None:
    result = json.loads((out / "table.json").read_text(), parse_constant=pytest.fail)
    assert [(row["cell"]["alpha"], row["cell"]["missing"]) for row in result["rows"]] == [
        (0.1, {"site-2": ["flair"]}),
        ("inf", {"site-2": ["flair"]}),
    ]
    for row in result["rows"]:
        assert [run["seed"] for run in row["runs"]] == row["seeds"] == [3, 4]
        for run in row["runs"]:
            assert sum(sum(site["patients"].values()) for site in run["sites"].values()) == 18
            for site in run["sites"].values():
                assert {part: sum(counts.values()) for part, counts in site["classes"].items()} == site["patients"]
                assert all(0 <= one["value"] <= 1 for one in site["test"].values())
    assert result["settings"]["work"] == 2
    assert "| alpha | lacking | sites | local only |" in (out / "table.md").read_text()
    assert (out / "score.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "runs").iterdir())) == 4


def test_only_the_runs_are_kept_no_images(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"runs", "sweep.json", "table.md", "table.json", "score.png"}


def test_the_same_command_runs_nothing_again_and_a_larger_grid_only_what_is_new(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def spy(*args: Any) -> dict[str, Any]:
        trained.append(str(args[2]))
        return hospital_sweep.one_run(*args)

    monkeypatch.setattr(sweep, "one_run", spy)
    (out / "work-left").mkdir()
    assert main(["sweep", JOB, *SMALL, *MORE, "--alpha", ".1,inf", "--missing", "1", "--out", str(out)]) == 0
    assert not trained
    assert not (out / "work-left").exists()
    assert "4 are finished already" in capsys.readouterr().err
    assert (
        main(
            [
                "sweep",
                JOB,
                *SMALL,
                *MORE,
                "--alpha",
                "inf,5",
                "--missing",
                "1",
                "--json",
                "--seeds",
                "3",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert trained == ["2 sites, alpha 5, site-2 lacks flair"]
    shown = json.loads(capsys.readouterr().out)
    assert [row["cell"]["alpha"] for row in shown["rows"]] == ["inf", 5.0]
    assert shown["rows"][0]["minus_local"]["tuned"]["low"] is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--set", "lr=0.01"), "another schedule"),
        (("--patients", "8"), "another data"),
        (("--set", "model.depth=2"), "another model"),
    ],
)
def test_other_settings_need_another_folder(
    changed: tuple[str, ...], words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (out / "table.json").read_bytes()
    assert main(["sweep", JOB, *SMALL, *MORE, *changed, "--alpha", "inf", "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert (out / "table.json").read_bytes() == before


def test_another_job_and_foreign_folders_are_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tumour_type_perfedavg", *SMALL, *MORE, "--alpha", "inf", "--out", str(out)]) == 2
    assert "a sweep with another algorithm, job\n" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["sweep", JOB, *SMALL, *MORE, "--alpha", "inf", "--out", str(tmp_path)]) == 2
    assert "no sweep wrote" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_run_is_named(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "out"
    (broken / "runs").mkdir(parents=True)
    (broken / "sweep.json").write_bytes((out / "sweep.json").read_bytes())
    for run in (out / "runs").iterdir():
        (broken / "runs" / run.name).write_text('{"cell": ')
    assert main(["sweep", JOB, *SMALL, *MORE, "--alpha", "inf", "--missing", "1", "--out", str(broken)]) == 2
    assert "no JSON object" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--alpha", "0"), "--alpha"),
        (("--alpha=-1,inf",), "--alpha"),
        (("--alpha", "nan"), "--alpha"),
        (("--alpha", ".1,"), "--alpha"),
        (("--sites", "1"), "2 or more"),
        (("--sites", "x"), "--sites"),
        (("--scanner", "2"), "--scanner"),
        (("--seeds", "a"), "--seeds"),
        (("--missing", "3"), "3 of 2 sites"),
        (("--missing", "site-2:ct"), "'site-2:ct'"),
        (("--missing", "site-3:t2"), "'site-3:t2'"),
        (("--missing", "site-2:t1+t1ce+t2+flair"), "not all"),
        (("--missing", "0,site-2:t2"), "'0'"),
        (("--missing", "site-2:t2,site-2:t1"), "each site once"),
        (("--patients", "3"), "the label skew"),
        (("--set", "nonsense=1"), "no such setting"),
        (("--data", "cheng"), "without a folder"),
        (("--data", "a", "b", "c"), "3 words"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", JOB, *SMALL, *options, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", [name for name in recipes.names() if recipes.job(name).privacy["title"] != "plaintext"]
)
def test_no_secagg_or_private_job_is_run_in_plaintext(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", name, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"a sweep of {name}" in err
    assert "--set privacy=plaintext" in err
    assert ("WITHOUT noise" in err) is (recipes.job(name).dp is not None)
    sweep.require_plaintext(recipes.job(name, ["privacy=plaintext"]))
    assert not (tmp_path / "out").exists()


def test_segmentation_has_no_label_skew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "brats_fedavg", "--alpha", ".1", "--out", str(tmp_path / "out")]) == 2
    assert "its patients have no classes" in capsys.readouterr().err
    assert main(["sweep", "brats_fedavg", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "a job that segments" in capsys.readouterr().err


def test_segmentation_over_scanners(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    more = ("--set", "phantoms.shape=[20,20,20]", "--patients", "4", "--sites", "2", "--scanner", "0,1", "--quick")
    assert main(["sweep", "brats_perfedavg", *tiny, *more, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["cell"]["scanner"] for row in rows] == [False, True]
    assert rows[0]["mean"]["local"] != rows[1]["mean"]["local"]


def test_a_folder_gives_the_job_its_classes_and_modalities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wardround.cli.cmd_partition_labels import opened
    from wardround.data.description import read_description, read_rows, write_folder

    root = write_types(tmp_path / "types", hospital(0), 0, 16, (16, 16, 12))
    whole = opened(str(root), None, None).data
    spec = type(whole.description.spec)(("ring", "halo", "ring_halo"), ("t1ce", "flair"))
    described = type(whole.description)(spec, whole.description.images, root / "cases.csv")
    write_folder(tmp_path / "ours", described, whole.rows)
    assert len(read_rows(read_description(tmp_path / "ours").table)[1]) == 16
    arguments = ["--data", str(tmp_path / "ours"), "--alpha", "inf", "--missing", "1", "--seeds", "0"]
    given = [one for one in SMALL if "phantoms" not in one]
    given = [one for k, one in enumerate(given) if not (one == "--set" and given[k + 1 : k + 2] == ["--set"])]
    assert main(["sweep", JOB, *given, *arguments, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "table.json").read_text())
    assert result["settings"]["sampling"]["modalities"] == ["t1ce", "flair"]
    assert result["rows"][0]["cell"]["missing"] == {"site-2": ["flair"]}
    assert "16 patients" in capsys.readouterr().out
    (tmp_path / "ours" / "cases.csv").write_text(
        (tmp_path / "ours" / "cases.csv").read_text().replace(",halo,", ",ring,", 1)
    )
    assert main(["sweep", JOB, *given, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "another data" in capsys.readouterr().err
    assert main(["sweep", JOB, *given, *arguments, "--out", str(tmp_path / "ours" / "x")]) == 2
    assert "inside the data folder" in capsys.readouterr().err


def test_settings_of_the_job_vary_over_hospitals_that_exist(
    tmp_path: Path, tiny: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from wardround.synthetic.phantoms import write_cohort

    entries = {}
    for index, name in enumerate(("here", "there")):
        write_cohort(tmp_path / name, hospital(index), 0, (20, 20, 20), 4)
        entries[name] = {"data": str(tmp_path / name)}
    sites = tmp_path / "sites.json"
    sites.write_text(json.dumps(entries))
    words = ["sweep", "brats_fedprox", *tiny, "--quick", "--sites-file", str(sites), "--out", str(tmp_path / "out")]
    over = ["--over", "lr=.01,.05", "--over", "algorithm.mu=0.01"]
    assert main([*words, *over]) == 0
    result = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["cell"]["set"] for row in result["rows"]] == [
        {"lr": ".01", "algorithm.mu": "0.01"},
        {"lr": ".05", "algorithm.mu": "0.01"},
    ]
    assert result["rows"][0]["mean"]["local"] != result["rows"][1]["mean"]["local"]
    assert set(result["rows"][0]["runs"][0]["sites"]) == {"here", "there"}
    assert "| settings |" in (tmp_path / "out" / "table.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "table.md").read_text()
    capsys.readouterr()
    assert main([*words, *over]) == 0
    assert "2 are finished already" in capsys.readouterr().err
    for wrong, said in (
        (["--over", "lr="], "--over"),
        (["--over", "lr=1,1"], "each value once"),
        (["--over", "lr=1", "--over", "lr=2"], "the same setting twice"),
        (["--over", "nonsense=1,2"], "no such setting"),
        (["--over", "task.seed=1,2"], "settings of training"),
        (["--scanner", "1"], "--scanner with --sites-file"),
        (["--data", "cheng", str(tmp_path)], "--data with --sites-file"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err


GRID = (*MORE, "--alpha", ".1", "--missing", "1")


def test_a_run_that_fails_is_named_the_others_are_kept_and_the_same_command_finishes(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = hospital_sweep.one_run

    def broken(setup: Any, source: Any, cell: Any, seed: int, *rest: Any) -> dict[str, Any]:
        if seed == 3:
            raise RuntimeError("no memory left")
        return whole(setup, source, cell, seed, *rest)

    words = ["sweep", JOB, *SMALL, *GRID, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "one_run", broken)
        assert main(words) == 1
    said = capsys.readouterr().err
    assert "seed 3 (1 of 2, 0 s) FAILED: RuntimeError: no memory left" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs", "sweep.json"}
    assert len(list((tmp_path / "out/runs").iterdir())) == 1
    assert main(words) == 0
    assert len(list((tmp_path / "out/runs").iterdir())) == 2
    for file in (tmp_path / "out/runs").iterdir():
        one, other = (json.loads(path.read_text()) for path in (file, out / "runs" / file.name))
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_runs_in_other_processes_are_the_same_runs(out: Path, tmp_path: Path) -> None:
    words = ["sweep", JOB, *SMALL, *GRID, "--backend", "loky", "--workers", "2", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert len(list((tmp_path / "out/runs").iterdir())) == 2
    for file in (tmp_path / "out/runs").iterdir():
        one, other = (json.loads(path.read_text()) for path in (file, out / "runs" / file.name))
        for site, row in one["sites"].items():
            # The number of threads may differ, and with it the order of float32 sums.
            assert row["val"] == pytest.approx(other["sites"][site]["val"], abs=1e-3)
