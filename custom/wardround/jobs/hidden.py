"""The two configs of a job with a hidden sum. Pure; same shape as folder.py's."""

from __future__ import annotations

from wardround.jobs.building import build
from wardround.jobs.recipes import Job, Json
from wardround.jobs.words import words

TASKS = ["join", "prepare", "train", "hop", "unmask", "finish"]


def server_workflow(job: Job, about: Json) -> Json:
    """Return the workflow: the controller of every job, in the mode in which it never holds a model."""
    mode = {
        "protection": job.privacy["protection"],
        "model": job.task["model"],
        "banks": job.banks,
        "home_roles": list(build(job.sharing, "sharing").home_roles),
    }
    args = {
        "mode": {"path": "wardround.flare.secagg_server.SecaggServer", "args": mode},
        "rounds": job.schedule["rounds"],
        "round_timeout_s": job.federation["round_timeout_s"],
        "step_timeout_s": job.federation["step_timeout_s"],
        "grace_s": job.federation["grace_s"],
        "about": {"config_type": "dict", **about},
    }
    return {"id": "rounds", "path": "wardround.flare.controller.ServerController", "args": args}


def site_parts(job: Job, trainer: Json) -> tuple[Json, Json, Json]:
    """Return (executor, exit, component that both share); trainer: the settings that every job's executor has."""
    scaling = {"scaling": job.privacy["scaling"]} if "scaling" in job.privacy else {}
    executor = {
        "path": "wardround.flare.secure_site.SecureSite",
        "args": {**trainer, "rule": job.rule, "banks": job.banks, **scaling},
    }
    noise = {"noise": job.hospital_noise} if job.hospital_noise else {}
    exit_args = {"mechanism": job.privacy["mechanism"], "words": words(job)}
    release = {"path": "wardround.flare.hidden_release.HiddenRelease", "args": exit_args}
    shared = {
        "id": "secure_sum",
        "path": "wardround.flare.secure_sum.SecureSum",
        "args": {"protection": job.privacy["protection"], "seed": job.task["seed"], **noise},
    }
    return executor, release, shared
