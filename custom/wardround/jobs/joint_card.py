"""What CARD.md says of a job with joint steps under one noise of all hospitals."""

from __future__ import annotations

from wardround.jobs.building import build, shared_layout
from wardround.jobs.job import Job


def joint_round(job: Job) -> str:
    """Return what a hospital does in every round, and what it trains by itself at the end."""
    schedule, patches = job.schedule, job.algorithm["site"]["args"]["patches"]
    local = schedule["num_rounds"] * schedule["work"]
    return (
        f"In every round each hospital computes, for each of its training patients, the gradient over {patches} augmented "
        "patches with respect to what is trained, clips it, and sends the sum of all with its share of the noise; every "
        "hospital takes the same step along the revealed sum, divided by a public number of patients. After the last "
        f"round it trains a local model ({local} gradient evaluations, from the same first weights), scores the first weights "
        "as they were, of which nothing private was released, "
    )


def joint_cost(job: Job) -> str:
    """Return how much of a run with one noise of all hospitals can be signal."""
    from wardround.dp.joint_dp import signal_to_noise

    promise = build(job.privacy["mechanism"]["args"]["promise"], "promise")
    values, hospitals = shared_layout(job).total, len(job.federation["sites"])
    ratio = signal_to_noise(promise, hospitals, promise.reference_patients, values, job.schedule["num_rounds"])
    return (
        f"{values:,} numbers are trained: with {promise.reference_patients} training patients at {hospitals} hospitals the signal "
        f"of the whole run is at best {ratio:.2f} times the noise (N mu / sqrt(numbers), times what the quorum costs). What it "
        "is worth is the gain over the first weights, which the hospital's own report shows beside it"
    )
