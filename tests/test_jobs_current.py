"""The folders under jobs/ are what the recipes print, and every class they name exists and takes their arguments."""

import inspect
import json
import re

import pytest

from wardround import __version__
from wardround.errors import ConfigRefused
from wardround.jobs import folder, recipes

# What a site has to allow for these jobs to run (the source of an allow-list): nothing else is ever built from a config.
USED = {
    "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "wardround.algorithms.ditto.Ditto",
    "wardround.algorithms.fedavg.FedAvg",
    "wardround.algorithms.fedbn.FedBN",
    "wardround.algorithms.fedprox.FedProx",
    "wardround.algorithms.fedrep.FedRep",
    "wardround.algorithms.per_fedavg.PerFedAvg",
    "wardround.algorithms.rules.FedAdam",
    "wardround.algorithms.rules.Mean",
    "wardround.algorithms.scaffold.Scaffold",
    "wardround.algorithms.schedule.Schedule",
    "wardround.flare.combine.Combine",
    "wardround.flare.release.InTheClear",
    "wardround.flare.release.Release",
    "wardround.flare.rounds.Rounds",
    "wardround.flare.site.SiteTrainer",
    "wardround.hospital.judging.Judging",
    "wardround.hospital.opening.Phantoms",
    "wardround.hospital.segmentation.Sampling",
    "wardround.models.nets.UNet3d",
}
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


@pytest.mark.parametrize("name", recipes.names())
def test_both_sides_agree(name, repository):
    """Rounds, network, seed and banks stand in both configs: the server's numbers are the sites' numbers."""
    config = repository / "jobs" / name / "app" / "config"
    server = json.loads((config / "config_fed_server.json").read_text())["workflows"][0]["args"]
    site = json.loads((config / "config_fed_client.json").read_text())["executors"][0]["executor"]["args"]
    assert server["rounds"] == site["schedule"]["args"]["rounds"]
    assert server["model"] == site["model"]
    assert server["seed"] == site["seed"]
    assert ("fedavg" in server["banks"]) == ("rival" in site)


@pytest.mark.parametrize("name", recipes.names())
def test_the_exit_is_named_for_every_task(name, repository):
    """A filter for "*" never runs in NVFlare: the tasks of the executor and of the exit are listed and are the same."""
    client = json.loads((repository / "jobs" / name / "app/config/config_fed_client.json").read_text())
    (executor,), (exit_,) = client["executors"], client["task_result_filters"]
    assert executor["tasks"] == exit_["tasks"] == ["train", "finish"]
    assert [one["path"] for one in exit_["filters"]] == ["wardround.flare.release.Release"]
