"""NVFlare's job export keeps an argument only if the object keeps it under the same name, and drops defaults.

So every class that a job names keeps every argument, and a promise (what a site or a reviewer relies on) has no default.
"""

import inspect
import json

import pytest

# No promises: a rival is trained beside the job or not; the aggregator's id is a name inside one config; the network's
# settings are covered by the architecture's fingerprint, which both sides compare.
MAY_HAVE_DEFAULTS = {"SiteTrainer.rival", "Rounds.aggregator_id"} | {
    f"UNet3d.{name}" for name in ("channels", "residual_units", "norm", "dropout")
}


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
    assert found == MAY_HAVE_DEFAULTS


def test_jobs_say_everything_but_names(ours):
    """Even an argument that may be left out is printed, except the rival where there is none and the aggregator's id."""
    for one in ours:
        missing = {f"{one.cls.__name__}.{p.name}" for p in parameters(one.cls) if p.name not in one.args}
        assert missing <= {"SiteTrainer.rival", "Rounds.aggregator_id"}, str(one)


def without_defaults(value):
    """Return a config's component as NVFlare prints it: arguments equal to their default are left out."""
    if not isinstance(value, dict):
        return value
    if "path" not in value:
        return {name: part for name, part in value.items() if name != "config_type"}
    name = value["path"].rpartition(".")[2]
    args = {
        key: without_defaults(part) for key, part in value["args"].items() if name != "UNet3d" or part != DEFAULTS[key]
    }
    return {"path": value["path"], "args": args}


DEFAULTS = {"channels": [16, 32, 64], "residual_units": 1, "norm": "instance", "dropout": 0.0}


@pytest.mark.parametrize("name", ["brats_perfedavg", "brats_scaffold", "brats_fedopt"])
def test_nvflare_exports_the_same_job(name, repository, ours, tmp_path):
    from nvflare.job_config.api import FedJob

    mine = {one.path: one for one in ours if one.job == name}
    site, rounds, combine = (
        mine[f"wardround.flare.{path}"] for path in ("site.SiteTrainer", "rounds.Rounds", "combine.Combine")
    )
    job = FedJob(name, min_clients=2)
    job.to_server(rounds.build(), id="rounds")
    job.to_server(combine.build(), id="combine")
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
    assert [part for part in server["components"] if part["id"] == "combine"] == [
        {"id": "combine", "path": combine.path, "args": {}}
    ]
