"""The recipe of one noise of all hospitals: noise from a target, the trust in words, and what is refused when it is printed."""

from __future__ import annotations

import pytest

from wardround.core.errors import ConfigRefused
from wardround.dp.accounting import claim
from wardround.dp.joint_dp import JointDP
from wardround.dp.releases import GaussianRelease
from wardround.flare.reported_privacy import dp_of
from wardround.jobs import folder, recipes
from wardround.jobs.building import require_buildable

NAME = "brats_dp_joint"


@pytest.mark.parametrize(("target", "num_rounds"), [(8.0, 30), (1.0, 60)])
def test_the_noise_keeps_the_job_within_its_target(target: float, num_rounds: int) -> None:
    job = recipes.job(NAME, [f"dp.target_epsilon={target}", f"num_rounds={num_rounds}"])
    z = job.privacy["mechanism"]["args"]["promise"]["args"]["noise_multiplier"]
    within, below = (
        claim([GaussianRelease("patient", noise, num_rounds, in_shares=True)], "patient", 1e-5).epsilon
        for noise in (z, z - 2e-4)
    )
    assert within <= target < below
    assert job.dp is not None
    assert job.dp["epsilon"] == pytest.approx(target, abs=0.01)


def test_the_promise_is_for_the_quorum_of_the_sum_and_the_report_says_whom_to_trust() -> None:
    job = recipes.job(NAME, ["federation.min_clients=5", "dp.colluders=1"], [f"site-{n}" for n in range(1, 9)])
    promise = JointDP(**job.privacy["mechanism"]["args"]["promise"]["args"])
    assert (promise.min_clients, promise.shares, promise.sites) == (5, 3, 16)
    said = dp_of(job.privacy["mechanism"], job.dp or {})
    assert (
        said["epsilon_all_honest"]
        < said["epsilon"]
        < said["epsilon_one_without_noise"]
        < said["epsilon_patient_replaced"]
    )
    assert {key: value for key, value in (job.dp or {}).items() if key in said}.items() <= said.items()
    words = " ".join(folder.job_files(job)["CARD.md"].split())
    assert "the one above if one of them tells what noise they added" in words
    assert "if one more adds no noise, which nobody would see" in words


def test_a_quorum_of_nothing_but_the_reader_and_colluders_promises_nothing_more() -> None:
    job = recipes.job(NAME, ["dp.colluders=1"])
    assert job.dp is not None
    assert job.dp["epsilon_one_without_noise"] == "infinite"
    assert "infinite if one more adds no noise" in job.privacy["guarantee"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["dp.colluders=2"], "nobody's noise is left"),
        (["model.weights=none"], "a public warm start"),
        (["secagg.masks=false"], "masks"),
        (["privacy=secagg_masks"], "would be opened without the one noise"),
        (["privacy=plaintext"], "would be opened without the one noise"),
        (["privacy=dp_patient"], "would be opened|private gradients"),
        (["sharing.train=[adapter]"], "without any such block"),
        (["dp.max_patients=0"], "max_patients"),
        (["algorithm.patches=0"], "patches"),
        (["server_optimizer=mean", "aggregation=median"], "one by one"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_it_is_printed(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigRefused, match=words):
        require_buildable(recipes.job(NAME, settings))


def test_other_algorithms_have_no_joint_noise() -> None:
    with pytest.raises(ConfigRefused, match="trains at the hospital before it sends"):
        require_buildable(recipes.job("brats_fedavg", ["privacy=dp_joint"]))


@pytest.mark.parametrize(
    "settings",
    [
        ["sharing.train=[affine,head]"],
        ["model.adapter_rank=4", "sharing.train=[affine,adapter]", "model.weights=randomised_phantoms"],
    ],
)
def test_head_and_adapters_are_options(settings: list[str]) -> None:
    require_buildable(recipes.job(NAME, settings))


def test_noise_of_one_hospital_takes_the_warm_start_and_affine_parts_too() -> None:
    job = recipes.job("brats_dp_patient", ["model.weights=randomised_phantoms", "sharing=affine_alone"])
    require_buildable(job)
    assert job.task["model"]["args"]["weights"]["shipped"] == "randomised_phantoms"
    assert job.sharing["args"] == {"train": ["affine"]}
