"""The folders under jobs/ are what the recipes print, and every class they name exists and takes their arguments."""

import inspect
import json
import re

import pytest

from wardround import __version__
from wardround.core.errors import ConfigRefused
from wardround.jobs import folder, recipes

# What a site has to allow for these jobs to run (the source of an allow-list): nothing else is ever built from a config.
SECAGG = {
    "wardround.flare.secagg_server.SecAggJobServer",
    "wardround.secagg.spec.SecAggSpec",
}
HOSPITAL = {
    "wardround.dp.hospital_dp.HospitalDP",
    "wardround.dp.hospital_release.HospitalRelease",
    "wardround.dp.scaling.Scaling",
}
JOINT = {
    "wardround.algorithms.patient_steps.PatientSteps",
    "wardround.algorithms.train_only.TrainOnly",
    "wardround.dp.joint_dp.JointDP",
    "wardround.dp.joint_release.JointRelease",
}
OPEN = {
    "wardround.flare.curves.CurveSender",
    "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "wardround.algorithms.ditto.Ditto",
    "wardround.algorithms.fedavg.FedAvg",
    "wardround.algorithms.fedprox.FedProx",
    "wardround.algorithms.sharing.Everything",
    "wardround.algorithms.sharing.Roles",
    "wardround.algorithms.alternating.Alternating",
    "wardround.algorithms.klmask.KLMask",
    "wardround.algorithms.mr_mtl.MRMTL",
    "wardround.algorithms.per_fedavg.PerFedAvg",
    "wardround.algorithms.server_optimizers.FedAdam",
    "wardround.algorithms.server_optimizers.FedAvgM",
    "wardround.algorithms.server_optimizers.FedYogi",
    "wardround.algorithms.server_optimizers.Mean",
    "wardround.algorithms.server_optimizers.MeanOfModels",
    "wardround.algorithms.scaffold.Scaffold",
    "wardround.algorithms.schedule.Schedule",
    "wardround.aggregation.mean.WeightedMean",
    "wardround.flare.controller.ServerController",
    "wardround.flare.executor.SiteExecutor",
    "wardround.flare.made_with.MadeWith",
    "wardround.flare.outbound.Outbound",
    "wardround.flare.outbound_filter.OutboundFilter",
    "wardround.flare.plaintext_server.PlaintextServer",
    "wardround.dp.patient_dp.PatientDP",
    "wardround.dp.patient_release.PatientRelease",
    "wardround.training.classification.CaseSampling",
    "wardround.training.evaluation.ModelSelection",
    "wardround.training.opening.TypePhantoms",
    "wardround.training.opening.Phantoms",
    "wardround.training.segmentation.Sampling",
    "wardround.models.nets.UNet3d",
    "wardround.models.vit.ViTFusion",
}
PER_HOSPITAL = ("brats_dp_adaptive", "tumour_type_mmpfl_adp")
USED = OPEN | SECAGG | HOSPITAL | JOINT
FILES = {
    "CARD.md",
    "meta.json",
    "app/config/config_fed_client.json",
    "app/config/config_fed_server.json",
    "app/custom/requirements.txt",
}


@pytest.mark.parametrize("name", recipes.names())
def test_printed_anew_it_is_the_same(name, repository, tmp_path):
    found = repository / "jobs" / name
    printed = folder.write(recipes.job(name), tmp_path / name)
    assert {str(path.relative_to(found)) for path in found.rglob("*") if not path.is_dir()} == FILES
    for file in FILES:
        assert (found / file).read_bytes() == (printed / file).read_bytes(), file


def test_a_changed_byte_is_found(tmp_path):
    made = recipes.job("brats_fedavg")
    printed = folder.write(made, tmp_path / made.name)
    folder.check(made, printed)
    file = printed / "app/config/config_fed_client.json"
    file.write_text(file.read_text().replace('"work"', '"wort"'))
    with pytest.raises(ConfigRefused, match=r"config_fed_client\.json"):
        folder.check(made, printed)


def test_every_job_and_nothing_else(repository):
    assert sorted(path.name for path in (repository / "jobs").iterdir()) == sorted(recipes.names())


def test_no_links(repository):
    """NVFlare zips a link as an empty folder, and the job then ends with exit code 0."""
    assert [path for path in (repository / "jobs").rglob("*") if path.is_symlink()] == []


@pytest.mark.parametrize("name", recipes.names())
def test_the_version_is_pinned(name, repository):
    assert re.findall(r'^version = "(.+)"$', (repository / "pyproject.toml").read_text(), re.MULTILINE) == [__version__]
    assert (repository / "jobs" / name / "app/custom/requirements.txt").read_text() == f"wardround=={__version__}\n"


def test_the_classes_used_are_exactly_these(named):
    assert {one.path for one in named} == USED


def test_arguments_bind(named):
    for one in named:
        inspect.signature(one.cls).bind(**one.args)


def test_every_component_can_be_built(named):
    for one in named:
        assert isinstance(one.build(), one.cls), str(one)


def configs(repository, name):
    folder = repository / "jobs" / name / "app" / "config"
    return (json.loads((folder / f"config_fed_{side}.json").read_text()) for side in ("server", "client"))


