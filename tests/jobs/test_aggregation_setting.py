"""The aggregation of a plaintext job: named with `--set`, printed at the server, refused where it cannot work."""

import json
import re

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.jobs import folder, fragments, recipes, simulation
from wardround.jobs.building import build, require_buildable

NAMES = list(fragments.table()["aggregations"])
ENOUGH = {name: 5 if "krum" in name else 3 for name in NAMES}
SITES = [f"site-{n}" for n in range(1, 9)]


def mode(made):
    return folder.server_config(made)["workflows"][0]["args"]["mode"]["args"]


def about(made):
    return folder.server_config(made)["workflows"][0]["args"]["about"]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_printed_at_the_server_and_can_be_built(name):
    made = recipes.job("brats_fedavg", [f"aggregation={name}", f"federation.min_clients={ENOUGH[name]}"], SITES)
    require_buildable(made)
    row = fragments.table()["aggregations"][name]
    assert mode(made)["aggregation"] == row
    assert build(row, "aggregation").name
    assert folder.client_config(made) == folder.client_config(recipes.job("brats_fedavg", (), SITES))


def test_the_mean_is_what_is_printed_without_a_setting_and_a_report_does_not_speak_of_it():
    made = recipes.job("brats_fedavg")
    assert mode(made)["aggregation"] == {"path": "wardround.aggregation.mean.WeightedMean", "args": {}}
    assert not {"aggregation", "aggregation_class"} & about(made).keys()


def test_the_settings_of_the_rule_are_set_also_behind_mixing():
    settings = ["aggregation=mixed_rfa", "aggregation.f=2", "aggregation.mixing.far=9.0", "federation.min_clients=5"]
    made = recipes.job("brats_fedavg", settings, SITES)
    require_buildable(made)
    args = mode(made)["aggregation"]["args"]
    assert (args["then"]["args"]["f"], args["far"], args["then"]["args"]["far"]) == (2, 9.0, 4.0)
    assert about(made)["aggregation_class"] == "wardround.aggregation.mixing.Mixed"
    assert "f 2" in about(made)["aggregation"]["then"]


def test_a_report_says_which_aggregation_ran():
    made = recipes.job("brats_fedavg", ["aggregation=median", "federation.min_clients=3"])
    assert about(made)["aggregation"] == {"f": 1, "far": 4.0}
    assert about(made)["aggregation_class"] == "wardround.aggregation.median.CoordinateMedian"
    assert "| aggregation | f 1, far 4.0 |" in folder.job_files(made)["CARD.md"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mean"])
def test_too_low_a_min_clients_for_f_is_refused_with_the_command_that_mends_it(name, tmp_path, capsys):
    least = ENOUGH[name]
    few = ["--set", f"aggregation={name}", "--set", f"federation.min_clients={least - 1}", "--out", str(tmp_path)]
    few += ["--sites", ",".join(SITES)]
    assert main(["jobs", "write", "brats_fedavg", *few]) == 2
    assert f"--set federation.min_clients={least}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("min_clients", [2, 4, 5])
@pytest.mark.parametrize("command", ["write", "run"])
@pytest.mark.parametrize("name", ["krum", "multi_krum", "mixed_krum", "clipped_mean"])
def test_too_few_sites_for_f_are_refused_and_both_ways_out_can_be_typed(
    name, command, min_clients, tmp_path, capsys, monkeypatch
):
    """Four sites, as the recipe names them; clipped_mean tolerates f 2 with five."""
    monkeypatch.setattr(simulation, "stream", lambda *_: pytest.fail("started"))
    place = ["--out" if command == "write" else "-w", str(tmp_path / "new")]
    words = ["jobs", command, "brats_fedavg", *place, "--set", f"aggregation={name}"]
    words += ["--set", f"federation.min_clients={min_clients}"]
    words += ["--set", "aggregation.f=2"] if name == "clipped_mean" else []
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "at 4 sites" in said
    assert not list(tmp_path.iterdir())
    four, five = (re.findall(r"--set (\S+?)[`\s]", half) for half in said.split("to do:")[1].split("; with "))
    typed = [one for one in words if "=" in one]
    require_buildable(recipes.job("brats_fedavg", [*typed, *four]))
    require_buildable(recipes.job("brats_fedavg", [*typed, *five], SITES[:5]))


def test_two_sites_have_no_majority_and_the_mean_is_left(capsys):
    words = ["jobs", "write", "brats_fedavg", "--sites", "a,b", "--set", "aggregation=median"]
    assert main(words) == 2
    assert "--set aggregation=mean" in capsys.readouterr().err


@pytest.mark.parametrize("privacy", ["secagg_masks", "secagg_he", "secagg_ring", "fixed_point", "dp_adaptive"])
def test_a_secure_sum_cannot_be_read_by_a_rule(privacy):
    made = recipes.job("brats_fedavg", [f"privacy={privacy}", "aggregation=median", "fedavg_baseline=false"])
    with pytest.raises(ConfigRefused, match="nobody opens one by one"):
        require_buildable(made)


def test_an_unknown_row_is_refused_with_the_one_that_was_meant():
    with pytest.raises(ConfigRefused, match="did you mean median"):
        recipes.job("brats_fedavg", ["aggregation=medain"])


@pytest.mark.parametrize("setting", ["aggregation.f=-1", "aggregation.far=0.5", "aggregation.weight_cap=0.1"])
def test_a_field_that_makes_no_sense_is_refused(setting):
    made = recipes.job("brats_fedavg", ["aggregation=rfa", "federation.min_clients=3", setting])
    with pytest.raises(ConfigRefused, match="the aggregation"):
        require_buildable(made)


def test_a_folder_with_too_few_sites_for_f_is_refused_when_it_is_loaded(tmp_path):
    """Whoever edits the printed JSON meets the same refusal at the server."""
    made = recipes.job("brats_fedavg", ["aggregation=median", "federation.min_clients=3"])
    file = folder.write(made, tmp_path / made.name) / "app/config/config_fed_server.json"
    part = json.loads(file.read_text())["workflows"][0]["args"]["mode"]
    part["args"]["min_clients"] = 2
    with pytest.raises(ConfigRefused, match="min_clients 3 or more"):
        build(part, "mode", also=[part["path"]])


def test_a_rule_is_named_by_its_class_too_and_takes_the_settings_of_that_class():
    path = "wardround.aggregation.median.CoordinateMedian"
    settings = [f"aggregation.path={path}", "aggregation.f=2", "federation.min_clients=5"]
    made = recipes.job("brats_fedavg", settings, SITES)
    require_buildable(made)
    assert mode(made)["aggregation"] == {"path": path, "args": {"f": 2}}
