"""Builds the objects that NVFlare builds from a job's {"path", "args"} values, to use
them here or to try them.

Only classes are built that wardround ships, that a kit lists, or that the person at
this keyboard typed (job_classes.py). A job's folder is somebody else's text: building
what it names would run that person's choice of code before anybody has read it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from wardround.core.arrays import Layout
from wardround.core.errors import ConfigRefused
from wardround.core.traits import Fitting, require_fit
from wardround.jobs import first_weights
from wardround.jobs.federation_check import require_federation, require_majority, require_seed
from wardround.jobs.job import Job, Json
from wardround.jobs.job_classes import classes, shipped
from wardround.jobs.nearest import class_meant
from wardround.secagg.spec import LEAST_SITES

PARTS = ("model", "sampling", "model_selection", "phantoms")
LIST = "`wardround sites allow-list`"


def build(part: Json, what: str, also: Collection[str] = ()) -> Any:
    """Return the object that one {"path": class, "args": settings} describes.

    what: the name of this part in a refusal.
    also: classes that may be built beside the shipped ones, such as a kit's own list.

    A class on neither list, here or anywhere inside, a class that does not exist, and
    settings that it does not take are refused with ConfigRefused.
    """
    args = part.get("args") if isinstance(part, dict) else None
    if not isinstance(args, dict) or not isinstance(part.get("path"), str):
        raise ConfigRefused(
            f"the job's {what}",
            found=f"a {type(part).__name__} without a class and its settings",
            expected='{"path": class, "args": {settings}}',
            fix="print the job again with `wardround jobs write`",
        )
    require_listed(part, f"the job's {what}", also)
    # What stands inside is built first, as NVFlare does it.
    inside = {key: build(value, f"{what} ({key})", also) for key, value in args.items() if _is_part(value)}
    return _made(class_at(part["path"], what), part["path"], args | inside, what)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"path", "args"}


def require_listed(config: Any, what: str, also: Collection[str] = ()) -> None:
    """Raise ConfigRefused where a config names a class, at any depth, that is neither
    shipped nor in `also`.
    """
    if strangers := sorted(
        {path for path in classes(config) if path not in shipped() and path not in also},
    ):
        raise ConfigRefused(
            what,
            found=f"it names {', '.join(strangers)}, which was not built",
            expected=f"only classes that wardround ships ({LIST}), or that this kit lists",
            fix="do not run this job; ask who wrote it. A class of your own: add its full name to class_allow_list in "
            "local/resources.json of the kit, or type it (`wardround jobs write NAME --set model.path=...`)",
        )


def require_buildable(job: Job) -> None:
    """Raise ConfigRefused unless every object of the job can be built and all of them
    fit together. Failing here is better than failing at four sites at once.
    """
    from wardround.algorithms.federation import begin
    from wardround.training.joint_training import require_joint

    require_federation(job.federation)
    require_seed(job.task["seed"])
    parts = {name: build(job.task[name], name) for name in PARTS}
    schedule = build(job.federation["schedule"], "schedule")
    algorithm, sharing = build(job.algorithm["site"], "algorithm"), build(job.sharing, "sharing")
    require_fit(parts_of(job))
    _require_private_work(job, algorithm, schedule)
    if job.secagg is None:
        _require_no_step_check(job)
        require_majority(build(job.aggregation, "aggregation"), job.federation)
    else:
        secagg = build(job.privacy["secagg"], "secagg")
        if job.hospital_noise is not None or job.shares_noise:
            _require_noise_fits(job, secagg)
    patient_noise = job.dp is not None and job.dp["unit"] == "patient"
    _guarded(
        "network and sampling",
        lambda: _require_network_fits(parts["model"], parts["sampling"], patient_noise),
    )
    # After the channels: a network for another task has a reason of its own.
    first_weights.require_fit(parts["model"])
    _guarded(
        "algorithm and schedule",
        lambda: begin(algorithm, sharing, schedule.steps(0)),
    )
    # With a reason of its own where nothing is left to train.
    require_joint(algorithm, sharing, parts["model"], _charged(job))
    if sharing.home_roles:
        shared_layout(job)


def parts_of(job: Job) -> list[Fitting]:
    """Return the parts of a job whose traits must fit, in the order in which they meet
    an update.
    """
    from wardround.jobs.compat import chain

    return chain(
        build(job.algorithm["site"], "algorithm"),
        build(job.sharing, "sharing"),
        beside=job.fedavg_baseline,
        dp=None if job.dp is None else build(job.privacy["mechanism"]["args"]["promise"], "promise"),
        compression=None if job.compression is None else build(job.compression, "compression"),
        secagg=None if job.secagg is None else build(job.privacy["secagg"], "secagg"),
        aggregation=build(job.aggregation, "aggregation"),
        validation=None if job.validation is None else build(job.validation, "validation"),
        server_optimizer=build(job.server_optimizer, "server optimizer"),
        work_by_patients=build(job.federation["schedule"], "schedule").work_by_patients,
    )


def least_clients(job: Job) -> int:
    """Return the value to which `min_clients` may be lowered: what its secure sum or
    its aggregation needs, else 1.
    """
    if job.secagg is not None:
        return LEAST_SITES
    return int(getattr(build(job.aggregation, "aggregation"), "least_sites", 1))


def class_at(path: str, what: str) -> type:
    """Return the class at a full name. A function, a name that a module only imports,
    and a name that does not exist are refused with ConfigRefused.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigRefused(
            f"the job's {what}, {path}",
            found=f"no such class here ({error})",
            expected="the full name of a class that this Python can import",
            fix=f"{class_meant(path, _known(module))}name such a class, or install the package that holds it",
        ) from error
    if not inspect.isclass(found):
        raise ConfigRefused(
            f"the job's {what}, {path}",
            found=f"a {type(found).__name__}",
            expected="a class: nothing else is built from a job",
            fix="name a class",
        )
    return found


