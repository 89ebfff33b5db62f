"""Where do the curves of a run go at the server? To NVFlare's own receivers, which the
job's federation fragment names.
"""

from __future__ import annotations

from wardround.core.errors import ConfigRefused
from wardround.jobs.recipes import Job, Json

EVENTS = ["fed.analytix_log_stats"]
RECEIVERS = {
    "tensorboard": "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "mlflow": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
}


def receivers(job: Job) -> list[Json]:
    """Return the components that `federation.tracking` names. Each of them receives one
    curve per site and number.

    `mlflow` writes to the MLflow server at `federation.mlflow_uri` or, where that is
    null, to a file mlflow.db beside the job's result. It needs the package mlflow at
    the server. Another name, and a uri that nobody reads, are refused with
    ConfigRefused.
    """
    names, uri = job.federation["tracking"], job.federation["mlflow_uri"]
    known = isinstance(names, list) and set(names) <= RECEIVERS.keys() and len(set(names)) == len(names)
    if not known or not isinstance(uri, str | None) or (uri and "mlflow" not in names):
        raise ConfigRefused(
            f"the tracking of job {job.name}",
            found=f"tracking {names!r}, mlflow_uri {'given' if uri else 'null'}",
            expected=f"a list of {', '.join(RECEIVERS)}, each once, and a text as mlflow_uri only with mlflow",
            fix="--set federation.tracking=[tensorboard] (or [mlflow], or both, or [])",
        )
    more = {"mlflow": {"tracking_uri": uri, "kw_args": {"experiment_name": job.name}}}
    return [
        {
            "id": name,
            "path": RECEIVERS[name],
            "args": {"events": EVENTS, **more.get(name, {})},
        }
        for name in names
    ]
