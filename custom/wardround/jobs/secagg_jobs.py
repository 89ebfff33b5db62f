"""What the two configs of a job with secure aggregation have of their own. Pure, in the
same form as folder.py.
"""

from __future__ import annotations

from wardround.jobs.allowed_names import allowed_names
from wardround.jobs.building import build
from wardround.jobs.recipes import Job, Json

# In the order of the protocol. A site's NVFlare runs only tasks that its config lists.
TASKS = ["join", "prepare", "train", "hop", "unmask", "finish"]


def server_workflow(job: Job, about: Json) -> Json:
    """Return the workflow: the controller of every job, in the mode in which the server
    never holds a model.
    """
    mode = {
        "secagg": job.privacy["secagg"],
        "model": job.task["model"],
        "variables": job.variables,
        "home_roles": list(build(job.sharing, "sharing").home_roles),
        "allowed_names": allowed_names(job),
        # NVFlare turns an undefined variable into None: what a job has not is written as this word.
        "compression": job.compression or "none",
    }
    args = {
        "mode": {"path": "wardround.flare.secagg_server.SecAggJobServer", "args": mode},
        "num_rounds": job.schedule["num_rounds"],
        "round_timeout_s": job.federation["round_timeout_s"],
        "step_timeout_s": job.federation["step_timeout_s"],
        "wait_time_after_min_received": job.federation["wait_time_after_min_received"],
        "about": {"config_type": "dict", **about},
    }
    return {
        "id": "rounds",
        "path": "wardround.flare.controller.ServerController",
        "args": args,
    }


def site_settings(job: Job) -> Json:
    """Return what the executor needs beside the settings of every job: the work that a
    server does in plaintext jobs.
    """
    scaling = {"scaling": job.privacy["scaling"]} if "scaling" in job.privacy else {}
    checked = {} if job.validation is None else {"validation": job.validation}
    return {"server_optimizer": job.server_optimizer, "variables": job.variables, **scaling, **checked}