def _known(module: str) -> list[str]:
    """Return the full names of the classes that wardround ships and, where this module
    is loaded, of those that it defines.
    """
    there = vars(sys.modules[module]) if module in sys.modules else {}
    return [
        *shipped(),
        *(f"{module}.{name}" for name, one in there.items() if getattr(one, "__module__", "") == module),
    ]


def shared_layout(job: Job) -> Layout:
    """Return the layout of the blocks that leave a hospital. A job that shares no block
    is refused with ConfigRefused.
    """
    from wardround.models import roles

    module, home = (
        build(job.task["model"], "model").build(0),
        build(job.sharing, "sharing").home_roles,
    )
    layout = roles.shared_layout(module, home)
    if not layout.names:
        raise ConfigRefused(
            f"what job {job.name} shares",
            found=f"a network whose every block stays at home ({', '.join(home)})",
            expected="at least one block to share",
            fix="name other roles with --set sharing.home=[...], or, for adapters, --set model.adapter_rank=4",
        )
    return layout


def _made(kind: type, path: str, args: Mapping[str, Any], what: str) -> Any:
    """Return kind(**args). A refusal names the arguments that the class does not take
    or lacks, and those that it has.
    """
    known = inspect.signature(kind).parameters
    free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    unknown = [name for name in args if name not in known and not free]
    missing = [name for name, one in known.items() if one.default is one.empty and name not in args and not free]
    if unknown or missing:
        said = [f"unknown: {', '.join(unknown)}"] if unknown else []
        said += [f"missing: {', '.join(missing)}"] if missing else []
        raise ConfigRefused(
            f"the job's {what}, {path}",
            found="; ".join(said),
            expected=f"its settings: {', '.join(known) or 'none'}",
            fix="correct the names behind --set",
        )
    given = f"{', '.join(f'{key}={value!r}' for key, value in args.items()) or 'no settings'}"
    return _guarded(
        f"{what}, {path}, with {given}",
        lambda: kind(**args),
        own_words=path not in shipped(),
    )


def _guarded(what: str, work: Callable[[], Any], *, own_words: bool = False) -> Any:
    """Return work(). An error of Python becomes a ConfigRefused: a value has a type
    that nobody expected.

    own_words: whether the class is not ours, so that its author needs to read the
      error's own words.
    """
    try:
        return work()
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        LookupError,
        OSError,
    ) as error:
        said = f"{type(error).__name__}: {error}" if own_words else type(error).__name__
        raise ConfigRefused(
            f"the job's {what}",
            found=f"values that it cannot work with ({said})",
            expected="settings of the types that the recipe has",
            fix="compare with `wardround jobs settings JOB`, and correct --set",
        ) from error


def _require_network_fits(model: Any, sampling: Any, patient_noise: bool) -> None:
    """Refuse a network that a hospital would refuse: one for other channels or patches,
    or one without gradients of single patients where noise needs them.
    """
    from wardround.models.network_fit import READY_MADE, require_private
    from wardround.training.classification import CaseSampling
    from wardround.training.segmentation import Sampling
    from wardround.training.splitting import require_equal_weights, require_ids_decide

    sampling.require_network(model)
    if patient_noise and isinstance(sampling, CaseSampling):
        require_ids_decide(sampling.stratified)
        require_equal_weights(sampling.balanced)
    if patient_noise and isinstance(sampling, Sampling) and not isinstance(model, READY_MADE):
        require_private(model, sampling.network_inputs, sampling.size)


def _require_private_work(job: Job, algorithm: Any, schedule: Any) -> None:
    """Raise ConfigRefused where nobody has counted the private gradients of this
    algorithm, or where they are not whole steps.
    """
    from wardround.training.dp_training import private_plan

    if job.dp is not None and job.dp["unit"] == "patient" and not job.shares_noise:
        private_plan(algorithm, None, schedule, None)


def _require_no_step_check(job: Job) -> None:
    """Refuse a check of every step where the server applies it."""
    if job.validation is not None:
        raise ConfigRefused(
            f"a check of every step in job {job.name}",
            found="a job whose server reads the updates and applies the step itself",
            expected="a secure sum, whose every site applies it",
            fix="hide the sum (--set privacy=secagg_masks), or choose a robust aggregation (--set aggregation=rfa); "
            "--set validation=none leaves the check out",
        )


def _require_noise_fits(job: Job, secagg: Any) -> None:
    from wardround.flare.secagg_session import require_one_sum

    require_one_sum(build(job.privacy["mechanism"]["args"]["promise"], "noise"), secagg)
    if "scaling" in job.privacy:
        build(job.privacy["scaling"], "scaling").first(shared_layout(job))


def _charged(job: Job) -> Any:
    """Return the stage that a ledger charges, or None without differential privacy."""
    return None if job.dp is None else build(job.privacy["mechanism"], "mechanism")
