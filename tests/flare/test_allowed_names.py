"""The exit and the server accept the names of THIS job's task, from its list, and no pattern."""

from __future__ import annotations

from typing import Any

import pytest
from outbounds import leaving, outbound

from wardround.errors import ReleaseRefused
from wardround.flare import wire
from wardround.jobs import folder, recipes
from wardround.messages import names

JOBS = ("brats_fedavg", "tumour_type_fedavg")


def scores(name: str) -> dict[str, object]:
    return {
        "candidates": {"local": {"test": {name: {"value": 0.5}}}},
        "deploy": None,
        "val_score": None,
        "seconds": None,
    }


def exit_words(job: str) -> list[str]:
    components = folder.client_config(recipes.job(job))["components"]
    found: list[str] = next(one["args"]["allowed_names"] for one in components if one["id"] == "outbound")
    return found


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", ["dice_of_patient_3", "dice_liver", "hd95_mm_", "dice", "missed_mean", "t1", "ring"])
def test_an_unknown_score_does_not_pass_the_filter_nor_the_server(context: Any, job: str, name: str) -> None:
    with pytest.raises(ReleaseRefused):
        leaving(wire.scores_message(scores(name)), context(wire.FINISH), outbound(names=exit_words(job)))
    about = folder.server_config(recipes.job(job))["workflows"][0]["args"]["about"]
    assert about["names"] == exit_words(job)
    with pytest.raises(ReleaseRefused):
        wire.read_scores(wire.scores_message(scores(name)), about["names"])
    with pytest.raises(ReleaseRefused):
        wire.read_scores(wire.scores_message(scores(name)))


def test_the_scores_of_one_task_are_not_those_of_another() -> None:
    for job, own, other in ((JOBS[0], "dice_WT", "accuracy"), (JOBS[1], "accuracy", "dice_WT")):
        words = exit_words(job)
        assert wire.read_scores(wire.scores_message(scores(own)), words) == scores(own)
        with pytest.raises(ReleaseRefused):
            wire.read_scores(wire.scores_message(scores(other)), words)


def test_a_name_of_a_score_or_of_masks_is_no_name_of_an_image() -> None:
    for word in ("dice_WT", "labels brats", "brats"):
        with pytest.raises(ReleaseRefused):
            wire.require_named({"modalities": {word: 3}}, exit_words(JOBS[0]))
    wire.require_named({"modalities": {"t1": 3}}, exit_words(JOBS[0]))


def test_a_list_without_scores_or_kinds_of_masks_allows_the_shipped_ones_and_no_others() -> None:
    for words in (None, (), ("t1", "t2")):
        found = names.allowed(words)
        assert (found.metrics, found.label_kinds) == (names.SHIPPED.metrics, names.SHIPPED.label_kinds)
        assert found.others == tuple(words or ())


def test_under_hospital_level_noise_the_kinds_of_masks_alone_are_listed() -> None:
    assert exit_words("brats_dp_adaptive") == ["labels brats", "labels whole_tumour"]
