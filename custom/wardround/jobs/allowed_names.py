"""Which names may a job let out of a hospital? Those of its task and, where it uses
masks of blocks, the blocks of its network.
"""

from __future__ import annotations

from wardround.core.traits import STEADY
from wardround.jobs.building import build
from wardround.jobs.recipes import Job
from wardround.messages.allowed_names import label_name


def allowed_names(job: Job) -> list[str]:
    """Return the names that the outbound filter in the job's folder lists. A hospital
    reads there which names can leave.

    They are the images, classes, kinds of masks and scores of the task
    (messages/allowed_names.py). Where noise is added to updates they are the kinds of masks
    alone; under secure aggregation no block's name is among them. The server accepts
    the same names.
    """
    sampling = build(job.task["sampling"], "sampling")
    if job.hospital_noise is not None or job.shares_noise:
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
