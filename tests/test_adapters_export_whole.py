"""NVFlare's job export keeps an argument only if the object keeps it under the same name, and drops defaults.

So every class that a job names keeps every argument, and a promise (what a site or a reviewer relies on) has no default.
"""

import inspect
import json

import pytest
from named_parts import Named

from wardround.core.run_log import flat
from wardround.jobs import secagg_jobs

# No promises: a rival is trained beside the job or not; the server's rule and the variables stand at sites of a secure sum
# only, which refuse every task without them; scales change what is learnt, never what is promised; ids are names inside one
# config; the network's settings are covered by the architecture's fingerprint, which both sides compare; how a classifier's
# images are augmented and its patients split changes what is learnt, never what is promised; a record is read,
# and what a classifier is given stands beside its weights, only where there is one; the least Dice, and the choice of the
# largest part, are for jobs that segment.
RIVALS = {
    f"SiteExecutor.{name}" for name in ("fedavg_baseline", "server_optimizer", "variables", "scaling", "validation")
}
NETWORK = {
    f"UNet3d.{name}"
    for name in (
        "channels",
        "residual_units",
        "norm",
        "dropout",
        "adapter_rank",
        "ehr_columns",
        "in_channels",
        "out_channels",
    )
}
NETWORK |= {f"ViTFusion.{name}" for name in ("depth", "fusion_depth", "weights", "patch", "tubelet", "stem")}
NETWORK |= {"UNet3d.weights"}
WHERE_THERE_IS_ONE = {
    "Sampling.columns",
    "Sampling.task",
    "PlaintextServer.inputs",
    "ModelSelection.least_dice",
    "ModelSelection.largest_component",
    "ModelSelection.least_volume",
    "Schedule.work_by_patients",
}
DRAWN = {f"CaseSampling.{name}" for name in ("augmentation", "stratified", "balanced")}
# Which models a hospital compares at home, and how it chooses: neither what leaves nor what is trained depends on it.
CHOICE = {"ModelSelection.blend", "ModelSelection.interpolate", "ModelSelection.rule"}
# How well a model is trained, and on how many phantoms where there is no data.
RECIPE = {"Schedule.final_model", "PlaintextServer.final_model", "Sampling.foreground_share"}
RECIPE |= {
    f"Phantoms.{name}" for name in ("train", "val", "test", "patients_vary", "hospitals_differ", "findings", "subtypes")
}
MAY_HAVE_DEFAULTS = RIVALS | NETWORK | DRAWN | WHERE_THERE_IS_ONE | CHOICE | RECIPE


@pytest.fixture(scope="module")
def ours(named):
    return [one for one in named if one.path.startswith("wardround.")]


def parameters(cls):
    found = inspect.signature(cls).parameters.values()
    assert all(p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL for p in found), cls
    return list(found)


def listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_every_argument_is_kept_under_its_name(ours):
    for one in ours:
        made = one.build()
        kept = vars(made)
        assert {p.name for p in parameters(one.cls)} <= set(kept), str(one)
        plain = {name: value for name, value in one.args.items() if not isinstance(value, dict)}
        assert {name: listed(kept[name]) for name in plain} == plain, str(one)
        nested = {name: value for name, value in one.args.items() if isinstance(value, dict) and "path" in value}
        for name, value in nested.items():
            cls = type(kept[name])
            assert f"{cls.__module__}.{cls.__qualname__}" == value["path"], str(one)


def test_a_promise_has_no_default(ours):
    found = {
        f"{one.cls.__name__}.{p.name}"
        for one in ours
        for p in parameters(one.cls)
        if p.default is not inspect.Parameter.empty
    }
    assert sorted(found ^ MAY_HAVE_DEFAULTS) == []


def test_jobs_say_everything_but_names(ours):
    """Even an argument that may be left out is printed, except the rival or the record where there is none."""
    for one in ours:
        missing = {f"{one.cls.__name__}.{p.name}" for p in parameters(one.cls) if p.name not in one.args}
        assert missing <= RIVALS | WHERE_THERE_IS_ONE, str(one)


def without_defaults(value):
    """Return a config's component as NVFlare prints it: arguments equal to their default are left out."""
    if not isinstance(value, dict):
        return value
    if "path" not in value:
        return {name: part for name, part in value.items() if name != "config_type"}
    made = Named("", value["path"], value["args"])
    kept, usual = vars(made.build()), {p.name: p.default for p in parameters(made.cls)}
    args = {
        key: flat(part) if key == "about" else without_defaults(part)
        for key, part in value["args"].items()
        if kept[key] != usual[key]
    }
    return {"path": value["path"], "args": args}


@pytest.mark.parametrize("name", ["brats_perfedavg", "brats_scaffold", "brats_fedopt"])
def test_nvflare_exports_the_same_job(name, repository, ours, tmp_path):
    from nvflare.job_config.api import FedJob

    mine = {one.path: one for one in ours if one.job == name}
    site, rounds = (
        mine[f"wardround.flare.{path}"] for path in ("executor.SiteExecutor", "controller.ServerController")
    )
    job = FedJob(name, min_clients=2)
    job.to_server(rounds.build(), id="rounds")
    job.to_clients(site.build(), tasks=["train", "finish"])
    job.export_job(str(tmp_path))
    config = tmp_path / name / "app" / "config"
    client = json.loads((config / "config_fed_client.json").read_text())["executors"][0]["executor"]
    server = json.loads((config / "config_fed_server.json").read_text())
    assert client == without_defaults({"path": site.path, "args": site.args})
    (workflow,) = server["workflows"]
    assert {"path": workflow["path"], "args": workflow["args"]} == without_defaults(
        {"path": rounds.path, "args": rounds.args}
    )


@pytest.mark.parametrize("name", ["brats_fedavg_fixed", "brats_perfedavg_ring", "brats_dp_adaptive"])
def test_nvflare_exports_the_same_hidden_job(name, ours, tmp_path):
    """Executor, exit and the component that both share, with the promise of the sum in it."""
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.defs import FilterType

    mine = {one.path.rpartition(".")[2]: one for one in ours if one.job == name}
    rounds, site, release, shared = (
        mine[cls] for cls in ("ServerController", "SiteExecutor", "OutboundFilter", "Outbound")
    )
    job = FedJob(name, min_clients=3)
    job.to_server(rounds.build(), id="rounds")
    job.to_clients(site.build(), tasks=secagg_jobs.TASKS)
    job.to_clients(shared.build(), id="outbound")
    job.to_clients(release.build(), tasks=secagg_jobs.TASKS, filter_type=FilterType.TASK_RESULT)
    job.export_job(str(tmp_path))
    config = tmp_path / name / "app" / "config"
    client = json.loads((config / "config_fed_client.json").read_text())
    server = json.loads((config / "config_fed_server.json").read_text())
    (executor,), (exit_,) = client["executors"], client["task_result_filters"]
    assert executor["tasks"] == secagg_jobs.TASKS
    assert sorted(exit_["tasks"]) == sorted(secagg_jobs.TASKS), "NVFlare keeps a filter's tasks in a set"
    found = {"site": executor["executor"], "release": exit_["filters"][0], "rounds": server["workflows"][0]}
    found["shared"] = next(part for part in client["components"] if part["id"] == "outbound")
    for one, key in ((site, "site"), (release, "release"), (rounds, "rounds"), (shared, "shared")):
        exported = {"path": found[key]["path"], "args": found[key]["args"]}
        assert exported == without_defaults({"path": one.path, "args": one.args}), key
