"""The outbound filter and the server accept the names of THIS job's task, from its list, and no pattern.

The filter of a job with secure aggregation is in test_outbound_secagg.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_context import FLContext
from outbounds import leaving, outbound

from wardround.compression.chosen import HalfPrecision
from wardround.core.errors import ReleaseRefused
from wardround.data.cases import MODALITIES
from wardround.flare import compressed_messages, plaintext_messages, secagg_messages
from wardround.flare.outbound import ID, NONE, Outbound
from wardround.jobs import folder, recipes
from wardround.jobs.building import build
from wardround.jobs.job_classes import classes
from wardround.messages import allowed_names as allowed_names_
from wardround.messages.secagg import Reply
from wardround.messages.statements import Signed

JOBS = ("brats_fedavg", "tumour_type_fedavg")
SECAGG = "brats_fedavg_he"
STRANGE = ("dice_of_patient_3", "dice_liver", "hd95_mm_", "dice", "missed_mean", "t1", "ring")
KINDS = ("organs", "labels brats", "patient 3", "t1", "")


def scores(name: str) -> dict[str, Any]:
    return {
        "candidates": {"local": {"test": {name: {"value": 0.5}}}},
        "deploy": None,
        "val_score": None,
        "seconds": None,
    }


def allowed_names(job: str) -> list[str]:
    found: list[str] = folder.outbound(recipes.job(job))["allowed_names"]
    return found


def server(job: str, **changed: Any) -> Any:
    """Return the server's half of a job, built from its printed config."""
    config = folder.server_config(recipes.job(job))["workflows"][0]["args"]["mode"]
    config["args"] |= changed
    return build(config, "mode", tuple(classes(config)))


def judged(name: str) -> Reply:
    common = {"kind": "judged", "site": "site-1", "run": "ab", "round": 2, "attempt": 0, "model": "bb", "job": "cc"}
    signed = Signed(json.dumps(common, sort_keys=True, separators=(",", ":")), b"s", b"c")
    return Reply(signed, b"", {"scores": scores(name)})


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", STRANGE)
def test_an_unknown_score_passes_neither_the_filter_nor_the_server(
    job: str, name: str, context: Callable[..., FLContext]
) -> None:
    message = plaintext_messages.scores_message(scores(name))
    with pytest.raises(ReleaseRefused):
        leaving(message, context(plaintext_messages.FINISH), outbound(names=allowed_names(job)))
    with pytest.raises(ReleaseRefused):
        server(job).decode(plaintext_messages.FINISH, message)
    with pytest.raises(ReleaseRefused):
        plaintext_messages.read_scores(message)


@pytest.mark.parametrize("name", STRANGE)
def test_nor_the_server_of_a_secure_sum(name: str) -> None:
    its = server(SECAGG)
    with pytest.raises(ReleaseRefused):
        its.decode(plaintext_messages.FINISH, secagg_messages.reply_message(judged(name)))
    assert its.decode(plaintext_messages.FINISH, secagg_messages.reply_message(judged("dice_WT"))) == judged("dice_WT")


def test_a_server_accepts_the_names_of_its_own_list_alone() -> None:
    organs = ["ct", "labels organs", "dice_spleen"]
    for job, message in (
        (JOBS[0], lambda name: plaintext_messages.scores_message(scores(name))),
        (SECAGG, lambda name: secagg_messages.reply_message(judged(name))),
    ):
        its = server(job, allowed_names=organs)
        its.decode(plaintext_messages.FINISH, message("dice_spleen"))
        with pytest.raises(ReleaseRefused):
            its.decode(plaintext_messages.FINISH, message("dice_WT"))


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_kind_of_labels_passes_neither_the_filter_nor_the_server(
    job: str, kind: str, update: Callable[..., plaintext_messages.Update], context: Callable[..., FLContext]
) -> None:
    message = plaintext_messages.update_message(update(label_kind=kind))
    with pytest.raises(ReleaseRefused):
        leaving(message, context(plaintext_messages.TRAIN), outbound(names=allowed_names(job)))
    with pytest.raises(ReleaseRefused):
        server(job).decode(plaintext_messages.TRAIN, message)


def test_nor_does_it_beside_a_compressed_update(update: Callable[..., plaintext_messages.Update]) -> None:
    its = server(JOBS[0], compression=HalfPrecision())
    name = its.compression.name
    halved = {"model:w": np.ones((2, 3), np.float16)}
    its.decode(plaintext_messages.TRAIN, compressed_messages.update_message(update(halved), name))
    with pytest.raises(ReleaseRefused):
        its.decode(
            plaintext_messages.TRAIN, compressed_messages.update_message(update(halved, label_kind="organs"), name)
        )


def test_the_scores_of_one_task_are_not_those_of_another() -> None:
    for job, own, other in ((JOBS[0], "dice_WT", "accuracy"), (JOBS[1], "accuracy", "dice_WT")):
        listed = allowed_names(job)
        assert plaintext_messages.read_scores(plaintext_messages.scores_message(scores(own)), listed) == scores(own)
        with pytest.raises(ReleaseRefused):
            plaintext_messages.read_scores(plaintext_messages.scores_message(scores(other)), listed)


def test_a_name_of_a_score_or_of_masks_is_no_name_of_an_image() -> None:
    for word in ("dice_WT", "labels brats", "brats"):
        with pytest.raises(ReleaseRefused):
            plaintext_messages.require_named({"modalities": {word: 3}}, allowed_names(JOBS[0]))
    plaintext_messages.require_named({"modalities": {"t1": 3}}, allowed_names(JOBS[0]))


def test_a_list_without_scores_or_kinds_of_masks_allows_the_shipped_ones_and_no_others() -> None:
    for words in (None, (), ("t1", "t2")):
        found = allowed_names_.allowed(words)
        assert (found.metrics, found.label_kinds) == (
            allowed_names_.SHIPPED.metrics,
            allowed_names_.SHIPPED.label_kinds,
        )
        assert found.others == tuple(words or ())


def test_under_hospital_level_noise_the_kinds_of_masks_alone_are_listed() -> None:
    assert allowed_names("brats_dp_adaptive") == ["labels brats", "labels whole_tumour"]


@pytest.mark.parametrize("job", recipes.names())
def test_the_server_of_a_printed_job_has_the_list_of_its_sites(job: str) -> None:
    mode = folder.server_config(recipes.job(job))["workflows"][0]["args"]["mode"]
    assert mode["args"]["allowed_names"] == allowed_names(job)


def test_a_site_with_another_list_is_in_no_sum(federation: Callable[..., Any]) -> None:
    """The list is part of what the sites of a sum have in common, whatever config each of them was given."""
    played = federation("masked")
    site = played.sites["site-2"]
    site.outbound = Outbound(NONE, NONE, site.promise, [*MODALITIES, "dice_WT"])
    site.engine.components[ID] = site.outbound
    played.run()
    assert len(played.problems) == 1
    assert "site-2 was lost in the join: it serves another job, or other settings of it" in played.problems[0]
