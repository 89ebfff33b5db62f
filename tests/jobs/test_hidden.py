import inspect

import pytest

from wardround.flare import sealed
from wardround.flare.controller import ServerController
from wardround.flare.hidden_release import HiddenRelease
from wardround.flare.secagg_server import SecaggServer
from wardround.flare.secure_site import SecureSite
from wardround.flare.secure_sum import ID, SecureSum
from wardround.jobs import folder, hidden, recipes


@pytest.fixture
def job():
    return recipes.job("brats_perfedavg", ["privacy=ring", "rounds=5", "federation.round_timeout_s=99"])


def test_the_tasks_are_those_that_travel():
    assert tuple(hidden.TASKS) == sealed.TASKS


def test_every_argument_is_said(job):
    """All but the ids, which have one name in these configs."""
    workflow = hidden.server_workflow(job, {"job": job.name})
    executor, release, shared = hidden.site_parts(job, folder.client_config(job)["executors"][0]["executor"]["args"])
    server = {SecaggServer: workflow["args"]["mode"], ServerController: workflow}
    site = {SecureSite: executor, HiddenRelease: release, SecureSum: shared}
    for cls, part in (server | site).items():
        assert part["path"] == f"{cls.__module__}.{cls.__qualname__}"
        inspect.signature(cls).bind(**part["args"])
        assert set(inspect.signature(cls).parameters) - set(part["args"]) <= {"dp", "scaling", "noise"}


def test_the_shared_component_has_the_id_that_both_look_for(job):
    _, _, shared = hidden.site_parts(job, {})
    assert shared["id"] == ID
    assert [part["id"] for part in folder.client_config(job)["components"]] == ["made_with", ID, "analytics"]


def test_settings_arrive(job):
    args = hidden.server_workflow(job, {"job": job.name})["args"]
    assert (args["rounds"], args["round_timeout_s"]) == (5, 99)
    assert args["step_timeout_s"] >= 1
    assert args["about"] == {"config_type": "dict", "job": job.name}


def test_the_sites_do_what_a_server_does_in_the_clear(job):
    """The rule and the seed stand at the sites; of the banks the server knows the names, for the length of an update."""
    executor, _, _ = hidden.site_parts(job, {"seed": 0})
    assert executor["args"] == {"seed": 0, "rule": job.rule, "banks": ["model", "fedavg"]}
    server = hidden.server_workflow(job, {})["args"]
    mode = server["mode"]["args"]
    assert not {"rule", "seed", "algorithm"} & {*server, *mode}
    assert (mode["banks"], mode["home_roles"]) == (["model", "fedavg"], [])


def test_no_aggregator_at_the_server(job):
    server = folder.server_config(job)
    assert [part["id"] for part in server["components"]] == ["made_with", "tensorboard"]
