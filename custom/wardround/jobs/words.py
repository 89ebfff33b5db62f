"""The names that a job lets out of a hospital: its sequences, its classes and, where it masks, the blocks of its network."""

from __future__ import annotations

from wardround.core.traits import STEADY
from wardround.data.cases import MODALITIES
from wardround.jobs.building import build
from wardround.jobs.recipes import Job


def words(job: Job) -> list[str]:
    """Return what the exit in the job's folder lists; a hospital reads there which words can leave.

    under hospital-level noise no name leaves: [] | in a hidden sum no block's name
    """
    if job.hospital_noise is not None:
        return []
    masked = job.protection is None and STEADY in build(job.sharing, "sharing").traits.breaks
    sampling = job.task["sampling"]["args"]
    named = [*sampling.get("modalities", MODALITIES), *sampling.get("classes", ())]
    return [*named, *(_blocks(job) if masked else ())]


def _blocks(job: Job) -> list[str]:
    from wardround.models.blocks import blocks_of

    return list(dict.fromkeys(blocks_of(build(job.task["model"], "model").build(job.task["seed"])).values()))
