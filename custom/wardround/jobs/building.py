"""The objects that NVFlare builds from a job's {"path", "args"} values, built here: to use them, or to try them."""

from __future__ import annotations

import importlib
from typing import Any

from wardround.arrays import Layout
from wardround.errors import ConfigRefused
from wardround.jobs.recipes import Job, Json

PARTS = ("model", "sampling", "judging", "phantoms")


def build(part: Json, what: str) -> Any:
    """Return the object of one {"path": class, "args": settings}; `what` names it in a refusal.

    no such class, settings that it does not take or refuses: ConfigRefused
    """
    module, _, name = str(part["path"]).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)(**part["args"])
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigRefused(
            f"the job's {what}, {part['path']}",
            found=f"{', '.join(f'{key}={value!r}' for key, value in part['args'].items()) or 'no settings'} ({error})",
            expected="a class with these settings, of the types that the recipe has",
            fix="correct --set",
        ) from error


def require_buildable(job: Job) -> None:
    """Raise ConfigRefused unless every object of the job can be built: better here than at four sites at once."""
    for name in PARTS:
        build(job.task[name], name)
    build(job.federation["schedule"], "schedule")
    _require_sum_fits(job, build(job.algorithm["site"], "algorithm"))
    build(job.rule, "server rule")
    if job.protection is not None:
        protection = build(job.privacy["protection"], "protection")
        if job.hospital_noise is not None:
            _require_noise_fits(job, protection)


def shared_layout(job: Job) -> Layout:
    """Return the blocks that leave a hospital; none: ConfigRefused."""
    from wardround.models import roles

    module, home = build(job.task["model"], "model").build(0), build(job.algorithm["site"], "algorithm").home_roles
    layout = roles.shared_layout(module, home)
    if not layout.names:
        raise ConfigRefused(
            f"what job {job.name} shares",
            found=f"a network without {job.algorithm['site']['args'].get('share', 'such blocks')}",
            expected="at least one block to share",
            fix="share another part, or set model.adapter_rank",
        )
    return layout


def _require_sum_fits(job: Job, algorithm: Any) -> None:
    from wardround.algorithms.klmask import require_alone, require_zeros
    from wardround.flare.combine import require_enough

    if job.dp is not None or job.privacy["kind"] != "open":
        require_zeros(algorithm, job.privacy["title"])
        require_alone(algorithm, job.rival, job.privacy["title"])
    require_enough(job.absent, job.federation["min_sites"])  # type: ignore[arg-type]


def _require_noise_fits(job: Job, protection: Any) -> None:
    from wardround.flare.secure_sum import require_one_sum

    require_one_sum(build(job.hospital_noise or {}, "noise"), protection)
    build(job.privacy["scaling"], "scaling").first(shared_layout(job))
