"""A job as the files of its folder: meta.json, the two configs, CARD.md and the pinned
requirement. Pure: values in, text out.
"""

from __future__ import annotations

import json
from pathlib import Path

from wardround import __version__
from wardround.core import files
from wardround.core.errors import ConfigRefused
from wardround.flare.reported_privacy import privacy_of
from wardround.flare.reported_settings import of_parts
from wardround.jobs import secagg_jobs
from wardround.jobs.allowed_names import allowed_names
from wardround.jobs.building import build
from wardround.jobs.card import card
from wardround.jobs.recipes import Job, Json
from wardround.jobs.tracking import receivers
from wardround.models import weights_words
from wardround.training.class_inputs import INPUTS

INSTALLED = {"version": __version__, "code": "installed"}
# NVFlare turns an undefined variable into None: what a job has not is written as this
# word.
NONE = "none"
MADE_WITH = {"id": "made_with", "path": "wardround.flare.made_with.MadeWith"}


def job_files(job: Job) -> dict[str, str]:
    """Return the text of every file of the job's folder, by its relative path."""
    return {
        "meta.json": printed(meta(job)),
        "app/config/config_fed_server.json": printed(server_config(job)),
        "app/config/config_fed_client.json": printed(client_config(job)),
        "app/custom/requirements.txt": f"wardround=={__version__}\n",
        "CARD.md": card(job),
    }


def write(job: Job, folder: Path) -> Path:
    """Write the job's folder and return it."""
    for name, text in job_files(job).items():
        files.write(folder / name, text)
    return folder


def check(job: Job, folder: Path) -> None:
    """Raise ConfigRefused unless the folder holds exactly what the recipe prints, byte
    for byte.
    """
    wanted = job_files(job)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    bytes_ = {name: text.encode() for name, text in wanted.items()}
    wrong = sorted(name for name in bytes_.keys() | found.keys() if bytes_.get(name) != found.get(name))
    if wrong:
        raise ConfigRefused(
            f"job folder {folder.name}",
            found=f"differences in {', '.join(wrong)}",
            expected="exactly what the recipe prints",
            fix=f"`wardround jobs write {job.name}`, or change app_configs/ and print it again",
        )


def meta(job: Job) -> Json:
    """Return NVFlare's meta.json.

    `deploy_map` is a list that begins with the server: from this form the simulator
    finds the names of the sites by itself.
    """
    sites = job.federation["sites"]
    deploy = ["@ALL"] if sites == ["@ALL"] else ["server", *sites]
    return {
        "name": job.name,
        "resource_spec": {},
        "deploy_map": {"app": deploy},
        "min_clients": job.federation["min_clients"],
    }


def server_config(job: Job) -> Json:
    """Return config_fed_server.json."""
    return made_with(_server_config(job), INSTALLED)


def client_config(job: Job) -> Json:
    """Return config_fed_client.json."""
    return made_with(_client_config(job), INSTALLED)


def made_with(config: Json, promise: Json) -> Json:
    """Return a config whose first component pins the version of the package. An older
    pin is removed.
    """
    # First in the list: NVFlare builds components in order, and another version must
    # stop before it builds anything else.
    others = [part for part in config["components"] if part.get("id") != MADE_WITH["id"]]
    return config | {"components": [{**MADE_WITH, "args": promise}, *others]}


def _server_config(job: Job) -> Json:
    plaintext = {
        "aggregation": job.aggregation,
        "compression": job.compression or NONE,
        "server_optimizer": job.server_optimizer,
        "model": job.task["model"],
        "variables": job.variables,
        "home_roles": list(build(job.sharing, "sharing").home_roles),
        "min_clients": job.federation["min_clients"],
        "seed": job.task["seed"],
        "allowed_names": allowed_names(job),
        "final_model": job.schedule["final_model"],
        **_inputs(job),
    }
    controller = {
        "mode": {
            "path": "wardround.flare.plaintext_server.PlaintextServer",
            "args": plaintext,
        },
        "num_rounds": job.schedule["num_rounds"],
        "round_timeout_s": job.federation["round_timeout_s"],
        "step_timeout_s": job.federation["step_timeout_s"],
        "wait_time_after_min_received": job.federation["wait_time_after_min_received"],
        "about": {"config_type": "dict", **about(job)},
    }
    workflow: Json = {
        "id": "rounds",
        "path": "wardround.flare.controller.ServerController",
        "args": controller,
    }
    return {
        "format_version": 2,
        "server": {
            # Seconds without a sign of a site after which the server takes it for gone.
            "heart_beat_timeout": 600,
            "task_request_interval": job.federation["task_request_interval_s"],
        },
        "task_data_filters": [],
        "task_result_filters": [],
        "workflows": [
            secagg_jobs.server_workflow(job, about(job)) if job.secagg else workflow,
        ],
        "components": [*receivers(job)],
    }


def _client_config(job: Job) -> Json:
    """Return a config with one executor, one outbound filter, and one component that
    says what leaves, which both read.
    """
    tasks = secagg_jobs.TASKS if job.secagg else ["train", "finish"]
    args = job.trainer | (secagg_jobs.site_settings(job) if job.secagg else {})
    executor = {"path": "wardround.flare.executor.SiteExecutor", "args": args}
    outbound_filter: Json = {
        "path": "wardround.flare.outbound_filter.OutboundFilter",
        "args": {},
    }
    return {
        "format_version": 2,
        "executors": [{"tasks": tasks, "executor": executor}],
        "task_data_filters": [],
        "task_result_filters": [{"tasks": tasks, "filters": [outbound_filter]}],
        "components": [
            {
                "id": "outbound",
                "path": "wardround.flare.outbound.Outbound",
                "args": outbound(job),
            },
            {
                "id": "analytics",
                "path": "wardround.flare.curves.CurveSender",
                "args": {},
            },
        ],
    }


def outbound(job: Job) -> Json:
    """Return everything that the job promises about what leaves a site. It is written
    once, and the executor and the outbound filter read it there.
    """
    return {
        "privacy": job.privacy["mechanism"],
        "compression": job.compression or NONE,
        "secagg": job.privacy.get("secagg", NONE),
        "allowed_names": allowed_names(job),
    }


def about(job: Job) -> Json:
    """Return what the report prints about the job's settings. A resumed run must have
    the same values.

    Every party computes the same from the two configs (flare/job_settings.py), and
    compares before it works.
    """
    dp = job.dp | {"delta": job.privacy["mechanism"]["args"]["delta"]} if job.dp else None
    secagg = job.privacy.get("secagg")
    settings = of_parts(
        job.trainer | (secagg_jobs.site_settings(job) if job.secagg else {}),
        server_optimizer=job.server_optimizer,
        aggregation=job.aggregation,
        compression=job.compression,
        secagg=secagg,
        dp=dp,
        min_clients=job.federation["min_clients"] if secagg is None else None,
    )
    words = {"score": job.task["score"], "privacy": privacy_of(dp, secagg)}
    if begins := weights_words.words(job.task["model"]):
        words["first weights"] = begins
    return {
        "job": job.name,
        "algorithm": job.title,
        **settings,
        **words,
    }


def _inputs(job: Job) -> Json:
    """Return what weights must say about the inputs and outputs of their network, for
    the server that writes them; {} where there is nothing to say.
    """
    args = job.task["sampling"]["args"]
    keys = INPUTS if "classes" in args else ("task",)
    described = {key: args[key] for key in keys if key in args}
    return {"inputs": {"config_type": "dict", **described}} if described else {}


def printed(value: Json) -> str:
    """Return a value as JSON, in the form in which every file of a job is printed."""
    return json.dumps(value, indent=2) + "\n"
