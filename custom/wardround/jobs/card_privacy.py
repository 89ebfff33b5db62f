"""What a job's card says about the way to its promise to patients: who else computed its
epsilon, and what a network costs whose layers have no formula.
"""

from __future__ import annotations

from wardround.dp.second_accountant import ERROR, NAME
from wardround.jobs.building import build
from wardround.jobs.own_classes import ANY_NETWORK, MONAI_NETWORK
from wardround.jobs.recipes import Job

# Networks that a job names by their class; ready-made ones have a formula for every layer.
NAMED = (ANY_NETWORK, MONAI_NETWORK)


def privacy_notes(job: Job) -> list[str]:
    """Return sentences without their full stop; none for a job that does not hide patients."""
    if job.dp is None or job.dp["unit"] != "patient":
        return []
    return [words for words in (_second(job.dp.get("epsilon_by_opacus")), _slow(job)) if words]


def _second(epsilon: float | None) -> str:
    if epsilon is None:
        return ""
    return (
        f"{NAME[0].upper()}{NAME[1:]} says epsilon {epsilon:.3g}, an upper bound like ours. A hospital's budget counts ours, "
        f"or the second one where it is larger by more than its own error can explain ({3 * ERROR:g})"
    )


def _slow(job: Job) -> str:
    from wardround.models.network_fit import slow_road

    if job.task["model"]["path"] not in NAMED:
        return ""
    layer = slow_road(build(job.task["model"], "model"))
    if layer is None:
        return ""
    return (
        f"Gradients of single patients are computed by Opacus, because wardround has no formula for {layer}. The promise is "
        "the same; a step takes about 1.7 times as long"
    )
