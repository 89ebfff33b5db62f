import inspect

import pytest

from wardround.flare import secagg_messages
from wardround.flare.controller import ServerController
from wardround.flare.executor import SiteExecutor
from wardround.flare.outbound import ID, Outbound
from wardround.flare.outbound_filter import OutboundFilter
from wardround.flare.secagg_server import SecAggJobServer
from wardround.jobs import folder, recipes, secagg_jobs


@pytest.fixture
def job():
    return recipes.job("brats_perfedavg", ["privacy=secagg_ring", "num_rounds=5", "federation.round_timeout_s=99"])


def site_parts(job):
    """Return (executor, outbound filter, the component that both read) of the client's config."""
    client = folder.client_config(job)
    (executor,), (filters,) = client["executors"], client["task_result_filters"]
    (outbound_filter,) = filters["filters"]
    return executor["executor"], outbound_filter, next(one for one in client["components"] if one["id"] == ID)


def test_the_tasks_are_those_that_travel():
    assert tuple(secagg_jobs.TASKS) == secagg_messages.TASKS


def test_every_argument_is_said(job):
    """All but the ids, which have one name in these configs."""
    workflow = secagg_jobs.server_workflow(job, {"job": job.name})
    executor, outbound_filter, shared = site_parts(job)
    server = [(workflow["args"]["mode"], SecAggJobServer), (workflow, ServerController)]
    parts = [(executor, SiteExecutor), (outbound_filter, OutboundFilter), (shared, Outbound)]
    for part, cls in [*server, *parts]:
        assert part["path"] == f"{cls.__module__}.{cls.__qualname__}"
        inspect.signature(cls).bind(**part["args"])
        assert set(inspect.signature(cls).parameters) - set(part["args"]) <= {
            "scaling",
            "validation",
            "_args",
            "_kwargs",
            "args",
            "kwargs",
        }


def test_the_shared_component_has_the_id_that_both_look_for(job):
    _, _, shared = site_parts(job)
    assert shared["id"] == ID
    assert [part["id"] for part in folder.client_config(job)["components"]] == ["made_with", ID, "analytics"]


def test_settings_arrive(job):
    args = secagg_jobs.server_workflow(job, {"job": job.name})["args"]
    assert (args["num_rounds"], args["round_timeout_s"]) == (5, 99)
    assert args["step_timeout_s"] >= 1
    assert args["about"] == {"config_type": "dict", "job": job.name}


def test_the_sites_do_what_a_server_does_in_plaintext(job):
    """The rule and the seed stand at the sites; of the variables the server knows the names, for the length of an update."""
    executor, _, _ = site_parts(job)
    assert secagg_jobs.site_settings(job) == {
        "server_optimizer": job.server_optimizer,
        "variables": ["model", "fedavg"],
    }
    assert executor["args"] == job.trainer | secagg_jobs.site_settings(job)
    server = secagg_jobs.server_workflow(job, {})["args"]
    mode = server["mode"]["args"]
    assert not {"server_optimizer", "seed", "algorithm"} & {*server, *mode}
    assert (mode["variables"], mode["home_roles"]) == (["model", "fedavg"], [])


def test_no_aggregator_at_the_server(job):
    server = folder.server_config(job)
    assert [part["id"] for part in server["components"]] == ["made_with", "tensorboard"]
