"""Makes parts of a job of the classes that a person typed (`--set model.path=...`,
`algorithm.path`, `sharing.path`).

The words about an algorithm and what it shares come from the very values that the job
holds.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

from wardround.core.errors import ConfigRefused
from wardround.jobs.job import OF_MONAI, Job, Json, Typed, is_monai_path
from wardround.jobs.nearest import class_meant

MONAI_NETWORK = "wardround.models.monai_network.MonaiNetwork"
ANY_NETWORK = "wardround.models.any_network.AnyNetwork"
_BATCH_NORMS = "batch_norms"
# Settings of MonaiNetwork itself beside those of the network that it names.
_OURS = (_BATCH_NORMS, "weights")


def finished(job: Job, sharing: Json, named: str | None, server: Json | None = None) -> Job:
    """Return the job with what its typed classes say about themselves, and with a
    title. A class that does not exist is refused with ConfigRefused.

    sharing: the recipe's row.
    named: the name of this algorithm with this sharing and this server optimizer, or
      None where they have none. Both count only as long as no setting has made the job
      another one.
    server: the row of the server optimizer, where it is not the algorithm's own.
    """
    made = job
    model = job.task["model"]
    if is_monai_path(model["path"]):
        made = replace(
            made,
            task=job.task | {"model": _of_monai(model, job.task["sampling"])},
        )
    elif isinstance(model, Typed):
        made = replace(made, task=job.task | {"model": _network(model)})
    typed = isinstance(job.algorithm["site"], Typed)
    row = _algorithm(job.algorithm) if typed else job.algorithm
    server = None if isinstance(job.server_optimizer, Typed) else server
    return _described(replace(made, algorithm=row), sharing, None if typed else named, server)


def _described(job: Job, sharing: Json, named: str | None, server: Json | None) -> Job:
    """Return the job with the title, source and words of its algorithm together with
    its sharing and, where it is not the algorithm's own, its server optimizer.
    """
    from wardround.jobs.building import build

    row, chosen = job.algorithm, build(job.sharing, "sharing")
    hessian = row["site"]["args"].get("hessian")
    title = f"{row['title']} ({hessian})" if hessian else row["title"]
    same = (job.sharing["path"], chosen.title) == (
        sharing["part"]["path"],
        build(sharing["part"], "sharing").title,
    )
    sources, words = [row["source"]], [row["description"]]
    if same:
        sources += [sharing["source"]] if "source" in sharing else []
        words += [sharing["description"]] if "description" in sharing else []
    else:
        sources.append(f"{job.sharing['path']}, chosen with --set")
        words += [f"What stays at the hospital: {chosen.stays}."] if chosen.stays else []
    if server is not None:
        sources, words = [*sources, server["source"]], [*words, server["description"]]
    if beside := [one for one in (chosen.title, server["title"] if server else "") if one]:
        title = named if same and named else ", ".join([title, *beside])
    return replace(
        job,
        title=title,
        algorithm=row | {"source": "; ".join(sources), "description": " ".join(words)},
    )


def _of_monai(part: Json, sampling: Json) -> Json:
    """Return MonaiNetwork with the name and arguments of a MONAI network. Channels that
    are not given are those of the task. A name that MONAI does not have is refused with
    ConfigRefused.
    """
    from wardround.jobs.building import build
    from wardround.models.monai_network import known_networks, network_class

    args = {key: value for key, value in part["args"].items() if key not in _OURS}
    chosen = {key: value for key, value in part["args"].items() if key in _OURS}
    kind = network_class(part["path"])
    if kind is None:
        raise ConfigRefused(
            f"the job's MONAI network, {part['path']}",
            found="no such network in the MONAI that is installed here",
            expected=f"the name of a network class, {OF_MONAI}NAME",
            fix=f"{class_meant(part['path'], known_networks())}`--set model.path={OF_MONAI}NAME` (docs/extending.md)",
        )
    if "classes" not in sampling["args"]:
        task = build(sampling, "sampling")
        given = {
            "spatial_dims": 3,
            "in_channels": task.network_inputs,
            "out_channels": task.regions,
        }
        known = inspect.signature(kind).parameters
        args = {key: value for key, value in given.items() if key in known} | args
    return {
        "path": MONAI_NETWORK,
        "args": {"network": part["path"], "args": args, **chosen},
    }


def _network(part: Typed) -> Typed:
    """Return a network's settings as they are. A plain nn.Module is wrapped in
    AnyNetwork, which builds it from the job's seed.
    """
    from torch import nn

    from wardround.jobs.building import class_at

    kind = class_at(part["path"], "model")
    if not issubclass(kind, nn.Module):
        _require(kind, part["path"], "model", "build", "an nn.Module, or settings with build(seed) (models/nets.py)")
        return part
    args = {key: value for key, value in part["args"].items() if key != _BATCH_NORMS}
    chosen = {key: value for key, value in part["args"].items() if key == _BATCH_NORMS}
    return Typed(
        path=ANY_NETWORK,
        args={"network": [Typed(path=part["path"], args=args)], **chosen},
    )


def _require(kind: type, path: str, what: str, method: str, expected: str) -> None:
    """Raise ConfigRefused for a class without the one method that this part of a job
    needs: building it could do anything, and would be no such part.
    """
    if not callable(getattr(kind, method, None)):
        raise ConfigRefused(
            f"the job's {what}, {path}",
            found=f"a class without {method}, which was not built",
            expected=expected,
            fix="name such a class (docs/extending.md)",
        )


def _algorithm(algorithm: Json) -> Json:
    """Return an algorithm's row with the name and variables of the class that was
    typed.
    """
    from wardround.jobs.building import build, class_at

    part = algorithm["site"]
    kind = class_at(part["path"], "algorithm")
    _require(kind, part["path"], "algorithm", "train", "an algorithm with train (algorithms/base.py)")
    built = build(part, "algorithm")
    others = {key: value for key, value in algorithm.items() if key != "keeps"}
    return others | {
        "title": str(built.name),
        "source": f"the class {part['path']}, chosen with --set algorithm.path",
        "variables": list(built.variables),
        "description": f"A local algorithm of its own: {part['path']}.",
    }
