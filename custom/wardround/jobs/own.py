"""Classes that a person typed into a job (`--set model.path=...`, `algorithm.path`, `rule.path`), made parts of it."""

from __future__ import annotations

from dataclasses import replace

from wardround.jobs.job import Job, Json, Typed

ANY_NETWORK = "wardround.models.any_network.AnyNetwork"
_OURS = "batch_norms"


def finished(job: Job) -> Job:
    """Return the job with what its typed classes say of themselves; a class that is not there: ConfigRefused."""
    made = job
    if isinstance(job.task["model"], Typed):
        made = replace(made, task=job.task | {"model": _network(job.task["model"])})
    if isinstance(job.algorithm["site"], Typed):
        row = _algorithm(job.algorithm)
        made = replace(made, algorithm=row, title=row["title"])
    return made


def _network(part: Typed) -> Typed:
    """Return a network's settings as they are; a plain nn.Module: as AnyNetwork, which builds it from the job's seed."""
    from torch import nn

    from wardround.jobs.building import class_at

    if not issubclass(class_at(part["path"], "model"), nn.Module):
        return part
    args = {key: value for key, value in part["args"].items() if key != _OURS}
    chosen = {key: value for key, value in part["args"].items() if key == _OURS}
    return Typed(path=ANY_NETWORK, args={"network": [Typed(path=part["path"], args=args)], **chosen})


def _algorithm(algorithm: Json) -> Json:
    """Return an algorithm's row with the name, banks and home of the class that was typed."""
    from wardround.jobs.building import build

    part = algorithm["site"]
    built = build(part, "algorithm")
    home = ", ".join(built.home_roles)
    return algorithm | {
        "title": str(built.name),
        "source": f"the class {part['path']}, chosen with --set algorithm.path",
        "banks": list(built.banks),
        "stays": f"the parts of the network with the role {home}" if home else "nothing; all of it is shared",
        "words": f"A local algorithm of its own: {part['path']}.",
    }
