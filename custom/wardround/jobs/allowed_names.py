"""The names that a job lets out of a hospital: those of its task and, where it masks, the blocks of its network."""

from __future__ import annotations

from wardround.core.traits import STEADY
from wardround.jobs.building import build
from wardround.jobs.recipes import Job
from wardround.messages.allowed_names import label_name


def allowed_names(job: Job) -> list[str]:
    """Return what the exit in the job's folder lists; a hospital reads there which words can leave.

    Images, classes, kinds of masks and scores of the task (messages/allowed_names.py). The server accepts the same names.
    under hospital-level noise the kind of masks alone | in a secure sum no block's name
    """
    sampling = build(job.task["sampling"], "sampling")
    if job.hospital_noise is not None:
        return [label_name(kind) for kind in sampling.kinds]
    masked = job.secagg is None and STEADY in build(job.sharing, "sharing").traits.breaks
    return [*sampling.allowed_names, *(_blocks(job) if masked else ())]


def _blocks(job: Job) -> list[str]:
    from wardround.models.blocks import blocks_of

    return list(
        dict.fromkeys(
            blocks_of(
                build(job.task["model"], "model").build(job.task["seed"]),
            ).values(),
        ),
    )
