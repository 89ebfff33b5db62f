"""The check of every step in a secure sum: named with `--set`, printed at the sites, refused where it cannot work."""

import json

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.flare.job_settings import require_same
from wardround.jobs import folder, recipes
from wardround.jobs.building import build, require_buildable

PATH = "wardround.aggregation.validation.StepCheck"
ON = "validation=own_patients"


def executor(made):
    return folder.client_config(made)["executors"][0]["executor"]["args"]


def test_without_a_setting_no_file_speaks_of_it():
    made = recipes.job("brats_fedavg_secagg")
    assert made.validation is None
    assert all("validation" not in json.loads(text) for name, text in files_of(made))
    assert "validation" not in executor(made)
    assert folder.job_files(made) == folder.job_files(recipes.job("brats_fedavg_secagg", ["validation=none"]))


def files_of(made):
    return [(name, text) for name, text in folder.job_files(made).items() if name.endswith("json")]


@pytest.mark.parametrize(
    "name", ["brats_fedavg_secagg", "brats_perfedavg_ring", "brats_fedavg_he", "brats_fedavg_fixed"]
)
def test_it_is_printed_at_the_sites_and_told_in_the_report(name):
    made = recipes.job(name, [ON, "validation.margin=0.2", "validation.max_norm=3"])
    require_buildable(made)
    args = {"margin": 0.2, "floor": 0.5, "max_norm": 3}
    assert executor(made)["validation"] == {"path": PATH, "args": args}
    server, client = folder.server_config(made), folder.client_config(made)
    require_same(server, client)
    assert server["workflows"][0]["args"]["about"]["validation"] == args
    client["executors"][0]["executor"]["args"]["validation"]["args"]["margin"] = 0.9
    with pytest.raises(ConfigRefused, match="the report would say"):
        require_same(server, client)


def test_a_config_without_the_check_that_the_report_tells_of_is_refused():
    made = recipes.job("brats_fedavg_secagg", [ON])
    server, client = folder.server_config(made), folder.client_config(made)
    del client["executors"][0]["executor"]["args"]["validation"]
    with pytest.raises(ConfigRefused, match="validation"):
        require_same(server, client)


def test_the_card_says_what_it_does_and_what_it_does_not_stop():
    made = recipes.job("brats_fedavg_secagg", [ON, "validation.max_norm=3"])
    card = " ".join(folder.job_files(made)["CARD.md"].split())
    assert "one more evaluation in every round" in card
    assert "lowers the score by more than 0.1 to below 0.5" in card
    assert "shortens its update to a norm of 3" in card
    assert "nor a backdoor" in card
    assert "| validation | margin 0.1, floor 0.5, max_norm 3 |" in card


@pytest.mark.parametrize(
    ("job", "settings", "words"),
    [
        ("brats_fedavg", [ON], ["whose server reads the updates and applies the step itself", "privacy=secagg_masks"]),
        ("brats_dp_adaptive", [ON], ["no noise hides it", "--set validation=none"]),
        ("brats_dp_patient", [ON], ["no noise hides it", "--set validation=none"]),
        (
            "brats_fedavg_secagg",
            [ON, "compression=rand_k", "validation.max_norm=3.0"],
            ["whole updates, whose norm a site has bounded", "--set compression=none"],
        ),
        ("brats_dp_adaptive", ["compression=rand_k"], ["updates of which a part may leave later"]),
        ("brats_fedavg", ["compression=low_rank"], ["sites are sent weights and never hear the mean"]),
        ("brats_fedavg_secagg", ["validation=own_patient"], ["did you mean own_patients"]),
        ("brats_fedavg_secagg", ["validation.margin=0.1"], ["no such setting"]),
        ("brats_fedavg_secagg", [ON, "validation.margin=0.0"], ["with neither of them nothing is checked"]),
        ("brats_fedavg_secagg", [ON, "validation.floor=2.0"], ["0 < floor <= 1"]),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_printed(job, settings, words, tmp_path, capsys):
    given = [word for one in settings for word in ("--set", one)]
    assert main(["jobs", "write", job, "--out", str(tmp_path), *given]) == 2
    said = capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert all(word in " ".join(said.split()) for word in words), said


def test_settings_are_listed_with_what_they_mean(capsys):
    assert main(["jobs", "settings", "brats_fedavg_secagg", "--set", ON]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "validation.margin = 0.1 (a number)" in said
    assert "A hospital refuses a step that lowers its validation score by more than this" in said


def test_the_row_can_be_built():
    assert build(recipes.job("brats_fedavg_secagg", [ON]).validation, "validation").compares
