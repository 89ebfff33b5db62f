"""What the two configs of a job with a hidden sum have of their own. Pure; same shape as folder.py's."""

from __future__ import annotations

from wardround.jobs.building import build
from wardround.jobs.recipes import Job, Json

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


def site_settings(job: Job) -> Json:
    """Return the executor's settings beside those of every job: what a server does in plaintext jobs."""
    scaling = {"scaling": job.privacy["scaling"]} if "scaling" in job.privacy else {}
    return {"rule": job.rule, "banks": job.banks, **scaling}
