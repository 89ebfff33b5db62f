import json
import re
from pathlib import Path

import pytest

from wardround.cli.main import main
from wardround.jobs import recipes


def test_list_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == recipes.names()


def test_written_jobs_are_current_and_a_changed_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "write", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(recipes.names())
    assert main(["jobs", "check", "--out", str(tmp_path)]) == 0
    card = tmp_path / "brats_ditto" / "CARD.md"
    card.write_text(card.read_text() + "\n")
    capsys.readouterr()
    assert main(["jobs", "check", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("DIFFERS") == 1
    assert "brats_ditto" in out
    assert "CARD.md" in out
    assert main(["jobs", "check", "brats_fedavg", "--out", str(tmp_path)]) == 0
    assert main(["jobs", "check", "brats_ditto", "--out", str(tmp_path)]) == 1


def test_missing_binary_and_strange_files_are_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["jobs", "write", "--out", str(tmp_path)])
    (tmp_path / "brats_fedavg" / "meta.json").unlink()
    (tmp_path / "brats_fedbn" / "extra.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text("{}")
    capsys.readouterr()
    assert main(["jobs", "check", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("DIFFERS") == 3
    assert "extra.bin" in out
    assert "mine: no recipe" in out
    assert main(["jobs", "check", "--out", str(tmp_path / "absent")]) == 2


def test_settings_and_sites_reach_the_folder(tmp_path: Path) -> None:
    arguments = ["--set", "lr=1e-3", "--set", "algorithm.lam=2", "--sites", "mercy, st-john", "--out", str(tmp_path)]
    assert main(["jobs", "write", "brats_ditto", *arguments]) == 0
    folder = tmp_path / "brats_ditto"
    assert json.loads((folder / "meta.json").read_text())["deploy_map"] == {"app": ["server", "mercy", "st-john"]}
    client = json.loads((folder / "app/config/config_fed_client.json").read_text())
    site = client["executors"][0]["executor"]["args"]
    assert site["schedule"]["args"]["lr"] == 0.001
    assert site["algorithm"]["args"]["lam"] == 2
    assert main(["jobs", "write", "brats_ditto", "--all-sites", "--out", str(tmp_path)]) == 0
    assert json.loads((folder / "meta.json").read_text())["deploy_map"] == {"app": ["@ALL"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("brats_nothing",), "no such job"),
        (("brats_ditto", "--set", "colour=red"), "no such setting"),
        (("brats_ditto", "--set", "work"), "a name without a value"),
        (("brats_ditto", "--set", "work=["), "not YAML"),
        (("brats_ditto", "--set", "work=many"), "a whole number, as in the recipe: 40"),
        (("brats_ditto", "--set", "work=0"), "local steps"),
        (("brats_ditto", "--set", "task.model=5"), "no such setting"),
        (("brats_ditto", "--set", "model.path=os.nothing"), "os.nothing"),
        (
            ("brats_ditto", "--set", "model.path=wardround.models.nets.Unett"),
            "did you mean wardround.models.nets.UNet3d?",
        ),
        (("brats_ditto", "--set", "model.path=Segresnet"), "did you mean wardround.models.nets.SegResNet3d?"),
        (
            ("brats_ditto", "--set", "model.path=monai.networks.nets.SegResnet"),
            "did you mean monai.networks.nets.SegResNet,",
        ),
        (
            ("brats_ditto", "--set", "algorithm.path=wardround.algorithms.ditto.Dito"),
            "wardround.algorithms.ditto.Ditto",
        ),
        (("brats_ditto", "--set", "model.wings=2"), "wings"),
        (("brats_ditto", "--set", "algorithm.lam=-1"), "Ditto"),
        (("brats_ditto", "--sites", "a,a"), "different names"),
        (("brats_ditto", "--sites", "a,server"), "different names"),
        (("brats_ditto", "--sites", "a"), "lower min_clients with `--set federation.min_clients=1`"),
        (
            ("brats_ditto", "--set", "federation.min_clients=5"),
            "lower min_clients with `--set federation.min_clients=4`",
        ),
        (("brats_fedavg_he", "--sites", "a,b"), "to do:    name 3 sites or more with --sites\n"),
    ],
)
def test_wrong_jobs_are_refused_and_nothing_is_written(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "write", *arguments, "--out", str(tmp_path / "jobs")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ["compression=top_k", "compression.share=2.0"],
        ["compression=rand_k", "compression.period=1"],
        ["compression=quantise", "compression.bits=3"],
        ["privacy=secagg_masks", "compression=low_rank", "compression.rank=0"],
        ["model_selection.steps=[1]"],
        ["sampling.task.missed_mm=-1"],
        ["work=0"],
    ],
)
def test_the_advice_of_a_refused_setting_can_be_typed(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["jobs", "write", "brats_fedavg", "--out", str(tmp_path / "out")]
    words += [word for one in settings for word in ("--set", one)]
    assert main(words) == 2
    fix = capsys.readouterr().err.split("to do:")[1]
    ways = [word.rstrip(",") for word in re.findall(r"--set (\S+)", fix.partition("; ")[0].partition(", or ")[0])]
    assert ways
    assert main([*words, *(word for one in ways for word in ("--set", one))]) == 0, fix


def test_a_second_network_can_be_asked_for(tmp_path: Path) -> None:
    path = "model.path=wardround.models.nets.SegResNet3d"
    out = ["--out", str(tmp_path)]
    assert main(["jobs", "write", "brats_fedavg", "--set", path, "--set", "model.filters=8", *out]) == 0
    server = json.loads((tmp_path / "brats_fedavg/app/config/config_fed_server.json").read_text())
    assert server["workflows"][0]["args"]["mode"]["args"]["model"]["args"] == {"filters": 8}


@pytest.mark.parametrize("name", ["brats_fedavg", "tumour_type_mmpfl_adp"])
def test_the_settings_begin_with_every_choice_that_set_takes_by_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", "settings", name, "--set", "compression=half"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = recipes.row_of(name, ["compression=half"])
    assert row["compression"] == "half"
    told = [line for line in lines if "(one of " in line]
    assert told == [f"{kind} = {row[kind]}  (one of {', '.join(names)})" for kind, names in recipes.choices().items()]


@pytest.mark.parametrize(("kind", "names"), list(recipes.choices().items()))
def test_every_choice_of_the_page_can_be_typed(kind: str, names: list[str]) -> None:
    for name in names:
        assert recipes.row_of("brats_fedavg", [f"{kind}={name}"])[kind] == name
        recipes.job("brats_fedavg", [f"{kind}={name}"])


def test_a_privacy_that_is_none_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "write", "brats_fedavg", "--set", "privacy=secagg"]) == 2
    assert "did you mean secagg_he, secagg_ring, secagg_masks?" in capsys.readouterr().err