def kind(name):
    return recipes.job(name).privacy["kind"]


def test_every_job_is_of_one_kind():
    assert {name: kind(name) for name in recipes.names() if kind(name) != "plaintext"} == {
        "brats_fedavg_fixed": "secagg",
        "brats_fedavg_secagg": "secagg",
        "brats_fedavg_he": "secagg",
        "brats_perfedavg_he": "secagg",
        "brats_perfedavg_ring": "secagg",
        "brats_dp_adaptive": "secagg",
        "brats_dp_joint": "secagg",
        "tumour_type_mmpfl_adp": "secagg",
    }


@pytest.mark.parametrize("name", recipes.names())
def test_each_kind_uses_its_own_classes(name, named):
    """What a hospital has to allow for one job: none of another kind's doors."""
    found = {one.path for one in named if one.job == name}
    own = {"secagg": SECAGG, "plaintext": set()}[kind(name)]
    if name in PER_HOSPITAL:
        own = SECAGG | HOSPITAL
    elif name == "brats_dp_joint":
        own = SECAGG | JOINT
    assert own <= found
    assert not found & ((SECAGG | HOSPITAL | JOINT) - own)


@pytest.mark.parametrize("name", recipes.names())
def test_both_sides_agree(name, repository):
    """Rounds, network, seed, variables and protection stand in both configs: the server's numbers are the sites' numbers."""
    server, client = configs(repository, name)
    rounds, site = server["workflows"][0]["args"], client["executors"][0]["executor"]["args"]
    components = {one["id"]: one["args"] for one in (*server["components"], *client["components"])}
    assert rounds["num_rounds"] == site["schedule"]["args"]["num_rounds"]
    mode = rounds["mode"]["args"] if "mode" in rounds else rounds
    assert mode["model"] == site["model"]
    if kind(name) == "secagg":
        assert mode["secagg"] == components["outbound"]["secagg"]
        assert ("fedavg" in site["variables"]) == ("fedavg_baseline" in site)
    else:
        assert mode["seed"] == site["seed"]
        assert ("fedavg" in mode["variables"]) == ("fedavg_baseline" in site)


@pytest.mark.parametrize("name", recipes.names())
def test_what_leaves_is_promised_once(name, repository):
    """In the component `outbound`, over the rounds and the work that are run; no other part of a site repeats any of it."""
    _, client = configs(repository, name)
    site = client["executors"][0]["executor"]["args"]
    (promised,) = [one["args"] for one in client["components"] if one["id"] == "outbound"]
    assert set(promised) == {"privacy", "compression", "secagg", "allowed_names"}
    private = promised["privacy"] != "none"
    assert private == (name in {"brats_dp_patient", "brats_dp_joint", *PER_HOSPITAL})
    assert (promised["secagg"] != "none") == (kind(name) == "secagg")
    assert client["task_result_filters"][0]["filters"][0]["args"] == {}
    if private:
        args, schedule = promised["privacy"]["args"], site["schedule"]["args"]
        assert args["num_rounds"] == schedule["num_rounds"]
        assert args.get("work", schedule["work"]) == schedule["work"]
        assert args["accept_vacuous"] is False
        assert json.dumps(client).count("noise_multiplier") == 1
        assert "fedavg_baseline" not in site


@pytest.mark.parametrize("name", [name for name in recipes.names() if kind(name) == "secagg"])
def test_a_hidden_sum_is_what_its_name_says(name, repository):
    server, _ = configs(repository, name)
    promise = server["workflows"][0]["args"]["mode"]["args"]["secagg"]["args"]
    wanted = {
        "fixed": (False, False, False),
        "secagg": (True, False, False),
        "he": (False, True, False),
        "ring": (True, True, True),
        "adaptive": (True, False, False),
        "joint": (True, False, False),
        "adp": (True, False, False),
    }[name.rpartition("_")[2]]
    assert (promise["masks"], promise["encryption"], promise["ring"]) == wanted
    meta = json.loads((repository / "jobs" / name / "meta.json").read_text())
    assert promise["min_clients"] == meta["min_clients"] == 3
    assert promise["weights"] == ("equal" if name in (*PER_HOSPITAL, "brats_dp_joint") else "patients_in_sum")
    assert [part["id"] for part in server["components"]] == ["made_with", "tensorboard"], (
        "nothing that adds updates in the open"
    )


@pytest.mark.parametrize("name", recipes.names())
def test_the_exit_is_named_for_every_task(name, repository):
    """A filter for "*" never runs in NVFlare: the tasks of the executor and of the exit are listed and are the same."""
    _, client = configs(repository, name)
    (executor,) = client["executors"]
    exits = client["task_result_filters"]
    assert [task for exit_ in exits for task in exit_["tasks"]] == executor["tasks"]
    hidden = kind(name) == "secagg"
    tasks = ["join", "prepare", "train", "hop", "unmask", "finish"] if hidden else ["train", "finish"]
    assert executor["tasks"] == tasks
    for exit_ in exits:
        assert [one["path"] for one in exit_["filters"]] == ["wardround.flare.outbound_filter.OutboundFilter"]
